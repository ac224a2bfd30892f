"""Log files of the supervised processes: appended to, kept in bounds, shown when one fails."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

MAX_LOG_BYTES = 16 * 1024 * 1024
LOGS_KEPT = 3
_TAIL_BYTES = 16 * 1024


def open_log(path: Path, *, max_bytes: int = MAX_LOG_BYTES) -> BinaryIO:
    """Open a log for appending, mode 0600; one that has grown to ``max_bytes`` is set aside first.

    Older ones are kept as ``NAME.1`` (the newest) to ``NAME.3``.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size >= max_bytes:
        for number in range(LOGS_KEPT - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "ab", buffering=0)


def tail(path: Path, *, lines: int = 15, start_bytes: int = 0) -> str:
    """Return the last lines of a log, from no earlier than ``start_bytes``; empty without one."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(min(size, max(start_bytes, size - _TAIL_BYTES)))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])
