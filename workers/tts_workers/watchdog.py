"""Counts missed heartbeats by observed change, on the observer's own clock.

Neither the store's clock nor the key's TTL decides that a worker is dead: both jump with the
clock of the machine that Redis runs on. What counts is for how long this observer has seen no
change of the record, and for how long it has seen the worker's presence connection closed.
Proved by ``tests/unit/test_watchdog.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tts_tasks.coordination.base import WorkerRecord


@dataclass(frozen=True, slots=True)
class Silence:
    """What an observer has not seen of a worker, in seconds."""

    silent_s: float = 0.0  #: without a change of its record
    absent_s: float = 0.0  #: with its presence connection closed

    def is_death(self, *, silence_limit_s: float, presence_grace_s: float) -> bool:
        """Whether three heartbeats were missed, or the kernel has said it and nobody came back."""
        return self.silent_s >= silence_limit_s or self.absent_s >= presence_grace_s


class Watchdog:
    """Turns successive readings of the registry into the silence of each worker.

    ``max_step_s``: the most that one interval between two readings may add. An observer that was
    itself suspended, or cut off from the store, must not hold its own absence against the others.
    ``reconnection_s``: for so long after such a gap no absence counts. The store may have been
    away and have closed every connection; the living need a moment to register anew.
    """

    def __init__(self, *, max_step_s: float, reconnection_s: float) -> None:
        self._max_step_s = max_step_s
        self._reconnection_s = reconnection_s
        self._lenient_until_s = float("-inf")
        self._last: dict[str, tuple[int | None, Silence]] = {}
        self._absent: set[str] = set()
        self._last_read_s: float | None = None

    def observe(
        self,
        workers: Mapping[str, WorkerRecord | None],
        now_s: float,
        *,
        absent: Collection[str] = (),
    ) -> dict[str, Silence]:
        """Take one reading in; return what has not been seen of each registered worker."""
        step_s = 0.0
        if self._last_read_s is not None:
            if now_s - self._last_read_s > self._max_step_s:
                self._lenient_until_s = now_s + self._reconnection_s
            step_s = min(now_s - self._last_read_s, self._max_step_s)
        self._last_read_s = now_s
        current: dict[str, tuple[int | None, Silence]] = {}
        for worker, record in workers.items():
            beat = record.beat if record else None
            last_beat, last = self._last.get(worker, (beat, Silence(-step_s, -step_s)))
            silent_s = last.silent_s + step_s if beat == last_beat else 0.0
            # A heartbeat after the connection was closed is a sign of life: it is reconnecting.
            # A first absence counts from now on.
            gone = worker in absent and beat == last_beat
            counts = gone and worker in self._absent and now_s >= self._lenient_until_s
            current[worker] = (beat, Silence(silent_s, last.absent_s + step_s if counts else 0.0))
        self._last = current
        self._absent = set(absent)
        return {worker: silence for worker, (_, silence) in current.items()}
