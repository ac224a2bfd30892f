"""Starts a program and sees that nothing of it outlives the worker; run as a file of its own.

Its stdin is a pipe that only the worker's child holds open. At its end, however that came about,
the program is asked to end and then killed, with all that it has started, also in sessions of
their own: as they lose their parents they become children of this process. A line on stdin means
at once, without asking. When the program ends by itself, what it has started is killed too. Only
the standard library is used here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_GRACE_S: Final = 3.0
_POLL_S: Final = 0.02
#: What cannot be killed hangs in a driver; nobody gains by waiting for it.
_GIVE_UP_S: Final = 30.0
NOT_STARTED: Final = 127


def main(arguments: list[str]) -> int:
    """Run the program; returns its exit status, 128 and the signal's number if one ended it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    bell, ring = os.pipe()
    for fd in (bell, ring):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    me = os.getpid()

    def die_with_guardian() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != me:
            os._exit(NOT_STARTED)

    try:
        # one thread only, so the function that runs between fork and exec does no harm
        program = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=die_with_guardian,  # noqa: PLW1509
        )
    except OSError as error:
        _say(f"{arguments[0]} cannot be started: {error.strerror}")
        return NOT_STARTED
    grace_s = 0.0
    while (status := _ended(program.pid)) is None:
        readable, _, _ = select.select([0, bell], [], [])
        if bell in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(bell, 4096)
        if asked or 0 in readable:
            grace_s = 0.0 if not asked and os.read(0, 16) else _GRACE_S
            break
    if status is not None:
        _say(_described(status))
    _end_all(program.pid, grace_s)
    return 0 if status is None else _exit_status(status)


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def _ended(wanted: int) -> int | None:
    """Reap what has ended; returns the wait status of one of them if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == wanted:
            found = status


def _described(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with exit status {os.WEXITSTATUS(status)}"


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _end_all(group: int, grace_s: float) -> None:
    if grace_s:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGTERM)
        end_s = time.monotonic() + grace_s
        while _ended(group) is None and group in _children() and time.monotonic() < end_s:
            time.sleep(_POLL_S)
    give_up_s = time.monotonic() + _GIVE_UP_S
    while (children := _children()) and time.monotonic() < give_up_s:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
        _ended(group)


def _children() -> list[int]:
    """Return the processes whose parent this is, but for those that have ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # the name, in parentheses, may hold anything
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
