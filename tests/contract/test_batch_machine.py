"""Hypothesis plays submitters, workers, flushers and operators of batches.

The book in memory and the one in a real Redis are told the same and must answer the same; and
whatever is done, every line that was fed is counted once.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.batch_books import (
    BATCH,
    QUEUE,
    Books,
    books_in_memory,
    books_in_redis,
    chunk_of,
    claim_of,
    ending,
    lines_of,
)
from tts_tasks import keys
from tts_tasks.errors import UnavailableError
from tts_tasks.ledger.batch_book import BatchBook
from tts_tasks.ledger.batch_records import ENDINGS
from tts_tasks.redis_connection import connect, in_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.ledger.batch_records import TakenJob

BATCHES = {"a": "out", "b": "out/b", "c": "c"}
SIZE = 3  # lines of a chunk

ids = st.sampled_from(sorted(BATCHES))
chunks = st.integers(1, 3)
workers = st.sampled_from(["w1", "w2"])


class TwoBooks(RuleBasedStateMachine):
    """The same calls to both books."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.real = books_in_redis(self.url)
        self.real.lose_data()
        self.twin = books_in_memory()
        self.taken: list[tuple[str, str, TakenJob]] = []  # batch, worker
        self.nonces: dict[str, int] = {}
        self.lines = dict.fromkeys(BATCHES, 0)  # that were fed or skipped

    def both(self, ask: Callable[[Books], Any]) -> Any:
        """Ask both; returns the answer that they share."""
        real, twin = answer(ask, self.real), answer(ask, self.twin)
        assert real == twin
        return twin

    @rule(id_=ids, priority=st.sampled_from([1.0, 2.0]))
    def open(self, id_: str, priority: float) -> None:
        self.both(lambda books: books.open(id_, output=BATCHES[id_], priority=priority))

    @rule(id_=ids, chunk=chunks)
    def grow(self, id_: str, chunk: int) -> None:
        self.both(lambda books: books.book.grow(id_, chunk))

    @rule(id_=ids, chunk=chunks)
    def seal(self, id_: str, chunk: int) -> None:
        self.both(
            lambda books: books.book.seal(id_, chunks=chunk, accepted=chunk * SIZE, rejected=1)
        )

    @rule(id_=ids, chunk=chunks, chars=st.integers(1, 40))
    def feed(self, id_: str, chunk: int, chars: int) -> None:
        lines = chunk_of((chunk - 1) * SIZE + 1, chunk * SIZE, chars)
        if self.both(lambda books: books.book.feed(id_, chunk, lines)):
            self.lines[id_] += SIZE

    @rule(id_=ids, chunk=chunks)
    def skip(self, id_: str, chunk: int) -> None:
        if self.both(lambda books: books.book.skip(id_, chunk, succeeded=1, failed=1, cancelled=1)):
            self.lines[id_] += SIZE

    @rule(worker=workers, jobs=st.integers(1, 4), chars=st.integers(1, 99), new=st.booleans())
    def take(self, worker: str, jobs: int, chars: int, *, new: bool) -> None:
        self.nonces[worker] = self.nonces.get(worker, 0) + new
        nonce = f"n{self.nonces[worker]}"
        run = self.both(
            lambda books: books.take(worker, jobs=jobs, chars=chars, strikes=2, nonce=nonce)
        )
        if run is not None:
            self.taken += [(run.batch, worker, job) for job in run.jobs]

    @rule(data=st.data(), state=st.sampled_from(ENDINGS))
    def finish(self, data: st.DataObject, state: str) -> None:
        if self.taken:
            id_, worker, job = data.draw(st.sampled_from(self.taken))
            self.both(lambda books: books.end([job], state, worker=worker, batch_id=id_))

    @rule(worker=workers, id_=ids)
    def finish_all(self, worker: str, id_: str) -> None:
        jobs = [job for batch, who, job in self.taken if (batch, who) == (id_, worker)]
        self.both(lambda books: books.end(jobs, worker=worker, batch_id=id_))

    @rule(data=st.data(), done=st.integers(1, 2))
    def append(self, data: st.DataObject, done: int) -> None:
        if self.taken:
            id_, worker, job = data.draw(st.sampled_from(self.taken))
            claim = claim_of(job, worker, id_)
            self.both(lambda books: books.append(claim, done, 2))

    @rule(data=st.data(), strike=st.booleans(), whatever=st.booleans())
    def release(self, data: st.DataObject, *, strike: bool, whatever: bool) -> None:
        if self.taken:
            id_, worker, job = data.draw(st.sampled_from(self.taken))
            asked = [(job.line, None if whatever else job.attempt, strike)]
            self.both(lambda books: books.book.release(id_, worker, asked))

    @rule(data=st.data())
    def release_by_the_ledger(self, data: st.DataObject) -> None:
        if self.taken:
            id_, worker, job = data.draw(st.sampled_from(self.taken))
            job_id = claim_of(job, worker, id_).job_id
            self.both(lambda books: books.ledger.release(job_id, worker, job.attempt, strike=True))

    @rule(worker=workers)
    def recover(self, worker: str) -> None:
        """Give back all that a worker has, as when it died."""
        for id_ in self.both(lambda books: books.book.claimed_by(worker)):
            held = self.both(lambda books, id_=id_: books.book.held_by(id_, worker))
            asked = [(line, None, True) for line in held]
            self.both(lambda books, id_=id_, asked=asked: books.book.release(id_, worker, asked))
            assert self.both(lambda books, id_=id_: books.book.let_go(id_, worker))

    @rule(id_=ids)
    def cancel(self, id_: str) -> None:
        self.both(lambda books: books.book.cancel(id_))

    @rule(id_=ids)
    def flush(self, id_: str) -> None:
        for chunk in self.both(lambda books: books.book.to_flush(id_)):
            lines = range((chunk - 1) * SIZE + 1, chunk * SIZE + 1)
            assert self.both(
                lambda books, chunk=chunk, lines=lines: books.book.flushed(id_, chunk, lines)
            )
            # a new attempt of these lines begins with the first again
            self.taken = [
                (batch, who, job)
                for batch, who, job in self.taken
                if batch != id_ or job.line not in lines
            ]

    @rule(id_=ids, chunk=chunks, lines=st.integers(1, SIZE), cancelled=st.integers(0, SIZE))
    def reopen(self, id_: str, chunk: int, lines: int, cancelled: int) -> None:
        first = (chunk - 1) * SIZE + 1
        again, cancelled = chunk_of(first, first + lines - 1), min(cancelled, lines)
        self.both(lambda books: books.book.reopen(id_, chunk, again, cancelled=cancelled))

    @rule(id_=ids)
    def report(self, id_: str) -> None:
        self.both(lambda books: books.book.reported(id_, "uri", retention_s=600))

    @rule(id_=ids)
    def remove(self, id_: str) -> None:
        self.both(lambda books: books.book.remove(id_))
        self.taken = [taken for taken in self.taken if taken[0] != id_]
        self.lines[id_] = 0

    @rule()
    def relist(self) -> None:
        self.both(lambda books: books.book.relist())

    @invariant()
    def both_show_the_same(self) -> None:
        """All that can be looked at, and the sums."""
        self.both(lambda books: sorted(map(repr, books.book.all())))
        self.both(lambda books: [record.id for record in books.book.unreported()])
        self.both(lambda books: (books.book.backlog(QUEUE), books.book.has_work(QUEUE)))
        for id_ in BATCHES:
            self.both(lambda books, id_=id_: view(books, id_))
            book = self.twin.book.store.books.get(id_)
            if book is not None:
                open_lines = sum(book.window.values())
                assert book.ended.total() + open_lines == self.lines[id_]
                held = sum(1 for worker in book.taken.values() if worker)
                assert held + len(book.ready) == open_lines
                assert min(book.ended.values(), default=0) >= 0


def answer(ask: Callable[[Books], Any], books: Books) -> Any:
    """Return what a book answers, or that it has lost the batch."""
    try:
        return ask(books)
    except UnavailableError:
        return UnavailableError


def view(books: Books, batch_id: str) -> Any:
    """Return what can be seen of a batch."""
    jobs = books.book.results(batch_id, range(1, 3 * SIZE + 1))
    return (
        books.book.holders(batch_id),
        books.book.to_flush(batch_id),
        books.book.waits_for(batch_id),
        books.book.is_cancelled(batch_id),
        books.book.ended_lines(batch_id, 1),
        {
            line: (job.state, job.attempt, job.worker, job.result, job.segments_done, job.ended)
            for line, job in jobs.items()
        },
    )


def test_the_book_in_memory_is_the_book_in_redis(redis_url: str) -> None:
    """Whatever is done in whatever order; a failure shrinks to a few steps."""
    TwoBooks.url = redis_url
    run_state_machine_as_test(
        TwoBooks,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


# -- lost replies ---------------------------------------------------------------------------------


def prepare(books: Books) -> list[TakenJob]:
    """Open a batch of six lines and take three."""
    books.open(lines=6)
    return books.taken(jobs=3)


def take(book: BatchBook, jobs: list[TakenJob]) -> object:
    limits = {"max_jobs": 2, "max_chars": 99, "max_strikes": 3}
    run = book.take(QUEUE, "w2", nonce="same", **limits)
    assert run is not None
    assert lines_of(run.jobs) == [4, 5]
    assert book.held_by(BATCH, "w2") == [4, 5]
    assert book.claimed_by("w2") == [BATCH]
    return run


def finish(book: BatchBook, jobs: list[TakenJob]) -> object:
    return book.finish(BATCH, "w1", [ending(job) for job in jobs])


def release(book: BatchBook, jobs: list[TakenJob]) -> object:
    book.release(BATCH, "w1", [(job.line, job.attempt, True) for job in jobs])
    jobs_now = book.results(BATCH, lines_of(jobs))
    return [(job.state, job.attempt) for job in jobs_now.values()], book.claimed_by("w1")


def feed(book: BatchBook, jobs: list[TakenJob]) -> object:
    book.feed(BATCH, 2, chunk_of(7, 9))
    return book.backlog(QUEUE)


def skip(book: BatchBook, jobs: list[TakenJob]) -> object:
    book.skip(BATCH, 2, succeeded=3, failed=0)
    return None


def cancel(book: BatchBook, jobs: list[TakenJob]) -> object:
    return book.cancel(BATCH), book.ended_lines(BATCH, 0)


def remove(book: BatchBook, jobs: list[TakenJob]) -> object:
    book.remove(BATCH)
    return book.get(BATCH), book.all(), book.unreported()


def open_another(book: BatchBook, jobs: list[TakenJob]) -> object:
    book.open("other", source="s", output=BATCH, queue=QUEUE, created_ms=1)
    return book.waits_for("other"), [record.id for record in book.unreported()]


@pytest.mark.parametrize(
    "call",
    [take, finish, release, feed, skip, cancel, remove, open_another],
    ids=lambda f: f.__name__,
)
def test_a_call_whose_reply_is_lost_is_made_again_without_harm(
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[BatchBook, list[TakenJob]], object],
) -> None:
    """Whichever of its replies is lost: made again, it leaves the same behind and says the same."""
    read_reply = redis.connection.Connection.read_response
    outcomes = []
    for lost in range(40):
        books = books_in_redis(redis_url)
        books.lose_data()
        jobs = prepare(books)
        book = BatchBook(redis_url, client=connect(redis_url, retries=0))
        read = 0

        def read_response(connection: redis.Connection, *args: Any, **options: Any) -> Any:
            nonlocal read
            reply = read_reply(connection, *args, **options)
            if connection.retry._retries == 0:  # of the book that is watched
                read += 1
                if read == lost:  # noqa: B023 - used up within this round
                    connection.disconnect()
                    raise redis.ConnectionError("the reply is lost")
            return reply

        monkeypatch.setattr(redis.connection.Connection, "read_response", read_response)
        try:
            said = call(book, jobs)
        except UnavailableError:
            said = call(book, jobs)
        monkeypatch.undo()
        batch = books.book.get(BATCH)
        outcomes.append((said, repr(batch), books.book.holders(BATCH)))
        if lost > read:
            break
    else:
        pytest.fail("there is no end of replies")
    assert len(outcomes) > 3
    assert all(outcome == outcomes[0] for outcome in outcomes)


# -- deaths between two steps ---------------------------------------------------------------------


class DiedError(Exception):
    """The process that made the call is no more."""


@pytest.mark.parametrize("steps", range(1, 4))
@pytest.mark.parametrize("call", [take, feed, release], ids=lambda call: call.__name__)
def test_whoever_dies_between_two_steps_leaves_nothing_that_nobody_looks_for(
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[BatchBook, list[TakenJob]], object],
    steps: int,
) -> None:
    """What a worker holds is on its list; lines that are ready are in a batch that is listed."""
    books = books_in_redis(redis_url)
    books.open(lines=6)
    jobs = books.taken(jobs=6 if call is release else 3)
    if call is not take:
        while books.take("w3"):
            pass
        assert not books.book.has_work(QUEUE)

    def die(client: Any, *all_steps: Callable[[Any], object]) -> list[Any]:
        done = in_order(client, *all_steps[:steps])
        if steps < len(all_steps):
            raise DiedError
        return done

    monkeypatch.setattr("tts_tasks.ledger.batch_lines.in_order", die)
    with suppress(DiedError):
        call(books.another(), jobs)  # type: ignore[arg-type]
    monkeypatch.undo()
    for worker, lines in books.book.holders(BATCH).items():
        assert BATCH in books.book.claimed_by(worker), lines
    assert books.book.has_work(QUEUE) == (ready_lines(redis_url) > 0)


def ready_lines(url: str) -> int:
    """Return how many lines wait, listed or not."""
    return int(connect(url).llen(keys.batch_ready(BATCH)))
