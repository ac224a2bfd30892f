"""When the baselines' jobs started: one file of clock readings, appended to by the workers.

It imports nothing of ours: what it costs to import would be the baselines' to pay, and RQ's at
each job, as it imports the job's module in a fork of its own.
"""

from __future__ import annotations

import os
import struct
import time
from functools import lru_cache
from pathlib import Path

_READING = struct.Struct("<d")


@lru_cache(maxsize=1)
def _file() -> int:
    path = Path(os.environ["BENCH_DIRECTORY"]) / "starts"
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def started() -> None:
    """Note that a job starts now: all that the baselines' job does."""
    os.write(_file(), _READING.pack(time.clock_gettime(time.CLOCK_BOOTTIME)))


def count(directory: Path) -> int:
    """Return how many jobs have started."""
    path = directory / "starts"
    return path.stat().st_size // _READING.size if path.exists() else 0


def read(directory: Path) -> list[float]:
    """Return when each job started, oldest first."""
    return sorted(at_s for (at_s,) in _READING.iter_unpack((directory / "starts").read_bytes()))
