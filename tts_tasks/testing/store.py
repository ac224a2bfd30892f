"""What one Redis would hold, in this process."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from tts_tasks.clock import Clock  # noqa: TC001 - a dataclass field
from tts_tasks.testing.clock import FakeClock
from tts_tasks.testing.load import MemoryLoad

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.coordination.base import Lease, WorkerRecord
    from tts_tasks.ledger.records import JobMeta
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
class BatchHash:
    """What one Redis would hold of a batch by reference, but for its jobs."""

    source: str
    output: str
    queue: str
    created_ms: int
    priority: float
    alive_ms: int
    sealed: bool = False
    is_cancelled: bool = False
    report: str | None = None
    virtual_time: float = 0.0
    chunks: int = 0
    fed: int = 0
    flushed: int = 0
    accepted: int = 0
    rejected: int = 0
    ended: Counter[str] = field(default_factory=Counter)  #: lines by how they ended
    ready: list[tuple[int, int, int]] = field(default_factory=list)  #: line, chars, chunk
    window: dict[int, int] = field(default_factory=dict)  #: chunk → lines that have not ended
    taken: dict[int, str] = field(default_factory=dict)  #: line → who has it now, or nothing
    runs: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)


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
    unreported: set[str] = field(default_factory=set)
    books: dict[str, BatchHash] = field(default_factory=dict)  #: batches by reference
    listed: dict[str, None] = field(default_factory=dict)  #: batches in the order of their opening
    #: queue → batch → virtual time
    shares: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    turns: dict[str, str] = field(default_factory=dict)  #: batch → ``"number output"``
    turn_number: int = 0
    reporting: dict[str, int] = field(default_factory=dict)  #: batch → until when, in ms
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
            self.unreported,
            self.books,
            self.listed,
            self.shares,
            self.turns,
            self.reporting,
        ):
            held.clear()


def new_job(meta: JobMeta, *, request: str, chars: int, accepted_ms: int) -> dict[str, Any]:
    """Return the fields of a job that nobody has claimed yet."""
    return {
        "state": "accepted",
        "attempt": 0,
        "strikes": 0,
        "worker": "",
        "nonce": "",
        "request": request,
        "chars": chars,
        "deadline_ms": None,
        "counted": False,
        "meta": meta,
        "result": "",
        "accepted_ms": accepted_ms,
        "claimed_ms": 0,
        "finished_ms": None,
        "segments_done": 0,
        "segments": 0,
        "plan": "",
        "engine_state": None,
        "struck_by": "",
        "released_ms": 0,
        "struck_workers": [],
        "pardons": 0,
        "evidence": "",
    }
