"""One clock for everything: CLOCK_BOOTTIME of this machine, in seconds.

Redis and the file system stamp with the wall clock of the same machine; its offset is measured at
each use, so that a step of the wall clock in between spoils one round at most.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tts_tasks.clock import boottime_s

if TYPE_CHECKING:
    from collections.abc import Callable


def wall_to_boottime() -> Callable[[float], float]:
    """Return what turns wall-clock seconds of this machine into `boottime_s`."""
    before_s = boottime_s()
    wall_s = time.time()
    offset_s = (before_s + boottime_s()) / 2 - wall_s
    return lambda at_s: at_s + offset_s


def until(ask: Callable[[], object], within_s: float, *, every_s: float = 0.02) -> bool:
    """Wait until ``ask`` is true; False if it is not within ``within_s``."""
    deadline_s = boottime_s() + within_s
    while not ask():
        if boottime_s() >= deadline_s:
            return False
        time.sleep(every_s)
    return True


class NotSettledError(Exception):
    """A system did not come to rest between two rounds."""


def need(ask: Callable[[], object], within_s: float, what: str) -> None:
    """Wait until ``ask`` is true; raises `NotSettledError`."""
    if not until(ask, within_s):
        raise NotSettledError(f"not within {within_s:g} s: {what}")
