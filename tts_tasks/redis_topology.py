"""Clients of a Redis beyond one server: the master that Sentinels name, and a Redis Cluster."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import RedisClusterException
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
)
from redis.utils import str_if_bytes

if TYPE_CHECKING:
    from redis.retry import Retry

    from tts_tasks.redis_url import RedisUrl

#: How often a client of Sentinels asks, while it works, whether its master still is the master.
MASTER_ASKED_EVERY_S = 1.0


# -- one server -----------------------------------------------------------------------------------


class _LeavesReplicas(AbstractConnection):
    """A connection that is given up when its server refuses writes for being a replica.

    Behind one address there may be another server tomorrow: whoever connects again finds it.
    """

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except redis.ReadOnlyError as error:
            self.disconnect()
            raise redis.ConnectionError(f"this server is a replica now ({error})") from error


class _TcpConnection(_LeavesReplicas, Connection):
    pass


class _TlsConnection(_LeavesReplicas, SSLConnection):
    pass


class _UnixConnection(_LeavesReplicas, UnixDomainSocketConnection):
    pass


_CONNECTIONS: dict[type, type] = {
    Connection: _TcpConnection,
    SSLConnection: _TlsConnection,
    UnixDomainSocketConnection: _UnixConnection,
}


def one_server(url: str, **options: Any) -> redis.Redis:
    """Return a client of one server; raises ValueError for a URL that redis-py does not know."""
    client = redis.Redis.from_url(url, **options)
    pool = client.connection_pool
    pool.connection_class = _CONNECTIONS[pool.connection_class]
    return client


# -- Sentinels ------------------------------------------------------------------------------------


class _Sentinels(Sentinel):
    """Asks the Sentinels for the master, with fewer words where there is none.

    redis-py asks for their state, in which the Sentinel that leads a promotion shows the old master
    until all replicas follow the new one. What they tell those who ask for an address is right.
    """

    def discover_master(self, service_name: str) -> tuple[str, int]:
        try:
            address: tuple[str, int] = super().discover_master(service_name)
        except MasterNotFoundError as error:
            if "AuthenticationError" in str(error):
                raise redis.AuthenticationError(
                    "the Sentinels want another password: see sentinel_password in the URL"
                ) from None
            raise MasterNotFoundError(
                f"no Sentinel names a master {service_name!r} that is up"
            ) from None
        with suppress(redis.ConnectionError, redis.TimeoutError):
            # redis-py has put the one that has answered in front
            named: Any = self.sentinels[0].sentinel_get_master_addr_by_name(service_name)
            if named:
                return str_if_bytes(named[0]), int(named[1])
        return address


class _MasterConnection(SentinelManagedConnection):
    """A connection that asks its server whether it is a master: Sentinels may not know yet."""

    def connect_to(self, address: tuple[str, int]) -> None:
        super().connect_to(address)
        try:
            self.send_command("ROLE")
            role = self.read_response()[0]
        except BaseException:
            self.disconnect()
            raise
        if role not in ("master", b"master"):
            self.disconnect()
            raise redis.ConnectionError(f"{address[0]}:{address[1]} is a replica now")


class _FollowingPool(SentinelConnectionPool):
    """Connections to the master, which ask from time to time who that is.

    Connections of redis-py's own pool stay with an old master that was paused or cut off while
    nobody used them; when it comes back it takes writes for seconds, which are thrown away later.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._ask_at_s = 0.0
        super().__init__(*args, **options)

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """Return a connection to whom the Sentinels named within the last second."""
        now_s = time.monotonic()
        if now_s >= self._ask_at_s:
            self._ask_at_s = now_s + MASTER_ASKED_EVERY_S
            # the Sentinels being away is no reason to stop while the master answers
            with suppress(redis.ConnectionError, redis.TimeoutError):
                self.get_master_address()  # lets go of connections to another one
        return super().get_connection(*args, **options)


def sentinel_master(url: RedisUrl, *, timeout_s: float, retry: Retry, **options: Any) -> Any:
    """Return a client of the master that the Sentinels name, whichever that is."""
    sentinels = _Sentinels(
        url.hosts, sentinel_kwargs=sentinel_options(url, timeout_s=timeout_s), **options
    )
    return sentinels.master_for(
        url.master_name,
        connection_pool_class=_FollowingPool,
        connection_class=_MasterConnection,
        db=url.db,
        retry=retry,
        **url.credentials,
    )


def sentinel_options(url: RedisUrl, *, timeout_s: float) -> dict[str, Any]:
    """Return redis-py's options of connections to the Sentinels themselves.

    They are plain values: Celery's configuration, which holds them too, is pickled.
    """
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": None,  # the next Sentinel is asked instead
        **url.sentinel_credentials,
    }


# -- a cluster ------------------------------------------------------------------------------------


class _Cluster(RedisCluster):
    """redis-py's client of a cluster; "no node can be reached" is a `redis.ConnectionError`."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)
        except RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error


class Cluster:
    """A Redis Cluster, connected at its first use as other clients are; thread-safe."""

    def __init__(self, url: RedisUrl, *, retry: Retry, **options: Any) -> None:
        self._url = url
        self._options = {"retry": retry, **url.credentials, **options}
        self._mutex = threading.Lock()
        self._client: _Cluster | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connected(), name)

    def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            self._client.close()

    def node_of(self, key: str) -> ClusterNode:
        """Return the node that serves a key now."""
        node: ClusterNode | None = self._connected().get_node_from_key(key)
        if node is None:
            raise redis.ConnectionError(f"no node of the cluster serves {key}")
        return node

    def forget_nodes(self) -> None:
        """Ask anew who serves what: some node has changed."""
        try:
            self._connected().nodes_manager.initialize()
        except RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error

    def _connected(self) -> _Cluster:
        with self._mutex:
            if self._client is None:
                nodes = [ClusterNode(host, port) for host, port in self._url.hosts]
                try:
                    self._client = _Cluster(startup_nodes=nodes, **self._options)
                except RedisClusterException as error:
                    if isinstance(error.__cause__, redis.AuthenticationError):
                        raise error.__cause__ from None
                    raise redis.ConnectionError(str(error)) from error
            return self._client


class _NodeConnection(_LeavesReplicas, Connection):
    """A connection to the node of a cluster that serves one key, wherever that moves."""

    def __init__(self, *, cluster: Cluster, key: str, **options: Any) -> None:
        self._cluster = cluster
        self._key = key
        super().__init__(**options)

    def connect(self) -> None:
        """Connect, unless it is connected, to the node that serves the key now."""
        node = self._cluster.node_of(self._key)
        self.host, self.port = node.host, int(node.port)
        super().connect()

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except redis.exceptions.MovedError as error:
            self._cluster.forget_nodes()
            self.disconnect()
            raise redis.ConnectionError(f"{self._key} has moved to another node") from error


def node_serving(url: RedisUrl, key: str, *, retry: Retry, **options: Any) -> redis.Redis:
    """Return a client of the one node of a cluster that serves ``key``, also after it has moved."""
    cluster = Cluster(url, retry=retry, **options)
    options = {"cluster": cluster, "key": key, "retry": retry, **url.credentials, **options}
    return redis.Redis.from_pool(redis.ConnectionPool(_NodeConnection, **options))
