"""One worker's lease: taken, renewed, given up, and believed in no longer than is safe (rule 6)."""

from __future__ import annotations

import logging
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from tts_tasks.coordination.base import EpochFloor
from tts_workers.chores import survive
from tts_workers.decision import Leadership

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.clock import Clock
    from tts_tasks.coordination import Coordinator, Lease
    from tts_tasks.errors import TTSError
    from tts_tasks.events import EventLog
    from tts_tasks.settings import Settings

logger = logging.getLogger(__name__)


class LeaseKeeper:
    """What a worker believes about its lease, and what it does to it.

    ``mutex`` guards the belief; ``on_change`` is called with it held, at every change of it.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        settings: Settings,
        events: EventLog,
        worker_id: str,
        *,
        clock: Clock,
        mutex: threading.RLock,
        on_change: Callable[[], None],
    ) -> None:
        self._coordinator = coordinator
        self._settings = settings
        self._lane_key = settings.lane_key
        self._events = events
        self._worker_id = worker_id
        self._clock = clock
        self._mutex = mutex
        self._on_change = on_change
        self._leadership: Leadership | None = None
        self._to_log: deque[str] = deque()  #: a thread that does no I/O does not log either
        self._floor = EpochFloor()
        self._asking = threading.Lock()  #: one renewal at a time

    @property
    def leadership(self) -> Leadership | None:
        """What this worker believes now."""
        with self._mutex:
            return self._leadership

    @property
    def highest_epoch(self) -> int:
        """The highest epoch that is known to have been used."""
        return self._floor.epoch

    def saw(self, epoch: int, *, is_all: bool = False) -> None:
        """Learn of an epoch that has been used; ``is_all``: of the highest there can have been."""
        with self._mutex:
            known = self._floor
            self._floor = EpochFloor(max(known.epoch, epoch), known.complete or is_all)

    def saw_lease(self, lease: Lease) -> None:
        """Learn that a lease stands: what the storage said before is not all any more."""
        with self._mutex:
            self._floor = EpochFloor(max(self._floor.epoch, lease.epoch))

    def acquire(self) -> Lease | None:
        """Try to become the primary; returns the lease that is led under, or None.

        Raises `EpochsUnknownError`: then `saw` is to be told before the next try.
        """
        with self._mutex:
            floor = self._floor
            self._floor = EpochFloor(floor.epoch)  # once: the store may lose its data again
        asked_s = self._clock()  # before the request is sent: a slow answer shortens our time
        lease = self._coordinator.acquire(
            self._lane_key, self._worker_id, self._settings.lease_ttl_s, floor
        )
        return lease if lease is not None and self._lead(lease, asked_s) else None

    def renew(self, lease: Lease) -> None:
        """Prolong the lease, or stop to believe in it."""
        leads = self.leadership
        with self._asking:
            if self.leadership is not leads:
                return  # another thread has asked meanwhile, or it has ended
            asked_s = self._clock()
            if self._coordinator.renew(self._lane_key, lease, self._settings.lease_ttl_s):
                self._prolong(lease, asked_s)
            elif self._believes_in(lease):
                self.renewal_failed(lease, "refused: it is gone or somebody else's")
                self.demote(lease, "the renewal was refused")

    def keep(
        self,
        stopping: threading.Event,
        changed: threading.Condition,
        *,
        retry_s: float,
        on_failure: Callable[[TTSError], None],
    ) -> None:
        """Renew as soon as it is due, until ``stopping``; the body of a thread.

        `decide` orders it too, but it reads the world first, and a slow store takes its time for
        that. A renewal that is not answered is tried again at once: `Settings` sees to it that
        there is time for one. ``changed``: a condition on the mutex, notified at every change.
        """
        while not stopping.is_set():
            with changed:
                leads = self._leadership
                left_s = None if leads is None else leads.renew_at_s - self._clock()
                if leads is None or left_s is None or left_s > 0:
                    changed.wait(left_s)
                    continue
            asked_s = self._clock()
            if not survive(partial(self.renew, leads.lease), on_failure):
                stopping.wait(max(0.0, asked_s + retry_s - self._clock()))

    def renewal_failed(self, lease: Lease, reason: str) -> None:
        """Take down that a lease could not be prolonged."""
        self._events.note(
            "lease.renewal_failed",
            lane=self._lane_key,
            holder=lease.holder,
            epoch=lease.epoch,
            reason=reason,
        )

    def demote(self, lease: Lease, reason: str) -> None:
        """Stop to believe in a lease, at once. Performs no I/O."""
        with self._mutex:
            if self._leadership is None or self._leadership.lease != lease:
                return
            self._leadership = None
            self._events.note(
                "lease.demoted",
                lane=self._lane_key,
                holder=lease.holder,
                epoch=lease.epoch,
                reason=reason,
            )
            self._to_log.append(f"no longer primary of lane {self._lane_key}: {reason}")
            self._on_change()

    def demote_if_overdue(self) -> float | None:
        """End a leadership past its deadline; returns how long it still has, in seconds.

        None: there is none to watch. Performs no I/O.
        """
        with self._mutex:
            leads = self._leadership
            if leads is None:
                return None
            left_s = leads.deadline_s - self._clock()
            if left_s > 0:
                return left_s
            self.demote(leads.lease, "the renew deadline passed")
            return None

    def remove(self, lease: Lease, reason: str) -> None:
        """Remove a lease from the store, ours or a dead worker's, and say so if it was there."""
        remove_lease(
            self._coordinator,
            self._events,
            self._lane_key,
            lease,
            by=self._worker_id,
            reason=reason,
        )

    def log(self) -> None:
        """Write to the log what has been done without I/O."""
        while self._to_log:
            logger.warning(self._to_log.popleft())

    def _lead(self, lease: Lease, asked_s: float) -> bool:
        """Begin to believe in a lease; False if the answer came too late for that."""
        self.saw(lease.epoch)
        with self._mutex:
            if not self._believe(lease, asked_s):
                return False
            self._events.note(
                "lease.acquired",
                lane=self._lane_key,
                holder=lease.holder,
                epoch=lease.epoch,
            )
            self._to_log.append(f"primary of lane {self._lane_key}, epoch {lease.epoch}")
            self._on_change()
            return True

    def _prolong(self, lease: Lease, asked_s: float) -> None:
        """Go on believing in a lease; a late answer brings no belief back that has ended."""
        with self._mutex:
            if self._believes_in(lease) and self._believe(lease, asked_s):
                self._on_change()

    def _believes_in(self, lease: Lease) -> bool:
        with self._mutex:
            leads = self._leadership
            return leads is not None and leads.lease == lease and self._clock() < leads.deadline_s

    def _believe(self, lease: Lease, asked_s: float) -> bool:
        leadership = Leadership(
            lease,
            deadline_s=asked_s + self._settings.renew_deadline_s,
            renew_at_s=asked_s + self._settings.heartbeat_s,
        )
        if self._clock() >= leadership.deadline_s:
            return False
        self._leadership = leadership
        return True


def remove_lease(
    coordinator: Coordinator,
    events: EventLog,
    lane_key: str,
    lease: Lease,
    *,
    by: str,
    reason: str,
) -> bool:
    """Remove exactly this lease and take that down; False if it was there no more."""
    if not coordinator.remove(lane_key, lease):
        return False
    events.note(
        "lease.released" if lease.holder == by else "lease.deposed",
        lane=lane_key,
        holder=lease.holder,
        epoch=lease.epoch,
        by=by,
        reason=reason,
    )
    return True
