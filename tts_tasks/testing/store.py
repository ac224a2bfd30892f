"""What one Redis would hold, in this process."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from tts_tasks.clock import Clock  # noqa: TC001 - a dataclass field
from tts_tasks.testing.clock import FakeClock
from tts_tasks.testing.load import MemoryLoad

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.coordination.base import Lease, WorkerRecord
    from tts_tasks.ledger.segments import LoggedSegment

P = ParamSpec("P")
T = TypeVar("T")


class Wire(Protocol):
    """The way of one request to the store and of its reply back.

    ``effect(*args)`` is what the store does in one step. A wire may do it or not, and may raise
    `UnavailableError` in either case: so a test loses requests and replies.
    """

    def __call__(self, effect: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Carry one request."""
        ...


@dataclass
class MemoryStore:
    """The data of one store, by its own clock, which may jump. Clients change it by effects."""

    clock: Clock = field(default_factory=FakeClock)
    leases: dict[str, tuple[Lease, float]] = field(default_factory=dict)  #: by lane, until s
    epochs: dict[str, int] = field(default_factory=dict)
    successors: dict[str, tuple[str, float]] = field(default_factory=dict)
    drained: dict[str, str] = field(default_factory=dict)  #: worker → reason; for good
    members: set[str] = field(default_factory=set)
    records: dict[str, tuple[WorkerRecord, float]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    segments: dict[str, list[LoggedSegment]] = field(default_factory=dict)
    loads: dict[str, MemoryLoad] = field(default_factory=lambda: defaultdict(MemoryLoad))
    claims: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    #: queue → job → when it was last rung, in ms
    open_jobs: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    #: queue → ``(task id, rung_ms)`` of each message that waits, the next to be taken first
    queues: dict[str, list[tuple[str, float]]] = field(default_factory=lambda: defaultdict(list))
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    unreported: set[str] = field(default_factory=set)
    _mutex: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def at_once(self, effect: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Be the `Wire` on which nothing goes missing; one effect at a time, as in Redis."""
        with self._mutex:
            return effect(*args, **kwargs)

    def now_ms(self) -> int:
        """Return the store's time in ms."""
        return int(self.clock() * 1000)

    def lease(self, lane_key: str) -> Lease | None:
        """Return the lease that stands; one whose time to live has passed does not."""
        lease, until_s = self.leases.get(lane_key, (None, 0.0))
        return lease if until_s > self.clock() else None

    def job(self, job_id: str) -> dict[str, Any] | None:
        """Return a job's fields, or None if there is none or its retention is over."""
        job = self.jobs.get(job_id)
        if job is not None and job.get("expires_ms", self.now_ms() + 1) <= self.now_ms():
            del self.jobs[job_id]
            return None
        return job

    def batch(self, batch_id: str) -> dict[str, Any]:
        """Return a batch's fields, to change them: what is counted before it is opened stays."""
        return self.batches.setdefault(
            batch_id,
            {
                "source": None,
                "output": batch_id,
                "queue": "",
                "sealed": False,
                "accepted": 0,
                "rejected": 0,
                "succeeded": 0,
                "failed": 0,
                "last_line": 0,
                "created_ms": 0,
                "report": None,
                "done": [],
                "rejections": {},
                "reporting_until_ms": 0,
            },
        )

    def lose_data(self) -> None:
        """Come back empty: no lease, no epoch counter, no job, no message."""
        for held in (
            self.leases,
            self.epochs,
            self.successors,
            self.drained,
            self.members,
            self.records,
            self.jobs,
            self.segments,
            self.loads,
            self.claims,
            self.open_jobs,
            self.queues,
            self.batches,
            self.unreported,
        ):
            held.clear()
