"""Reads the registry, again and again, and tells for how long each worker has not been seen."""

from __future__ import annotations

import time
from random import SystemRandom
from typing import TYPE_CHECKING

from tts_tasks.errors import UnavailableError
from tts_workers.watchdog import Silence, Watchdog

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable

    from tts_tasks.clock import Clock
    from tts_tasks.coordination import Coordinator, Lease, WorkerRecord
    from tts_tasks.settings import Settings

#: Readings of the world in one heartbeat.
TICKS_PER_HEARTBEAT = 4
#: Between two readings the presence connections alone are looked at, this often.
GLANCES_PER_TICK = 5


class Observer:
    """One process's eyes: an agent's, or the standalone watchdog's."""

    def __init__(self, coordinator: Coordinator, settings: Settings, clock: Clock) -> None:
        self.tick_s = settings.heartbeat_s / TICKS_PER_HEARTBEAT
        self.glance_s = self.tick_s / GLANCES_PER_TICK
        self._coordinator = coordinator
        self._clock = clock
        self._watchdog = Watchdog(
            max_step_s=2 * self.tick_s + settings.request_timeout_s,
            reconnection_s=settings.heartbeat_s,
        )
        self._rng = SystemRandom()  # not `random`, which engines reseed
        self.workers: dict[str, WorkerRecord | None] = {}  #: as read last

    def look(self, leases: Iterable[Lease | None]) -> dict[str, Silence]:
        """Read the registry once; returns what has not been seen of each worker.

        A holder of one of the ``leases`` that nobody registered is watched too. Raises
        `UnavailableError`.
        """
        self.workers = self._coordinator.workers()
        watched = dict(self.workers)
        for lease in leases:
            if lease is not None:
                watched.setdefault(lease.holder, None)
        absent = self._coordinator.absent(watched)
        return self._watchdog.observe(watched, self._clock(), absent=absent)

    def rest(self, wake: threading.Event) -> None:
        """Wait for the next look; or shorter, if there is news or a connection was closed."""
        until_s = time.monotonic() + self.tick_s * self._rng.uniform(0.9, 1.1)
        while not wake.wait(self.glance_s):
            if time.monotonic() >= until_s or self._somebody_is_absent():
                return

    def _somebody_is_absent(self) -> bool:
        try:
            return bool(self._coordinator.absent(self.workers))
        except UnavailableError:
            return False  # the next look will find out, and say so

    @property
    def jobs(self) -> dict[str, str]:
        """The registered workers, and what each says it works on."""
        return {id_: record.job if record else "" for id_, record in self.workers.items()}

    def others_ready(self, pool: str, worker_id: str, *, cool: bool = False) -> int:
        """Return how many workers of a pool could take work at once, but for one.

        ``cool``: of those only whose device is not slowed down by its heat.
        """
        return sum(
            record is not None
            and record.ready
            and not record.draining
            and record.pool == pool
            and not (cool and record.gpu.get("hot"))
            for id_, record in self.workers.items()
            if id_ != worker_id
        )

    def highest_epoch(self, lane_key: str) -> int:
        """Return the highest epoch of a lane that any registered worker has seen."""
        return max(
            (
                record.epoch
                for record in self.workers.values()
                if record and record.lane_key == lane_key
            ),
            default=0,
        )
