"""A worker's own record, and the beat by which the others see that it is alive and what it is.

Proved by ``tests/unit/test_heartbeat.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tts_tasks.coordination.base import record_ttl_s

if TYPE_CHECKING:
    import threading

    from tts_tasks.clock import Clock
    from tts_tasks.coordination import Coordinator
    from tts_tasks.coordination.base import WorkerRecord


class Heartbeat:
    """Tells a worker's record every ``every_s``, and at once where it must be known at once.

    The record changes under ``mutex``, which is not held while the store is asked.
    """

    def __init__(
        self,
        record: WorkerRecord,
        coordinator: Coordinator,
        *,
        every_s: float,
        clock: Clock,
        mutex: threading.RLock,
    ) -> None:
        self._record = record
        self._coordinator = coordinator
        self._every_s = every_s
        self._clock = clock
        self._mutex = mutex
        self._next_beat_s = 0.0

    @property
    def record(self) -> WorkerRecord:
        """What is told with the next beat."""
        return self._record

    def note(self, **fields: Any) -> None:
        """Change what is told with the next beat."""
        with self._mutex:
            self._record = replace(self._record, **fields)

    def change(self, **fields: Any) -> None:
        """Change what is told, and have it told as soon as somebody calls `beat_if_due`."""
        with self._mutex:
            self._record = replace(self._record, **fields)
            self._next_beat_s = 0.0

    def beat_if_due(self, highest_epoch: int) -> None:
        """Tell the record, if it is time to; raises `UnavailableError`."""
        presence = self._coordinator.presence()
        now_s = self._clock()
        with self._mutex:
            presence = presence or self._record.presence  # until there is a new one
            if now_s < self._next_beat_s and presence == self._record.presence:
                return
            self._record = replace(
                self._record,
                beat=self._record.beat + 1,
                presence=presence,
                epoch=highest_epoch,
            )
            record = self._record
        self._coordinator.beat(record, record_ttl_s(self._every_s))
        with self._mutex:
            if self._record is record:  # else it changed meanwhile, and is to be said at once
                self._next_beat_s = now_s + self._every_s
