"""Every kind of book of batches, for the suites that all of them pass."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.ledger.batch_book import BatchBook
from tts_tasks.ledger.batch_records import LineEnding, Run, TakenJob
from tts_tasks.ledger.jobs import JobLedger
from tts_tasks.ledger.records import Claim, JobMeta
from tts_tasks.ledger.segments import LoggedSegment, SegmentLog
from tts_tasks.redis_connection import connect
from tts_tasks.testing import MemoryLedger, MemorySegments, MemoryStore
from tts_tasks.testing.batch_book import MemoryBatchBook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pytest

KINDS = ("redis", "cluster", "memory")
QUEUE = "tts.batch.default"
BATCH = "b1"
CHARS = 10


@dataclass
class Books:
    """A book of batches, the ledger of the same store, and what a test does to the store."""

    book: BatchBook | MemoryBatchBook
    ledger: JobLedger | MemoryLedger
    log: SegmentLog | MemorySegments
    another: Callable[[], BatchBook | MemoryBatchBook]  #: the book as another process has it
    silence: Callable[[str, float], object]  #: make a batch's last sign of life older: seconds
    note: Callable[[str, str], object]  #: put a batch on a worker's list of claims: worker, batch
    unlist: Callable[[str], object]  #: lose what lists a batch with work, and its place in the row
    lose: Callable[[str], object]  #: lose a batch, as with a node of a cluster
    lose_data: Callable[[], object]
    let_pass: Callable[[str, float], object]  #: make it longer ago that a job was given back
    leaving: Callable[[Any], tuple[object, str]]  #: a book's method that strikes a batch off
    _nonces: Iterator[int] = field(default_factory=itertools.count)

    def open(
        self, batch_id: str = BATCH, *, output: str = "", priority: float = 1.0, lines: int = 0
    ) -> None:
        """Open a batch, sealed and with one chunk fed where it has ``lines``."""
        self.book.open(
            batch_id,
            source="s",
            output=output or batch_id,
            queue=QUEUE,
            created_ms=1,
            priority=priority,
        )
        if lines:
            self.book.seal(batch_id, chunks=1, accepted=lines, rejected=0)
            assert self.book.feed(batch_id, 1, chunk_of(1, lines))

    def take(
        self,
        worker: str = "w1",
        *,
        jobs: int = 100,
        chars: int = 10_000,
        strikes: int = 3,
        nonce: str = "",
        elsewhere_s: float = 0.0,
    ) -> Run | None:
        """Take a run, under a new nonce if none is given."""
        return self.book.take(
            QUEUE,
            worker,
            nonce=nonce or f"n{next(self._nonces)}",
            max_jobs=jobs,
            max_chars=chars,
            max_strikes=strikes,
            elsewhere_s=elsewhere_s,
        )

    def taken(self, worker: str = "w1", *, jobs: int = 100) -> list[TakenJob]:
        """Take a run that there must be."""
        run = self.take(worker, jobs=jobs)
        assert run is not None
        return run.jobs

    def end(
        self,
        jobs: Sequence[TakenJob],
        state: str = "succeeded",
        *,
        worker: str = "w1",
        batch_id: str = BATCH,
    ) -> list[bool]:
        """End taken lines."""
        return self.book.finish(batch_id, worker, [ending(job, state) for job in jobs])

    def append(self, claim: Claim, number: int, segments: int) -> bool:
        """Append a segment, the next one at most: there are no gaps."""
        record = self.ledger.get(claim.job_id)
        done = record.segments_done if record else 0
        segment = LoggedSegment.of(min(number, done + 1), segments, b"\0\1", 8000)
        return self.log.append(claim, segment, "plan", None, 60)

    def counts(self, batch_id: str = BATCH) -> tuple[int, int, int]:
        """Return how many lines have succeeded, failed, were cancelled."""
        batch = self.book.get(batch_id)
        assert batch is not None
        return batch.succeeded, batch.failed, batch.cancelled


def books_in_redis(url: str) -> Books:
    """Return the book in a real Redis."""
    client = connect(url)
    book = BatchBook(url)

    def silence(batch_id: str, by_s: float) -> None:
        client.hincrby(keys.batch(batch_id), "alive_ms", int(-by_s * 1000))

    def unlist(batch_id: str) -> None:
        client.zrem(keys.shares(QUEUE), batch_id)
        client.srem(keys.UNREPORTED, batch_id)
        client.delete(keys.TURNS)

    return Books(
        book,
        JobLedger(url),
        SegmentLog(url),
        another=lambda: BatchBook(url, client=connect(url)),
        silence=silence,
        note=lambda worker, batch_id: client.sadd(keys.claims(worker), batch_id),
        unlist=unlist,
        lose=lambda batch_id: client.delete(keys.batch(batch_id)),
        lose_data=client.flushall,
        let_pass=lambda job, by_s: client.hincrby(keys.job(job), "released_ms", int(-by_s * 1000)),
        leaving=lambda book: (book._shares, "leave"),
    )


def books_in_memory() -> Books:
    """Return the book in memory."""
    store = MemoryStore()

    def silence(batch_id: str, by_s: float) -> None:
        store.books[batch_id].alive_ms -= int(by_s * 1000)

    def unlist(batch_id: str) -> None:
        store.shares[QUEUE].pop(batch_id, None)
        store.unreported.discard(batch_id)
        store.turns.clear()

    def let_pass(job_id: str, by_s: float) -> None:
        store.jobs[job_id]["released_ms"] -= by_s * 1000

    return Books(
        MemoryBatchBook(store),
        MemoryLedger(store),
        MemorySegments(store),
        another=lambda: MemoryBatchBook(store),
        silence=silence,
        note=lambda worker, batch_id: store.claims[worker].add(batch_id),
        unlist=unlist,
        lose=lambda batch_id: store.books.pop(batch_id, None),
        lose_data=store.lose_data,
        let_pass=let_pass,
        leaving=lambda book: (book, "_store_leave_shares"),
    )


def books_of_kind(kind: str, request: pytest.FixtureRequest) -> Books:
    """Return an empty book of one of the `KINDS`."""
    if kind == "memory":
        return books_in_memory()
    if kind == "cluster":
        return books_in_redis(request.getfixturevalue("redis_cluster").url)
    return books_in_redis(request.getfixturevalue("redis_url"))


def chunk_of(first: int, last: int, chars: int = CHARS) -> list[tuple[int, int]]:
    """Return lines as `feed` takes them."""
    return [(line, chars) for line in range(first, last + 1)]


def ending(job: TakenJob, state: str = "succeeded") -> LineEnding:
    """Return how an attempt ends."""
    return LineEnding(job.line, job.chunk, job.attempt, state, {"uri": f"u{job.line}"})


def claim_of(job: TakenJob, worker: str = "w1", batch_id: str = BATCH) -> Claim:
    """Return the attempt as `JobLedger` knows it."""
    return Claim(
        job_id=keys.batch_job_id(batch_id, job.line),
        worker=worker,
        attempt=job.attempt,
        request={},
        meta=JobMeta(queue=QUEUE, name="", batch=batch_id, line=job.line),
        accepted_ms=0,
    )


def lines_of(jobs: Sequence[TakenJob]) -> list[int]:
    """Return the lines of taken jobs, in their order."""
    return [job.line for job in jobs]


def open_again(books: Books, **other: Any) -> bool:
    """Open the batch, with other fields than before; True if there was none."""
    fields = {"source": "s", "output": BATCH, "queue": QUEUE, "created_ms": 1} | other
    return books.book.open(BATCH, **fields)


def done_with_failures(books: Books) -> None:
    """Bring a batch of three lines to its end: the second and the third have failed."""
    books.open(lines=3)
    jobs = books.taken()
    books.end(jobs[:1])
    books.end(jobs[1:], "failed")
    assert books.book.flushed(BATCH, 1, [1, 2, 3])
    assert books.book.reported(BATCH, "uri", retention_s=60)
