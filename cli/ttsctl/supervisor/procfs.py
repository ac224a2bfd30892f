"""Processes as Linux shows them in /proc: identities that survive the reuse of a pid."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
#: Position of `starttime` (field 22 of proc(5)) and of `ppid` (field 4), counted after ``comm)``.
_START_TIME, _PARENT = 19, 1


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, told apart from any later one that gets the same pid.

    ``start_time_ticks`` are clock ticks since the boot that ``boot_id`` names.
    """

    pid: int
    start_time_ticks: int
    boot_id: str

    def open(self) -> int | None:
        """Return a pidfd of this very process, or None if it is gone. The caller closes it.

        The descriptor is opened before the check, so that the pid cannot change hands in between
        (`test_a_reused_pid_is_not_taken_for_the_process_that_had_it`).
        """
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        try:
            same = identify(self.pid) == self
        except ProcessLookupError:
            same = False
        if not same:
            os.close(pidfd)
            return None
        return pidfd

    def is_running(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        try:
            return identify(self.pid) == self and _stat_fields(self.pid)[0] != "Z"
        except ProcessLookupError:
            return False

    def send(self, signal_number: int) -> bool:
        """Signal this very process; False if it is gone. Raises PermissionError."""
        pidfd = self.open()
        if pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(pidfd, signal_number)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True


def identify(pid: int) -> ProcessIdentity:
    """Return the identity of a running process; raises ProcessLookupError if there is none."""
    return ProcessIdentity(pid, int(_stat_fields(pid)[_START_TIME]), boot_id())


def boot_id() -> str:
    """Return the random id of this boot of the machine."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def processes_with_environment(variable: str, value: str) -> list[ProcessIdentity]:
    """Return the processes that were started with ``variable=value`` in their environment.

    This process and its ancestors are never among them, nor are those of other users.
    """
    wanted = f"{variable}={value}".encode()
    kept_out = _own_line()
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) in kept_out:
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(identify(int(entry.name)))
        except OSError:  # it ended meanwhile, or it is another user's
            continue
    return found


def _own_line() -> set[int]:
    """Return this process and its ancestors."""
    line = set()
    pid = os.getpid()
    while pid > 0:
        line.add(pid)
        try:
            pid = int(_stat_fields(pid)[_PARENT])
        except ProcessLookupError:
            break
    return line


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the name, which may hold any character."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"there is no process {pid}") from None
    return stat.rpartition(")")[2].split()
