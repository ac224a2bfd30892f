"""Celery workers as processes: started, found, ended. Shared by ours and by bare Celery."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass
class WorkerProcess:
    """One ``celery worker`` that can be started again under its name."""

    name: str
    app: str
    directory: Path
    environment: Mapping[str, str]
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "celery", "-A", self.app, "worker"),
                    *("-n", f"{self.name}@bench", "--loglevel", "WARNING", *self.options),
                ],
                env={**os.environ, **self.environment},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """The pid of its parent process; 0 before it was started."""
        return self.process.pid if self.process else 0

    @property
    def alive(self) -> bool:
        """Whether the parent process runs (or is stopped)."""
        return self.process is not None and self.process.poll() is None

    def child_pid(self) -> int:
        """Return the pid of the pool's process; raises LookupError while there is none."""
        for child in psutil.Process(self.pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                return int(child.pid)
        raise LookupError(f"{self.name} has no child")

    def pause(self) -> None:
        """Stop parent and child."""
        child = self.child_pid()
        os.kill(self.pid, signal.SIGSTOP)
        os.kill(child, signal.SIGSTOP)

    def resume(self) -> None:
        """Let everything that was stopped go on."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.pid)
            for process in (*parent.children(), parent):
                process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.alive:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL of the parent process."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)

    def end(self, within_s: float = 15.0) -> None:
        """Stop it, by force after ``within_s``; it may have been stopped before."""
        if self.process is None:
            return
        if self.alive:
            self.resume()
            self.terminate()
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait(within_s)

    def tail(self) -> str:
        """Return the end of its log."""
        return (self.directory / f"{self.name}.log").read_text(errors="replace")[-2000:]
