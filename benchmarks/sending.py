"""How clients send: at random moments, whether or not the job before is done."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from tts_tasks.clock import boottime_s

if TYPE_CHECKING:
    from collections.abc import Callable


def paced_sends(jobs: int, every_s: float, seed: int, send: Callable[[int], object]) -> list[float]:
    """Send one job every ``every_s`` on average; returns when each was begun to be sent."""
    rng = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    due_s, sent_s = boottime_s(), []
    for number in range(jobs):
        due_s += every_s * rng.uniform(0.5, 1.5)
        time.sleep(max(0.0, due_s - boottime_s()))
        sent_s.append(boottime_s())
        send(number)
    return sent_s
