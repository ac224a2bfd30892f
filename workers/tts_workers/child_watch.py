"""Watches the engine's process from its parent: what it has in hand, and whether it gets on.

Pure but for the clock that is handed in: the thread that asks does no I/O either, so that an
engine is found stuck whatever the store does. Proved by ``tests/unit/test_child_watch.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tts_tasks.clock import Clock


@dataclass(frozen=True, slots=True)
class Stuck:
    """An engine's process that has made no progress for longer than it may."""

    pid: int
    job: str  #: empty: it had nothing in hand
    silent_s: float
    budget_s: float


class ChildWatch:
    """What is known of the child: pid, job, and for how long it has not been heard of.

    With a step in hand the child has told its budget; within it, it need not say a word, and a
    pulse does not help it beyond. Without one it must be heard of every ``pulse_limit_s`` (it sends
    a pulse far more often). Both hold once it is ready: before, it loads an engine, which may hold
    the interpreter for minutes.

    ``max_step_s``: the most that one interval between two looks may add. A parent that was itself
    suspended must not hold its own absence against its child.
    """

    def __init__(self, clock: Clock, *, pulse_limit_s: float, max_step_s: float) -> None:
        self._clock = clock
        self._pulse_limit_s = pulse_limit_s
        self._max_step_s = max_step_s
        self._pid = 0
        self._budget_s = 0.0
        self._silent_s = 0.0
        self._looked_s = clock()
        self._ready = False
        self.job = ""

    def heard(self, pid: int, message: dict[str, Any]) -> None:
        """Take in what the child says."""
        if pid != self._pid:
            self._pid, self._ready, self._budget_s, self.job = pid, False, 0.0, ""
        if message.get("event") == "pulse" and self._budget_s:
            return  # it runs, but that is no progress
        self._silent_s = 0.0
        self._looked_s = self._clock()
        match message.get("event"):
            case "ready":
                self._ready = True
            case "job":
                self.job = str(message["job"])
            case "budget":
                self._budget_s = float(message["budget_s"])

    def lost(self, pid: int) -> bool:
        """Learn that a process is gone; False if it was not the one that is watched."""
        if pid != self._pid:
            return False
        self._pid, self._ready, self._budget_s, self.job = 0, False, 0.0, ""
        return True

    @property
    def pid(self) -> int:
        """The process that is watched; 0 while there is none."""
        return self._pid

    @property
    def left_s(self) -> float | None:
        """For how long the child may still be silent; None: it is not watched."""
        limit_s = self._limit_s
        return None if limit_s is None else max(0.0, limit_s - self._silent_s)

    @property
    def _limit_s(self) -> float | None:
        if not self._pid or not self._ready:
            return None
        return self._budget_s or self._pulse_limit_s

    def look(self) -> Stuck | None:
        """Count the time since the last look; returns what is stuck, once."""
        now_s = self._clock()
        self._silent_s += min(now_s - self._looked_s, self._max_step_s)
        self._looked_s = now_s
        limit_s = self._limit_s
        if limit_s is None or self._silent_s < limit_s:
            return None
        stuck = Stuck(self._pid, self.job, self._silent_s, limit_s)
        self._ready = False  # told once; its successor is another process
        return stuck
