"""A room for one run: a folder, a fresh Redis, and the programs that work there."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil
import redis

from benchmarks.failover.clocks import need, until
from benchmarks.record import ROOT
from ttsctl.supervisor.processes import launch, signal_group
from ttsctl.supervisor.redis_server import EmbeddedRedis

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from types import TracebackType

#: Nothing is in hand any more that would be worth waiting for.
_END_S = 2.0


class ProgramEndedError(Exception):
    """A program that should run has ended; with the end of its log."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program of the room; it dies with us."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path

    def check(self) -> None:
        """Raise `ProgramEndedError` if it does not run any more."""
        if self.process.poll() is not None:
            log = self.log_path.read_text(errors="replace")[-2000:]
            raise ProgramEndedError(f"{self.name} ended with {self.process.returncode}:\n{log}")

    def peak_rss_bytes(self) -> int:
        """Return the sum of what it and its children have had in memory at most, each for itself.

        Pages that two of them share count twice.
        """
        parent = psutil.Process(self.process.pid)
        return sum(peak_rss_bytes(p.pid) for p in (parent, *parent.children(recursive=True)))

    def end(self) -> None:
        """Wait until it has stopped, as it was asked to, or long enough; then kill its group.

        As long as it is not reaped its group cannot be another's.
        """
        if self.process.returncode is None:
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            until(lambda: os.waitid(os.P_PID, self.process.pid, flags) is not None, _END_S)
            signal_group(self.process, signal.SIGKILL)
            self.process.wait()


@dataclass
class Room:
    """See the module. ``environment``: what all programs of the room get."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    directory: Path = field(init=False)
    server: EmbeddedRedis = field(init=False)
    client: redis.Redis = field(init=False)
    programs: list[Program] = field(init=False, default_factory=list)
    _stack: ExitStack = field(init=False, default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix=f"tts-bench-{self.name}-"))
        # Not with the room: for minutes after thousands of files were removed ext4 makes new ones
        # several times slower (`recently_deleted`), and the next run would pay for this one.
        atexit.register(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            self.server = self._stack.enter_context(
                EmbeddedRedis(self.directory / "redis", appendonly=False)
            )
            self.client = self._stack.enter_context(redis.Redis.from_url(self.server.url))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for program in self.programs:
            if program.process.poll() is None:
                program.process.send_signal(signal.SIGTERM)  # all at once: they may take a while
        self._stack.close()

    def full_environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a program: ours without ``TTS_*``, the room's, and more."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TTS_")}
        paths = [str(self.directory / "site"), str(ROOT), inherited.get("PYTHONPATH", "")]
        return {
            **inherited,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "BENCH_REDIS_URL": self.server.url,
            "BENCH_DIRECTORY": str(self.directory),
            **self.environment,
            **more,
        }

    def start(self, name: str, module: str, *arguments: str, **environment: str) -> Program:
        """Start ``python -m module arguments``; it is ended with the room."""
        log_path = self.directory / f"{name}.log"
        process = launch(
            [sys.executable, "-m", module, *arguments],
            environment=self.full_environment(**environment),
            directory=self.directory,
            log_path=log_path,
        )
        program = Program(name, process, log_path)
        self.programs.append(program)
        self._stack.callback(program.end)
        return program

    def wait(self, ask: Callable[[], object], within_s: float, what: str) -> None:
        """Wait until ``ask`` is true while all programs live; raises `NotSettledError` if not."""

        def checked() -> object:
            for program in self.programs:
                program.check()
            return ask()

        need(checked, within_s, what)

    def server_version(self) -> str:
        """Return what the server says it is."""
        told = self.client.info("server")
        name = told.get("server_name", "redis")
        return f"{name} {told.get(f'{name}_version', told['redis_version'])}"


def peak_rss_bytes(pid: int) -> int:
    """Return the most that a process has had in memory; 0 when it is gone.

    From ``VmHWM``, which begins anew with each program; ``ru_maxrss`` would be the starter's.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0
