"""Become a command that the kernel signals as soon as its parent dies, however it dies.

Run by path, isolated and without site-packages, so that it costs a few milliseconds::

    python -I -S launcher.py SIGNAL_NUMBER PARENT_PID COMMAND [ARGUMENT...]

A program of its own instead of `preexec_fn`, which is not safe in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_CANNOT_RUN = 127
_ORPHANED = 128 + signal.SIGTERM


def main(arguments: list[str]) -> int:
    """Replace this process by the command; returns an exit status only if that failed."""
    death_signal, parent_pid, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        print("prctl:", os.strerror(ctypes.get_errno()), file=sys.stderr)  # noqa: T201
        return _CANNOT_RUN
    # The parent may have died before the line above: then no signal will ever come.
    if os.getppid() != parent_pid:
        return _ORPHANED
    # The interpreter ignores these two, and what is ignored stays so across exec.
    for name in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(name, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - a list, without a shell
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return _CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
