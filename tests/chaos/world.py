"""The world of a run: a Redis of its own, workers that can be hurt, a storage that can fill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from tests import glmtts_double
from tests.chaos.network import open_network
from tests.chaos.room import Room
from tts_tasks.app import app
from tts_tasks.celeryconfig import celery_configuration
from tts_tasks.clock import boottime_s
from tts_tasks.cluster import cluster_status
from tts_tasks.errors import TTSError
from tts_tasks.settings import get_settings
from ttsctl.supervisor.processes import launch
from ttsctl.supervisor.redis_server import EmbeddedRedis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.chaos.network import Network
    from tests.chaos.recorder import Recorder

WORKERS = ("w1", "w2", "w3")
#: Seconds of wall time for a second of sound: a short text takes 0.2 to 0.4 s, as on a GPU.
PACED_COST = "0.1"
#: What may speak, and the settings that it needs.
ENGINES: dict[str, dict[str, str]] = {"espeak": {}, "glmtts": glmtts_double.environment()}
HANG_MARK = "卡住"

_POLL_S = 0.05
_STOP_GRACE_S = 20.0
#: A worker that cannot start at all must not be started a hundred times.
_RESPAWN_S = 1.0


class ChaosError(Exception):
    """The experiment itself failed: this says nothing about the system."""


def wait_for(ask: Callable[[], Any], *, within_s: float, every_s: float = _POLL_S) -> Any:
    """Return the first true answer, or the last false one after ``within_s``."""
    deadline_s = time.monotonic() + within_s
    while not (answer := ask()) and time.monotonic() < deadline_s:
        time.sleep(every_s)
    return answer


@dataclass
class WorkerProcess:
    """One life of a worker. ``node`` begins its id in the cluster, and is never used again."""

    name: str
    node: str
    process: subprocess.Popen[bytes]
    log: Path
    doomed: bool = False  #: its end was ordered: it is no surprise
    hurt: bool = field(default=False, compare=False)  #: a fault has it in hand

    @property
    def alive(self) -> bool:
        """Whether its parent process exists (stopped or not)."""
        return self.process.poll() is None

    @property
    def child_pid(self) -> int | None:
        """The process that holds the engine."""
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                if "spawn_main" in " ".join(child.cmdline()):
                    return child.pid
        return None

    def signal(self, number: int, *, parent: bool, child: bool) -> list[int]:
        """Signal the parent, the child or both; returns the pids that got it."""
        pids = [self.process.pid] if parent and self.alive else []
        if child and (child_pid := self.child_pid):
            pids.append(child_pid)
        return [pid for pid in pids if _kill(pid, number)]

    def kill_group(self) -> None:
        """Kill -9 everything that it started too."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class World:
    """Starts everything in ``directory`` and ends it again."""

    def __init__(
        self,
        directory: Path,
        recorder: Recorder,
        *,
        network: str,
        minutes: float,
        engine: str = "espeak",
    ):
        self.directory = directory
        self._engine = engine
        self.recorder = recorder
        self.workers: dict[str, WorkerProcess] = {}
        self.room = Room(directory / "disk", size_bytes=int((128 + 60 * minutes) * 2**20))
        self.store = EmbeddedRedis(directory / "redis", appendonly=True)
        self.hang_marker = directory / "hang-once"
        self.hang_marker.touch()  # there: the injected hang is not armed
        self._network_kind = network
        self._lives = 0
        self.network: Network

    def start(self) -> None:
        """Start Redis, the network, the storage, and the workers; wait until all are ready."""
        for name in [name for name in os.environ if name.startswith("TTS_")]:
            del os.environ[name]
        self.room.open()
        self.store.start()
        self.network = open_network(self._network_kind, WORKERS)
        self.network.expose(self.store.url)
        os.environ["TTS_HOME"] = str(self.directory / "home")
        os.environ["TTS_REDIS_URL"] = self.store.url
        os.environ["TTS_STORAGE_URL"] = self.room.storage.as_uri()
        # the app was configured when it was imported, from another environment
        get_settings.cache_clear()
        app.conf.update(celery_configuration(get_settings()))

    def start_workers(self) -> None:
        """Start all workers and wait until each has spoken."""
        for name in WORKERS:
            self.start_worker(name)
        if not wait_for(self.is_healthy, within_s=120):
            raise ChaosError(f"the workers do not become ready: see {self.directory}")

    def start_worker(self, name: str) -> None:
        """Begin a new life of a worker. From the main thread: it ends with that thread."""
        self._lives += 1
        node = f"{name}life{self._lives}@chaos"
        log = self.directory / f"{name}.log"
        celery = [sys.executable, "-m", "celery", "-A", "tts_tasks", "worker", "-n", node]
        environment = {
            **os.environ,
            "TTS_REDIS_URL": self.network.url(name),
            **ENGINES[self._engine],
            "TTS_ENGINE": "paced",
            "TTS_PACED_INNER": self._engine,
            "TTS_PACED_COST": PACED_COST,
            "TTS_PACED_FAULTS": f"hang@text:{HANG_MARK}&once:{self.hang_marker}",
            "TTS_FIRST_STEP_S": "3",  # a hang may be the first thing that a new child does
        }
        process = launch(
            [*self.network.command(name), *celery],
            environment=environment,
            directory=self.directory,
            log_path=log,
        )
        self.workers[name] = WorkerProcess(name, node, process, log)
        self.recorder.record("started", worker=name, node=node, pid=process.pid)

    def note_end(self, worker: WorkerProcess, how: str) -> None:
        """Reap a worker that was killed and record that it cannot believe anything any more."""
        worker.doomed = True
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(_STOP_GRACE_S)
        if worker.alive:
            worker.kill_group()
            worker.process.wait()
            how += ", then SIGKILL after a grace"
        self.recorder.record(
            "ended", node=worker.node, how=how, code=worker.process.returncode, ordered=True
        )

    def restart_the_ended(self) -> None:
        """Start workers again that ended by themselves; that they did is recorded."""
        for worker in list(self.workers.values()):
            if not worker.doomed and not worker.alive:
                worker.doomed = True
                time.sleep(_RESPAWN_S)
                code = worker.process.returncode
                self.recorder.record(
                    "ended", node=worker.node, how="by itself", code=code, ordered=False
                )
                self.start_worker(worker.name)

    # -- what the cluster says of itself ------------------------------------------------------

    def status(self) -> dict[str, Any] | None:
        """Return the cluster's status; None while Redis does not answer."""
        try:
            return cluster_status()
        except TTSError:
            return None

    def is_healthy(self) -> bool:
        """Whether every worker is alive and ready, and one of them is the primary."""
        status = self.status()
        if status is None:
            return False
        ready = {w["id"].partition("/")[0] for w in status["workers"] if w["ready"]}
        wanted = {w.node for w in self.workers.values() if w.alive}
        primary = str(status["lanes"][0]["primary"]).partition("/")[0]
        return len(wanted) == len(WORKERS) and wanted <= ready and primary in wanted

    def primary(self) -> WorkerProcess | None:
        """Return the worker that the lease names, if it is one of ours that lives."""
        status = self.status()
        holder = str(status["lanes"][0]["primary"]) if status else ""
        return self.by_id(holder)

    def by_id(self, worker_id: str) -> WorkerProcess | None:
        """Return the living worker with this id in the cluster."""
        node = worker_id.partition("/")[0]
        return next((w for w in self.workers.values() if w.node == node and w.alive), None)

    # -- Redis --------------------------------------------------------------------------------

    def signal_store(self, number: int) -> None:
        """Signal Redis."""
        if self.store.pid is not None:
            _kill(self.store.pid, number)

    def restart_store(self) -> None:
        """Start Redis again, on its data and its port, after it was killed."""
        wait_for(lambda: self.store.pid is None, within_s=10, every_s=0.01)
        self.store.start()
        self.network.expose(self.store.url)

    # -- the end ------------------------------------------------------------------------------

    def stop(self) -> None:
        """End everything, the stopped and the stubborn too."""
        for worker in self.workers.values():
            worker.signal(signal.SIGCONT, parent=True, child=True)
            worker.signal(signal.SIGTERM, parent=True, child=False)
        for worker in self.workers.values():
            if worker.alive or not worker.doomed:
                self.note_end(worker, "SIGTERM at the end")
            worker.kill_group()
        self.signal_store(signal.SIGCONT)
        self.store.stop()
        if hasattr(self, "network"):
            self.network.close()
        self.room.close()

    @property
    def now_s(self) -> float:
        """The clock of the history."""
        return boottime_s()


def _kill(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
