"""Redis beyond one node, for tests: a Sentinel set and a cluster of real servers on loopback.

All files lie in one directory, and every server ends with the thread that started it.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.waiting import eventually
from tts_tasks.app import app
from tts_tasks.celeryconfig import celery_configuration
from tts_tasks.settings import get_settings
from ttsctl.supervisor.processes import launch
from ttsctl.supervisor.redis_server import LOOPBACK, find_server, free_port

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from types import TracebackType

DOWN_AFTER_MS = 1000
MASTER_NAME = "mymaster"
_HASTE = ("publish-period", "500", "info-period", "1000")


@dataclass
class Node:
    """One server process and a client of it."""

    name: str
    directory: Path
    configuration: str
    port: int
    password: str
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] = field(init=False)
    client: redis.Redis = field(init=False)

    @property
    def url(self) -> str:
        """Where this one server is reached."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Write the configuration, unless the server has rewritten it, and start."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "redis.conf"
        if not path.exists():
            path.write_text(self.configuration)
        self.process = launch(
            [str(find_server()), "redis.conf", *self.arguments],
            environment=os.environ,
            directory=self.directory,
            log_path=self.directory / "redis.log",
        )
        self.client = redis.Redis(
            host=LOOPBACK,
            port=self.port,
            password=self.password,
            decode_responses=True,
            socket_timeout=2.0,
            retry=Retry(NoBackoff(), 0),
        )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the server."""
        self.process.send_signal(number)

    def answers(self) -> bool:
        """Whether it takes commands."""
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            assert self.process.poll() is None, (self.directory / "redis.log").read_text()
            return False

    def is_replica_without(self, key: str) -> bool:
        """Whether it follows another one and lacks this key; False if it does not answer now."""
        try:
            role = self.client.info("replication")["role"]
            return bool(role == "slave" and not self.client.exists(key))
        except redis.RedisError:
            return False

    def stop(self) -> None:
        """End it, stopped or not."""
        self.client.close()
        self.process.kill()
        self.process.wait()


def _documented(file: str, **words: str) -> str:
    """Return a configuration of the how-to, its words in capitals replaced."""
    page = Path(__file__).parents[1] / "docs" / "how-to" / "sentinel.md"
    blocks = re.findall(r"```conf\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (text,) = (block for block in blocks if block.startswith(f"# {file}\n"))
    for word, value in words.items():
        text = re.sub(rf"\b{word}\b", value, text)
    return str(text)


def _server(name: str, root: Path, password: str, configuration: str, *lines: str) -> Node:
    """Return a server with that configuration; a line that comes later has the last word."""
    port = free_port()
    ours = [f"bind {LOOPBACK}", f"port {port}", "dir .", 'logfile ""', *lines]
    return Node(
        name, root / f"{name}-{port}", f"{configuration}\n" + "\n".join(ours) + "\n", port, password
    )


class _Topology:
    """Servers that start and stop together."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nodes: list[Node] = []

    def _start(self, nodes: list[Node]) -> None:
        self.nodes += nodes
        for node in nodes:
            node.start()
        for node in nodes:
            eventually(node.answers, what=f"{node.name} answers", every_s=0.02)

    def _arrange(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self._arrange()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every server."""
        for node in self.nodes:
            with suppress(AttributeError):  # it was not started
                node.stop()


class SentinelSet(_Topology):
    """One master, two replicas, three Sentinels with a password of their own."""

    def __init__(
        self, root: Path, *, min_replicas_to_write: int = 1, down_after_ms: int = DOWN_AFTER_MS
    ) -> None:
        super().__init__(root)
        self._min_replicas = min_replicas_to_write
        self._down_after_ms = down_after_ms
        self.servers: list[Node] = []
        self.sentinels: list[Node] = []

    def _arrange(self) -> None:
        password, sentinel_password = secrets.token_hex(8), secrets.token_hex(8)
        configuration = _documented("redis.conf", PASSWORD=password)
        rules = [
            f"min-replicas-to-write {self._min_replicas}",
            "repl-diskless-sync-delay 0",
            'save ""',
        ]
        master = _server("redis", self.root, password, configuration, *rules)
        rules.append(f"replicaof {LOOPBACK} {master.port}")
        replicas = [_server("redis", self.root, password, configuration, *rules) for _ in range(2)]
        self.servers = [master, *replicas]
        self._start(self.servers)
        # before the Sentinels ask: they ask again only ten seconds later
        eventually(lambda: self._good_replicas(master) == 2, what="both follow", every_s=0.02)
        configuration = _documented(
            "sentinel.conf",
            PASSWORD=password,
            SENTINEL_PASSWORD=sentinel_password,
            **{"MASTER_HOST 6379": f"{LOOPBACK} {master.port}"},
        )
        down = f"sentinel down-after-milliseconds {MASTER_NAME} {self._down_after_ms}"
        self.sentinels = [
            _server("sentinel", self.root, sentinel_password, configuration, down) for _ in range(3)
        ]
        for sentinel in self.sentinels:
            sentinel.arguments = ("--sentinel",)
        self._start(self.sentinels)
        for sentinel in self.sentinels:
            # By default an old master that comes back is made a replica after ten seconds.
            sentinel.client.execute_command("SENTINEL", "DEBUG", *_HASTE)
        eventually(self._know_each_other, what="the Sentinels know all", every_s=0.02)

    def _know_each_other(self) -> bool:
        for sentinel in self.sentinels:
            known: dict[str, Any] = sentinel.client.sentinel_master(MASTER_NAME)
            if known["num-slaves"] != 2 or known["num-other-sentinels"] != 2:
                return False
        return True

    def _good_replicas(self, master: Node) -> int:
        about: dict[str, Any] = master.client.info("replication")
        return int(about["min_slaves_good_slaves" if self._min_replicas else "connected_slaves"])

    @property
    def url(self) -> str:
        """The setting ``TTS_REDIS_URL``."""
        hosts = ",".join(f"{LOOPBACK}:{sentinel.port}" for sentinel in self.sentinels)
        return (
            f"sentinel://:{self.servers[0].password}@{hosts}/{MASTER_NAME}/0"
            f"?sentinel_password={self.sentinels[0].password}"
        )

    def master(self) -> Node | None:
        """The master that all Sentinels name; None while they do not agree."""
        named = {
            sentinel.client.sentinel_get_master_addr_by_name(MASTER_NAME)
            for sentinel in self.sentinels
        }
        ports = {int(address[1]) for address in named if address}
        servers = [server for server in self.servers if server.port in ports]
        return servers[0] if len(servers) == 1 else None

    def promoted(self, old: Node) -> Callable[[], Node | None]:
        """Return what to ask until another server is the master, and takes writes."""

        def ask() -> Node | None:
            new = self.master()
            if new is None or new is old:
                return None
            with suppress(redis.RedisError):
                return new if new.client.info("replication")["role"] == "master" else None
            return None

        return ask


class RedisCluster(_Topology):
    """Three masters with a third of the slots each."""

    def _arrange(self) -> None:
        password = secrets.token_hex(8)
        rules = [f"requirepass {password}", "cluster-enabled yes", "appendonly yes", 'save ""']
        bus_ports = [free_port() for _ in range(3)]  # the default is port + 10000, if there is one
        self._start(
            [
                _server("node", self.root, password, "", *rules, f"cluster-port {port}")
                for port in bus_ports
            ]
        )
        first, *others = self.nodes
        bounds = [0, 5461, 10923, 16384]
        for number, node in enumerate(self.nodes):
            node.client.execute_command(
                "CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1
            )
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus_port in zip(others, bus_ports[1:], strict=True):
            first.client.execute_command("CLUSTER", "MEET", LOOPBACK, node.port, bus_port)
        eventually(self._is_whole, what="the nodes are a cluster", every_s=0.02)

    def _is_whole(self) -> bool:
        return all(
            {"cluster_state:ok", f"cluster_known_nodes:{len(self.nodes)}"}
            <= set(str(node.client.execute_command("CLUSTER", "INFO")).split())
            for node in self.nodes
        )

    def empty(self) -> None:
        """Remove all data."""
        for node in self.nodes:
            node.client.flushall()

    @property
    def url(self) -> str:
        """The setting ``TTS_REDIS_URL``."""
        hosts = ",".join(f"{LOOPBACK}:{node.port}" for node in self.nodes)
        return f"cluster://:{self.nodes[0].password}@{hosts}"


@contextmanager
def this_process_uses(**environment: str) -> Iterator[None]:
    """Let `tts_tasks` in this process, and what it starts, have these settings for a while."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    _configure_anew()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        _configure_anew()


def _configure_anew() -> None:
    get_settings.cache_clear()
    app.conf.update(celery_configuration(get_settings()))
    app._after_fork()  # lets go of the pools of connections to the broker before
    app._backend_cache = None
    app._local.__dict__.pop("backend", None)
