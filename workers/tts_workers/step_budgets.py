"""Tells who watches the child how long the step in hand may take: the parent, and C's own watchdog.

Arming the watchdog starts and ends a thread while the interpreter stands still, which costs more
than a short line of a batch. So neither is told that a step has ended, and the watchdog is not told
that one has begun while it runs for an earlier one: `keep`, called by the pulse, makes up for both
long before anything comes of it. Proved by ``tests/unit/test_step_budgets.py``.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: When a step has used up so much of its budget, its stack is written: it may be killed soon.
HANGS_SHARE: Final = 0.9


class StepBudgets:
    """The budget of the step in hand, as `Pace` tells it.

    ``say``: tells the parent a budget in seconds, 0 for none. ``arm``: has the stacks written in so
    many seconds, in place of what it was told before; 0 for never. It must not need an interpreter
    that is free, as a step may hold it; then nobody calls `keep`, and what was armed stays so.
    """

    def __init__(
        self,
        say: Callable[[float], None],
        arm: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._arm = arm
        self._clock = clock
        self._lock = threading.Lock()  # what was decided is said before anything else is decided
        self._hangs_s = 0.0  #: when the stacks of the step in hand are wanted; 0: there is none
        self._armed_s = 0.0  #: when they will be written; 0: never
        self._told = False

    def __call__(self, budget_s: float) -> None:
        """Begin a step that may take so long; 0: the step in hand has ended."""
        if not budget_s:
            self._hangs_s = 0.0
            return
        with self._lock:
            self._say(budget_s)
            self._told = True
            now_s = self._clock()
            self._hangs_s = now_s + HANGS_SHARE * budget_s
            if not now_s < self._armed_s <= self._hangs_s:
                self._arm_at(self._hangs_s)

    def keep(self) -> None:
        """Make up for what was not told; to be called several times within any budget."""
        with self._lock:
            hangs_s = self._hangs_s
            if self._told and not hangs_s:
                self._say(0.0)
                self._told = False
            if hangs_s != self._armed_s:
                self._arm_at(hangs_s)

    def _arm_at(self, when_s: float) -> None:
        self._armed_s = when_s
        self._arm(max(1e-3, when_s - self._clock()) if when_s else 0.0)
