"""How long the engine may take before it counts as stuck: learned from what it has done."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Weight of the newest measurement in the running mean.
_NEWEST = 0.3


@dataclass(slots=True)
class Step:
    """A step in hand."""

    #: What is to be learned from, where it began earlier and so took longer than was waited for.
    took_s: float | None = None


class Pace:
    """Time budgets for steps of a kind, learned from the jobs that were done.

    budget = max(``floor_s``, ``factor`` × expected time). A step with a size is expected to take
    the size times the running mean of seconds per unit of size; one without, such as a voice that
    is either loaded or found in a cache, as long as the longest of its kind so far. So each voice
    is a kind of its own. Until a kind of step has been measured, it gets ``unknown_s``: a first
    step may build caches and compile kernels.

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
        self._known_s: dict[str, float] = {}  #: seconds per unit of size, or the longest

    def budget_s(self, kind: str, size: int | None = None) -> float:
        """Return how long a step may take."""
        known_s = self._known_s.get(kind)
        if known_s is None:
            return max(self._floor_s, self._unknown_s)
        return max(self._floor_s, self._factor * known_s * _units(size))

    def expected_s(self, kind: str, size: int) -> float | None:
        """Return how long a step is expected to take; None until its kind has been measured."""
        known_s = self._known_s.get(kind)
        return None if known_s is None else known_s * _units(size)

    @contextmanager
    def step(self, kind: str, size: int | None = None) -> Iterator[Step]:
        """Do a step within its budget; only a step that succeeds is learned from."""
        self._tell(self.budget_s(kind, size))
        began_s = self._clock()
        step = Step()
        try:
            yield step
        finally:
            self._tell(0.0)
        took_s = self._clock() - began_s if step.took_s is None else step.took_s
        took_s /= _units(size)
        known_s = self._known_s.get(kind, took_s)
        if size is None:
            self._known_s[kind] = max(known_s, took_s)
        else:
            self._known_s[kind] = (1 - _NEWEST) * known_s + _NEWEST * took_s


def _units(size: int | None) -> int:
    return max(1, size or 0)
