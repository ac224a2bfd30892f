"""How long the engine may take before it counts as stuck: learned from what it has done."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Weight of the newest measurement in the running mean.
_NEWEST = 0.3


class Pace:
    """Time budgets for steps of a kind, proportional to their size.

    budget = max(``floor_s``, ``factor`` × expected time), where the expected time is the size times
    the running mean of seconds per unit of size. Until a kind of step has been measured, it gets
    ``unknown_s``: a first step may build caches and compile kernels.

    ``tell`` is called with the budget in seconds when a step begins, and with 0 when it has ended.
    """

    def __init__(
        self,
        tell: Callable[[float], None],
        *,
        floor_s: float,
        factor: float,
        unknown_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._floor_s = floor_s
        self._factor = factor
        self._unknown_s = unknown_s
        self._clock = clock
        self._seconds_per_unit: defaultdict[str, float | None] = defaultdict(lambda: None)

    def budget_s(self, kind: str, size: int) -> float:
        """Return how long a step may take."""
        per_unit_s = self._seconds_per_unit[kind]
        if per_unit_s is None:
            return max(self._floor_s, self._unknown_s)
        return max(self._floor_s, self._factor * per_unit_s * max(1, size))

    @contextmanager
    def step(self, kind: str, size: int) -> Iterator[None]:
        """Do a step within its budget; only a step that succeeds is learned from."""
        self._tell(self.budget_s(kind, size))
        began_s = self._clock()
        try:
            yield
        finally:
            self._tell(0.0)
        took_s = (self._clock() - began_s) / max(1, size)
        known_s = self._seconds_per_unit[kind]
        self._seconds_per_unit[kind] = (
            took_s if known_s is None else (1 - _NEWEST) * known_s + _NEWEST * took_s
        )
