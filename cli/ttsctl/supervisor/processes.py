"""Child processes of the supervisor: how one is started, stopped, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tts_tasks.errors import TTSError
from ttsctl.supervisor import launcher
from ttsctl.supervisor.logs import open_log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_LAUNCHER = str(Path(launcher.__file__).absolute())


def launch(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    log_path: Path,
    death_signal: signal.Signals = signal.SIGKILL,
    inherited_fds: Sequence[int] = (),
    umask: int = -1,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, its output appended to ``log_path``.

    The kernel sends it ``death_signal`` when the calling THREAD ends, so call this from a thread
    that lives as long as the process. Raises OSError if nothing could be started; a command that
    cannot be executed exits with status 127 and says so in its log.
    """
    arguments = [str(int(death_signal)), str(os.getpid()), *command]
    with open_log(log_path) as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _LAUNCHER, *arguments],
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(inherited_fds),
            # Ctrl-C on the terminal must reach the supervisor alone: it stops them in order.
            start_new_session=True,
            umask=umask,
        )


def signal_group(process: subprocess.Popen[bytes], signal_number: int) -> None:
    """Signal a child and whatever it started in its session's process group."""
    if process.returncode is not None:
        return  # reaped: the number may be somebody else's by now
    try:
        os.killpg(process.pid, signal_number)
    except ProcessLookupError:
        return


def exit_words(returncode: int) -> str:
    """Say how a process ended: ``exit status 3`` or ``signal SIGKILL``."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"


@dataclass(slots=True)
class Backoff:
    """How long to wait before a restart: doubled from death to death, reset by a long life."""

    first_s: float = 0.5
    limit_s: float = 30.0
    reset_after_s: float = 60.0
    _next_s: float = 0.0

    def delay_s(self, lifetime_s: float) -> float:
        """Return the wait after a process that lived for ``lifetime_s``."""
        if self._next_s == 0.0 or lifetime_s >= self.reset_after_s:
            self._next_s = self.first_s
        delay_s = self._next_s
        self._next_s = min(self._next_s * 2, self.limit_s)
        return delay_s


@dataclass(frozen=True, slots=True)
class StopStep:
    """One rung of the ladder by which a process is stopped: a signal, and time to obey it."""

    signal: signal.Signals
    grace_s: float
    whole_group: bool = False


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process to keep alive."""

    name: str
    spawn: Callable[[], subprocess.Popen[bytes]]
    log_path: Path
    stop_steps: tuple[StopStep, ...]
    node: str = ""  #: the Celery node name of a worker
    essential: bool = True  #: `up` fails at start if this one keeps ending


@dataclass(slots=True)
class Child:
    """A `ChildSpec` at work: the process it has now, or when it gets the next one."""

    spec: ChildSpec
    backoff: Backoff = field(default_factory=Backoff)
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    started_at: float = 0.0  #: seconds of time.monotonic
    due_at: float | None = None  #: when to start it again; None while it runs
    endings: int = 0
    last_ending: str = ""

    @property
    def pid(self) -> int | None:
        """The pid it runs under now, None between two lives."""
        return self.process.pid if self.process is not None else None

    def start(self) -> None:
        """Start the process; one that cannot be started counts as ended at once."""
        self.due_at = None
        self.started_at = time.monotonic()
        try:
            self.adopt(self.spec.spawn())
        except (OSError, TTSError) as error:
            self._ended(f"could not be started: {error}")

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """Take over a process that has just been started for this child."""
        self.started_at = time.monotonic()
        self.process = process
        self.pidfd = os.pidfd_open(process.pid)

    def reap(self) -> bool:
        """Notice that the process has ended; True if it has just now.

        What it left behind in its process group ends too: a dead worker's helper must not keep
        the device. As long as the dead process is not reaped its group cannot be another's.
        """
        if self.process is None:
            return False
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with suppress(ChildProcessError):  # reaped elsewhere: its Popen knows how it ended
            if os.waitid(os.P_PID, self.process.pid, flags) is None:
                return False
            signal_group(self.process, signal.SIGKILL)
        self._ended(f"ended with {exit_words(self.process.wait())}")
        return True

    def _ended(self, how: str) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pidfd, self.process = -1, None
        self.endings += 1
        self.last_ending = how
        now = time.monotonic()
        self.due_at = now + self.backoff.delay_s(now - self.started_at)
