"""Connections to Redis: short timeouts, loud errors, one place where Lua files are loaded."""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import ExponentialBackoff
from redis.cluster import ClusterPipeline
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from tts_tasks import keys
from tts_tasks.errors import ConfigurationError, UnavailableError
from tts_tasks.redis_topology import Cluster, node_serving, one_server, sentinel_master
from tts_tasks.redis_url import beyond_one_server, parse_redis_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis.commands.core import Script

#: A client as `connect` makes it. redis-py's types cannot tell that it answers with str, not bytes.
RedisClient = Any

#: How long a client waits for one answer before it calls Redis unreachable.
CLIENT_TIMEOUT_S = 2.0

#: What a Redis answers that is there but cannot write now: full, a replica, voting.
_REFUSALS = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
#: The same where redis-py has no class for it: persistence fails, too few replicas, a master that
#: became a replica while a command waited, a script that does not end.
_REFUSAL_WORDS = re.compile(r"(?:^|caused error: )(?:MISCONF|NOREPLICAS|UNBLOCKED|BUSY)\b")

#: Not by parsing: a URL too broken to parse must not show its password either.
_USER_INFO = re.compile(r"(://)[^?#;\s]*@")
_PASSWORD_PARAMETER = re.compile(r"([?&](?:\w*_)?password=)[^&#]*")


def connect(
    url: str, *, timeout_s: float = CLIENT_TIMEOUT_S, retries: int = 1, node_of: str = ""
) -> RedisClient:
    """Return a client (lazily connected, thread-safe); raises `ConfigurationError` for a bad URL.

    ``timeout_s`` bounds one try of one request; ``retries`` more are made on a new connection.
    With Sentinels or a cluster, finding the server takes requests of its own. ``node_of``: of a
    cluster, only the node that serves this key, on connections that stay there.
    """
    retry = Retry(ExponentialBackoff(cap=0.2, base=0.02), retries)
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        # a half-open connection must not swallow a command for minutes
        "health_check_interval": 3,
    }
    try:
        beyond = parse_redis_url(url)
        if beyond is None:
            return one_server(url, retry=retry, **options)
    except ConfigurationError as error:
        shown = without_password(url).partition("?")[0]  # whatever the parameter should have been
        raise ConfigurationError(f"TTS_REDIS_URL {shown!r}: {error}") from None
    if beyond.kind == "sentinel":
        return sentinel_master(beyond, timeout_s=timeout_s, retry=retry, **options)
    if node_of:
        return node_serving(beyond, node_of, retry=retry, **options)
    return Cluster(beyond, retry=retry, **options)


@lru_cache(maxsize=8)
def shared_client(url: str) -> RedisClient:
    """Return this process's client for a URL: one pool of connections, whoever asks."""
    return connect(url)


def without_password(url: str) -> str:
    """Return the URL as it may be shown to people and written to logs."""
    url = _USER_INFO.sub(r"\1***@", url)
    return _PASSWORD_PARAMETER.sub(r"\1***", url)


@contextmanager
def unavailable_is_clear(url: str) -> Iterator[None]:
    """Turn "cannot reach Redis" into an `UnavailableError` that says what to do."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise ConfigurationError(
            f"Redis at {without_password(url)} refused the password: {error}; check TTS_REDIS_URL"
        ) from error
    except (redis.ConnectionError, redis.TimeoutError, RedisClusterException) as error:
        hint = (
            "" if beyond_one_server(url) else ": start one with `ttsctl up`, or set TTS_REDIS_URL"
        )
        raise UnavailableError(f"no Redis at {without_password(url)} ({error}){hint}") from error
    except redis.ResponseError as error:
        if not isinstance(error, _REFUSALS) and not _REFUSAL_WORDS.search(str(error)):
            raise
        raise UnavailableError(
            f"Redis at {without_password(url)} refuses to work now: {error}"
        ) from error


def in_order(client: RedisClient, *steps: Callable[[RedisClient], object]) -> list[Any]:
    """Run steps one after the other; each queues commands on the pipeline it is given.

    One round trip where one server keeps the order, one each on a cluster, whose nodes do not
    wait for each other. Returns the answers of all.
    """
    if not isinstance(client, Cluster):
        pipe = client.pipeline(transaction=False)
        for step in steps:
            step(pipe)
        return list(pipe.execute())
    answers: list[Any] = []
    for step in steps:
        pipe = client.pipeline(transaction=False)
        step(pipe)
        answers += pipe.execute()
    return answers


def server_of(client: RedisClient, key: str) -> dict[str, Any]:
    """Return the option by which a command without keys goes to the server that has ``key``."""
    return {"target_nodes": client.node_of(key)} if isinstance(client, Cluster) else {}


def server_time_ms(client: RedisClient) -> int:
    """Return Redis's time in ms; of a cluster, that of one node, the same for everybody."""
    now_s, micros = client.time(**server_of(client, keys.WORKERS))
    return int(now_s) * 1000 + int(micros) // 1000


@lru_cache(maxsize=64)
def _source(package: str, name: str) -> str:
    return resources.files(package).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")


class Scripts:
    """The Lua scripts of one package, registered on one client by file name."""

    def __init__(self, client: RedisClient, package: str) -> None:
        self._client = client
        self._package = package
        self._scripts: dict[str, Script] = {}

    def run(
        self, name: str, keys: list[str], args: list[Any], client: RedisClient | None = None
    ) -> Any:
        """Run ``scripts/<name>.lua``; with a pipeline as ``client``, queue it there."""
        if isinstance(client, ClusterPipeline):
            # it takes no EVALSHA: a node that has just taken over would not know the script
            source = _source(self._package, name)
            pipe: Any = client  # without types
            return pipe.execute_command("EVAL", source, len(keys), *keys, *args)
        script = self._scripts.get(name)
        if script is None:
            script = self._client.register_script(_source(self._package, name))
            self._scripts[name] = script
        return script(keys=keys, args=args, client=client)
