"""`Coordinator` in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tts_tasks.coordination.base import (
    EpochFloor,
    Lease,
    Orders,
    WorkerRecord,
    check_ttl,
)
from tts_tasks.errors import EpochsUnknownError
from tts_tasks.testing.store import MemoryStore, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tts_tasks.clock import Clock


#: What a candidate knows of epochs where nothing was published before, as in a test.
ALL_KNOWN = EpochFloor(complete=True)


class MemoryCoordinator:
    """`Coordinator` in this process; passes the same contract suite as the real stores.

    ``clock``: the store's, for what lapses; ``store``: shared with other clients instead of one
    of its own. The methods whose names begin with ``_store_`` are what the store does in one step.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        store: MemoryStore | None = None,
        wire: Wire | None = None,
    ) -> None:
        if store is None:
            store = MemoryStore(clock) if clock else MemoryStore()
        self.store = store
        self.clock = store.clock
        self.vanished: set[str] = set()  #: workers whose connection was closed
        self._ask: Wire = wire or store.at_once
        self._listeners: list[tuple[str, Callable[[], None]]] = []

    # -- the lease ----------------------------------------------------------------------------

    def acquire(self, lane_key: str, holder: str, ttl_s: float, floor: EpochFloor) -> Lease | None:
        """Take a free lane."""
        return self._ask(self._store_acquire, lane_key, holder, check_ttl(ttl_s), floor)

    def _store_acquire(
        self, lane_key: str, holder: str, ttl_ms: int, floor: EpochFloor
    ) -> Lease | None:
        store = self.store
        if store.lease(lane_key) or self._successor(lane_key) not in ("", holder):
            return None
        if lane_key not in store.epochs and not floor.complete:
            raise EpochsUnknownError(lane_key)
        store.epochs[lane_key] = max(store.epochs.get(lane_key, 0), floor.epoch) + 1
        lease = Lease(store.epochs[lane_key], holder)
        store.leases[lane_key] = (lease, store.clock() + ttl_ms / 1000)
        store.successors.pop(lane_key, None)
        return lease

    def renew(self, lane_key: str, lease: Lease, ttl_s: float) -> bool:
        """Prolong exactly this lease."""
        return self._ask(self._store_renew, lane_key, lease, check_ttl(ttl_s))

    def _store_renew(self, lane_key: str, lease: Lease, ttl_ms: int) -> bool:
        if self.store.lease(lane_key) != lease:
            return False
        self.store.leases[lane_key] = (lease, self.store.clock() + ttl_ms / 1000)
        return True

    def remove(self, lane_key: str, lease: Lease) -> bool:
        """Remove exactly this lease."""
        return self._ask(self._store_remove, lane_key, lease)

    def _store_remove(self, lane_key: str, lease: Lease) -> bool:
        if self.store.lease(lane_key) != lease:
            return False
        del self.store.leases[lane_key]
        self._ring(lane_key)
        return True

    def read(self, lane_key: str) -> Lease | None:
        """Return the lease as it stands."""
        return self._ask(self.store.lease, lane_key)

    # -- orders -------------------------------------------------------------------------------

    def orders(self, lane_key: str, worker_id: str) -> Orders:
        """Return what is ordered for a lane and one of its workers."""
        return self._ask(self._store_orders, lane_key, worker_id)

    def _store_orders(self, lane_key: str, worker_id: str) -> Orders:
        return Orders(self._successor(lane_key), worker_id in self.store.drained)

    def reserve(self, lane_key: str, successor: str, ttl_s: float) -> None:
        """Order a switchover."""
        self._ask(self._store_reserve, lane_key, successor, check_ttl(ttl_s))

    def _store_reserve(self, lane_key: str, successor: str, ttl_ms: int) -> None:
        self.store.successors[lane_key] = (successor, self.store.clock() + ttl_ms / 1000)
        self._ring(lane_key)

    def drain(self, lane_key: str, worker_id: str, reason: str) -> None:
        """Order that a worker takes no new work."""
        self._ask(self._store_drain, lane_key, worker_id, reason)

    def _store_drain(self, lane_key: str, worker_id: str, reason: str) -> None:
        self.store.drained[worker_id] = reason
        self._ring(lane_key)

    def undrain(self, lane_key: str, worker_id: str) -> bool:
        """Take that order back."""
        return self._ask(self._store_undrain, lane_key, worker_id)

    def _store_undrain(self, lane_key: str, worker_id: str) -> bool:
        was_ordered = self.store.drained.pop(worker_id, None) is not None
        self._ring(lane_key)
        return was_ordered

    def _successor(self, lane_key: str) -> str:
        successor, until_s = self.store.successors.get(lane_key, ("", 0.0))
        return successor if until_s > self.store.clock() else ""

    def _ring(self, lane_key: str) -> None:
        for lane, on_news in list(self._listeners):
            if lane == lane_key:
                on_news()

    # -- the registry -------------------------------------------------------------------------

    def beat(self, record: WorkerRecord, ttl_s: float) -> None:
        """Register a worker, or renew its record."""
        self._ask(self._store_beat, record, check_ttl(ttl_s))

    def _store_beat(self, record: WorkerRecord, ttl_ms: int) -> None:
        self.store.members.add(record.id)
        self.store.records[record.id] = (record, self.store.clock() + ttl_ms / 1000)

    def workers(self) -> dict[str, WorkerRecord | None]:
        """Return every registered worker; None for one whose record has expired."""
        return self._ask(self._store_workers)

    def _store_workers(self) -> dict[str, WorkerRecord | None]:
        now_s, found = self.store.clock(), self.store.records
        alive = {id_: record for id_, (record, until_s) in found.items() if until_s > now_s}
        return {id_: alive.get(id_) for id_ in sorted(self.store.members)}

    def forget(self, worker_id: str) -> bool:
        """Strike a worker off the registry; False if it was not registered."""
        return self._ask(self._store_forget, worker_id)

    def _store_forget(self, worker_id: str) -> bool:
        was_registered = worker_id in self.store.members
        self.store.members.discard(worker_id)
        self.store.records.pop(worker_id, None)
        self.store.claims.pop(worker_id, None)
        return was_registered

    # -- presence -----------------------------------------------------------------------------

    def listen(self, lane_key: str, on_news: Callable[[], None]) -> None:
        """Hear of what is done to the lane through this client, in the thread that does it."""
        self._listeners.append((lane_key, on_news))

    def presence(self) -> str:
        """Return the id of this process's presence connection."""
        return "1"

    def close(self) -> None:
        """Hear nothing more."""
        self._listeners.clear()

    def absent(self, workers: Mapping[str, WorkerRecord | None]) -> set[str]:
        """Return those whose presence connection is closed."""
        return self.vanished & workers.keys()
