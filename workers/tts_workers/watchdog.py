"""Counts missed heartbeats by observed change, on the observer's own clock.

Neither the store's clock nor the key's TTL decides that a worker is dead: both jump with the
clock of the machine that Redis runs on. What counts is for how long this observer has seen no
change of the record. Proved by ``tests/unit/test_watchdog.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tts_tasks.coordination.base import WorkerRecord


@dataclass(slots=True)
class _Watched:
    beat: int | None
    silent_s: float


class Watchdog:
    """Turns successive readings of the registry into seconds of silence a worker.

    ``max_step_s``: the most that one interval between two readings may add. An observer that was
    itself suspended, or cut off from the store, must not hold its own absence against the others.
    """

    def __init__(self, *, max_step_s: float) -> None:
        self._max_step_s = max_step_s
        self._watched: dict[str, _Watched] = {}
        self._last_read_s: float | None = None

    def observe(self, workers: Mapping[str, WorkerRecord | None], now_s: float) -> dict[str, float]:
        """Take one reading in; return for each registered worker its silence in seconds."""
        step_s = 0.0
        if self._last_read_s is not None:
            step_s = min(now_s - self._last_read_s, self._max_step_s)
        self._last_read_s = now_s
        for worker in self._watched.keys() - workers.keys():
            del self._watched[worker]
        for worker, record in workers.items():
            beat = record.beat if record else None
            known = self._watched.get(worker)
            if known is None or known.beat != beat:
                self._watched[worker] = _Watched(beat, 0.0)
            else:
                known.silent_s += step_s
        return {worker: watched.silent_s for worker, watched in self._watched.items()}
