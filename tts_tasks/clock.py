"""The clock that deadlines are kept on."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds since an arbitrary point; never steps back, and runs on while the machine is suspended.
Clock = Callable[[], float]


def boottime_s() -> float:
    """Return ``CLOCK_BOOTTIME``: unlike the monotonic clock it counts suspended time."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
