"""Real workers on the test's real Redis, started as their documentation says, killed for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from tests.waiting import eventually
from tts_tasks.cluster import cluster_status

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Worker:
    """One ``celery -A tts_tasks worker``."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def record(self) -> dict[str, Any] | None:
        """What the registry says of it."""
        workers = cluster_status()["workers"]
        return next((w for w in workers if w["pid"] == self.process.pid), None)

    @property
    def child_pid(self) -> int:
        """The prefork child that holds the engine; 0 while there is none."""
        children = psutil.Process(self.process.pid).children()
        return next((c.pid for c in children if "spawn_main" in " ".join(c.cmdline())), 0)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the parent process."""
        self.process.send_signal(number)

    def tail(self) -> str:
        """The end of its log, for failing tests."""
        return self.log.read_text(errors="replace")[-3000:]


def _kill_with_children(process: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(15)
    for relative in family:
        with suppress(psutil.NoSuchProcess):
            # it removes the named semaphores of the others, then ends by itself
            if "semaphore_tracker" not in " ".join(relative.cmdline()):
                relative.kill()
    eventually(lambda: not any(map(_runs, family)), every_s=0.01, what="its processes are gone")


def _runs(process: psutil.Process) -> bool:
    try:
        # who is nobody's child any more may wait a second or two for init
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Cluster:
    """Starts workers, and ends what it started."""

    directory: Path
    workers: list[Worker] = field(default_factory=list)
    watchdogs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *names: str, **environment: str) -> list[Worker]:
        """Start workers and wait until each is ready."""
        started = [self._spawn(name, environment) for name in names]
        for worker in started:
            eventually(
                lambda worker=worker: (worker.record or {}).get("ready") or self._dead(worker),
                what=f"{worker.name} is ready",
            )
        return started

    def watchdog(self) -> subprocess.Popen[bytes]:
        """Start a standalone watchdog."""
        with (self.directory / "watchdog.log").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tts_workers.watch"], stdout=out, stderr=subprocess.STDOUT
            )
        self.watchdogs.append(process)
        return process

    def primary(self) -> Worker | None:
        """The worker that the lease names."""
        holder = cluster_status()["lanes"][0]["primary"]
        return next((w for w in self.workers if (w.record or {}).get("id") == holder), None)

    def stop(self) -> None:
        """End everything, the stopped and the stubborn too."""
        for watchdog in self.watchdogs:
            if watchdog.poll() is None:
                watchdog.terminate()
                watchdog.wait(15)
        # Killed, not asked: a clean stop takes two seconds of sleeping, and has tests of its own.
        for worker in self.workers:
            if worker.process.poll() is None:
                _kill_with_children(worker.process)

    def _spawn(self, name: str, environment: dict[str, str]) -> Worker:
        log = self.directory / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tts_tasks", "worker", "-n", f"{name}@test"],
                env={**os.environ, **environment},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        worker = Worker(name, process, log)
        self.workers.append(worker)
        return worker

    @staticmethod
    def _dead(worker: Worker) -> bool:
        if worker.process.poll() is not None:
            raise AssertionError(f"{worker.name} ended: {worker.tail()}")
        return False
