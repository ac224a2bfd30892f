"""What `ttsctl up` is asked for, and the processes that come of it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tts_tasks.errors import ConflictError
from ttsctl.supervisor.processes import ChildSpec, StopStep, launch
from ttsctl.supervisor.redis_server import LOOPBACK, free_port, port_is_free
from ttsctl.supervisor.state import UP_ID_VARIABLE

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tts_tasks.settings import Settings


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """One pool of an `up`."""

    name: str
    engine: str
    workers: int


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the command line of `ttsctl up` asks for. Durations in seconds."""

    gpus: tuple[str, ...] = ("auto", "auto")  #: one for each worker: ``auto``, ``cpu`` or a number
    engine: str | None = None
    #: whose workers they are, in this order; none: all of the pool that the environment names
    pools: tuple[PoolPlan, ...] = ()
    flower: bool = True
    flower_port: int | None = None  #: None: any free one
    wait_s: float = 60.0
    stop_timeout_s: float = 20.0


def configured_redis_url(environment: Mapping[str, str]) -> str:
    """Return the Redis the user has configured; empty when `up` is to run its own."""
    for name, value in environment.items():
        if name.upper() == "TTS_REDIS_URL":
            return value
    return ""


def children_environment(
    settings: Settings, options: UpOptions, *, up_id: str, redis_url: str
) -> dict[str, str]:
    """Return the environment of the processes: where the password is, and the mark of this `up`."""
    environment = {
        name: value for name, value in os.environ.items() if name.upper() != "TTS_REDIS_URL"
    }
    environment |= {
        UP_ID_VARIABLE: up_id,
        "TTS_REDIS_URL": redis_url,
        "TTS_HOME": str(settings.home),
        "PYTHONUNBUFFERED": "1",
    }
    if options.engine:
        environment["TTS_ENGINE"] = options.engine
    return with_absolute_python_path(environment)


def with_absolute_python_path(environment: Mapping[str, str]) -> dict[str, str]:
    """Make PYTHONPATH hold in another directory too: the processes do not run in ours."""
    changed = dict(environment)
    if parts := changed.get("PYTHONPATH", ""):
        absolute = [os.path.abspath(part) for part in parts.split(os.pathsep)]  # noqa: PTH100
        changed["PYTHONPATH"] = os.pathsep.join(absolute)
    return changed


def node_name(worker_name: str, home: Path) -> str:
    """Return a Celery node name that no other TTS_HOME of this host has."""
    mark = hashlib.sha256(os.fsencode(home)).hexdigest()[:6]
    return f"{worker_name}-{mark}@{socket.gethostname()}"


def worker_specs(
    settings: Settings, options: UpOptions, environment: Mapping[str, str]
) -> list[ChildSpec]:
    """Return the workers ``w1`` … ``wN``, one for each of ``options.gpus``."""
    specs = []
    of_pools = [
        {"TTS_POOL": pool.name, "TTS_ENGINE": pool.engine}
        for pool in options.pools
        for _ in range(pool.workers)
    ] or [{}] * len(options.gpus)
    for number, (gpu, of_pool) in enumerate(zip(options.gpus, of_pools, strict=True), start=1):
        name = f"w{number}"
        node = node_name(name, settings.home)
        command = [sys.executable, "-m", "celery", "-A", "tts_tasks", "worker"]
        command += ["-n", node, "--gpu", gpu, "--loglevel", "INFO"]
        log_path = settings.home / "logs" / f"{name}.log"
        spawn = partial(
            launch,
            command,
            environment={**environment, **of_pool},
            directory=settings.home,
            log_path=log_path,
        )
        steps = (
            StopStep(signal.SIGTERM, options.stop_timeout_s),  # finish the job in hand
            StopStep(signal.SIGQUIT, 5.0),  # leave it, hand it back
            StopStep(signal.SIGKILL, 5.0, whole_group=True),
        )
        specs.append(ChildSpec(name, spawn, log_path, steps, node=node))
    return specs


class FlowerPlan:
    """Flower on loopback: its port, its address, and how it is started."""

    def __init__(
        self, settings: Settings, options: UpOptions, environment: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._chosen_port = options.flower_port
        # Its API stays shut (FLOWER_UNAUTHENTICATED_API unset): open, it would let any web page in
        # a browser on this machine drive the workers. The pages that show things do not need it.
        self._environment = dict(environment)
        self.port = options.flower_port or free_port()
        if options.flower_port and not port_is_free(options.flower_port):
            raise ConflictError(
                f"--flower-port {options.flower_port}: something else listens there; "
                "choose another port, or leave it out for any free one"
            )

    @staticmethod
    def is_installed() -> bool:
        """Whether the extra ``flower`` is there."""
        return importlib.util.find_spec("flower") is not None

    @property
    def url(self) -> str:
        """Where its pages are."""
        return f"http://{LOOPBACK}:{self.port}"

    def answers(self) -> bool:
        """Whether it accepts connections."""
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=1.0).close()
        except OSError:
            return False
        return True

    def spec(self) -> ChildSpec:
        """Return Flower as a child; it is not essential: the work goes on without it."""
        log_path = self._settings.home / "logs" / "flower.log"
        steps = (
            StopStep(signal.SIGTERM, 5.0),
            StopStep(signal.SIGKILL, 5.0, whole_group=True),
        )
        return ChildSpec("flower", self._spawner(log_path), log_path, steps, essential=False)

    def _spawner(self, log_path: Path) -> Callable[[], subprocess.Popen[bytes]]:
        def spawn() -> subprocess.Popen[bytes]:
            # The address people have bookmarked, unless somebody took the port meanwhile.
            if self._chosen_port is None and not port_is_free(self.port):
                self.port = free_port()
            command = [sys.executable, "-m", "celery", "-A", "tts_tasks", "flower"]
            command += [f"--address={LOOPBACK}", f"--port={self.port}"]
            return launch(
                command,
                environment=self._environment,
                directory=self._settings.home,
                log_path=log_path,
            )

        return spawn
