"""Stand-ins for tests, public: a clock that is moved by hand and a coordinator in memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tts_tasks.coordination.base import Lease, WorkerRecord, check_ttl

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class FakeClock:
    """A clock in seconds that stands still until it is moved."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


@dataclass
class MemoryCoordinator:
    """`Coordinator` in this process; passes the same contract suite as the real stores."""

    clock: FakeClock = field(default_factory=FakeClock)
    _leases: dict[str, tuple[Lease, float]] = field(default_factory=dict)
    _epochs: dict[str, int] = field(default_factory=dict)
    _members: set[str] = field(default_factory=set)
    _records: dict[str, tuple[WorkerRecord, float]] = field(default_factory=dict)
    vanished: set[str] = field(default_factory=set)  #: workers whose connection was closed
    _mutex: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def acquire(self, lane_key: str, holder: str, ttl_s: float) -> Lease | None:
        """Take a free lane."""
        ttl_ms = check_ttl(ttl_s)
        with self._mutex:
            if self.read(lane_key):
                return None
            self._epochs[lane_key] = self._epochs.get(lane_key, 0) + 1
            lease = Lease(self._epochs[lane_key], holder)
            self._leases[lane_key] = (lease, self.clock() + ttl_ms / 1000)
            return lease

    def renew(self, lane_key: str, lease: Lease, ttl_s: float) -> bool:
        """Prolong exactly this lease."""
        ttl_ms = check_ttl(ttl_s)
        with self._mutex:
            if self.read(lane_key) != lease:
                return False
            self._leases[lane_key] = (lease, self.clock() + ttl_ms / 1000)
            return True

    def remove(self, lane_key: str, lease: Lease) -> bool:
        """Remove exactly this lease."""
        with self._mutex:
            if self.read(lane_key) != lease:
                return False
            del self._leases[lane_key]
            return True

    def read(self, lane_key: str) -> Lease | None:
        """Return the lease as it stands."""
        with self._mutex:
            lease, until_s = self._leases.get(lane_key, (None, 0.0))
            return lease if until_s > self.clock() else None

    def beat(self, record: WorkerRecord, ttl_s: float) -> None:
        """Register a worker, or renew its record."""
        with self._mutex:
            self._members.add(record.id)
            self._records[record.id] = (record, self.clock() + check_ttl(ttl_s) / 1000)

    def workers(self) -> dict[str, WorkerRecord | None]:
        """Return every registered worker; None for one whose record has expired."""
        with self._mutex:
            now_s = self.clock()
            alive = {
                id_: record for id_, (record, until_s) in self._records.items() if until_s > now_s
            }
            return {id_: alive.get(id_) for id_ in sorted(self._members)}

    def forget(self, worker_id: str) -> None:
        """Strike a worker off the registry."""
        with self._mutex:
            self._members.discard(worker_id)
            self._records.pop(worker_id, None)

    def presence(self) -> str:
        """Return the id of this process's presence connection."""
        return "1"

    def absent(self, workers: Mapping[str, WorkerRecord | None]) -> set[str]:
        """Return those whose presence connection is closed."""
        return self.vanished & workers.keys()
