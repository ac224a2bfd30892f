"""What every book of batches must do with lines: each is worked on by one, counted once, flushed.

Run on a real Redis, on a real cluster and in memory. Turns and shares are in
``test_batch_shares.py``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.batch_books import (
    BATCH,
    KINDS,
    QUEUE,
    Books,
    books_in_redis,
    books_of_kind,
    chunk_of,
    claim_of,
    ending,
    lines_of,
)
from tts_tasks import keys
from tts_tasks.errors import ConflictError, RequestError, UnavailableError
from tts_tasks.ledger.batch_book import BatchBook
from tts_tasks.ledger.batch_lines import DONE_KEPT
from tts_tasks.ledger.batch_records import LineEnding
from tts_tasks.redis_connection import connect

if TYPE_CHECKING:
    from typing import Any

    import redis


@pytest.fixture(params=KINDS)
def books(request: pytest.FixtureRequest) -> Books:
    """Each kind of book in turn, empty."""
    return books_of_kind(request.param, request)


def open_again(books: Books, **other: Any) -> bool:
    fields = {"source": "s", "output": BATCH, "queue": QUEUE, "created_ms": 1} | other
    return books.book.open(BATCH, **fields)


# -- opening, growing, sealing --------------------------------------------------------------------


def test_the_same_content_reattaches_and_other_content_conflicts(books: Books) -> None:
    """An id is the promise of one content and one output; what was opened first stands."""
    assert open_again(books, priority=2.0)
    assert not open_again(books, created_ms=9)
    for other in ({"source": "t"}, {"output": "elsewhere"}):
        with pytest.raises(ConflictError, match=BATCH):
            open_again(books, **other)
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.created_ms, batch.priority, batch.output) == (1, 2.0, BATCH)


@pytest.mark.parametrize("priority", [0.0, -1.0, float("inf"), float("nan")])
def test_a_priority_is_a_positive_number(books: Books, priority: float) -> None:
    """Virtual time is divided by it."""
    with pytest.raises(RequestError, match="priority"):
        open_again(books, priority=priority)


def test_the_manifest_grows_and_is_sealed(books: Books) -> None:
    """Chunks never get fewer; only a sealed batch can be complete."""
    books.open()
    books.book.grow(BATCH, 3)
    books.book.grow(BATCH, 2)
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.chunks, batch.sealed, batch.complete) == (3, False, False)
    books.book.seal(BATCH, chunks=3, accepted=0, rejected=4)
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.chunks, batch.complete, batch.total) == (3, True, 4)
    assert not batch.flushed_wholly


def test_a_batch_that_was_lost_while_it_was_submitted_is_an_error(books: Books) -> None:
    """Its submitter is told to begin again; feeding and skipping it does nothing."""
    books.open()
    books.lose_data()
    with pytest.raises(UnavailableError, match="again"):
        books.book.grow(BATCH, 1)
    with pytest.raises(UnavailableError, match="again"):
        books.book.seal(BATCH, chunks=1, accepted=1, rejected=0)
    assert not books.book.feed(BATCH, 1, chunk_of(1, 2))
    assert not books.book.skip(BATCH, 1, succeeded=1, failed=0)
    assert not books.book.reopen(BATCH, 1, chunk_of(1, 1))
    assert books.take() is None
    assert open_again(books)


def test_a_redis_that_is_away_is_said_so() -> None:
    """Every call says what to do."""
    book = BatchBook("redis://127.0.0.1:1/0", client=connect("redis://127.0.0.1:1/0", retries=0))
    with pytest.raises(UnavailableError, match="ttsctl up"):
        book.take(QUEUE, "w1", nonce="n", max_jobs=1, max_chars=1, max_strikes=1)
    with pytest.raises(UnavailableError, match="ttsctl up"):
        book.finish(BATCH, "w1", [LineEnding(1, 1, 1, "succeeded", {})])


# -- feeding and skipping ------------------------------------------------------------------------


def test_chunks_are_fed_in_their_order_and_once(books: Books) -> None:
    """Whoever comes second, or asks again after a lost reply, changes nothing."""
    books.open()
    assert not books.book.feed(BATCH, 2, chunk_of(3, 4))
    assert books.book.feed(BATCH, 1, chunk_of(1, 2))
    assert not books.book.feed(BATCH, 1, chunk_of(1, 2))
    assert books.book.feed(BATCH, 2, chunk_of(3, 4))
    assert books.book.backlog(QUEUE) == 4
    assert [(job.line, job.chunk) for job in books.taken()] == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_of_racing_feeders_one_feeds(books: Books) -> None:
    """Any number of workers may see that a window is low."""
    books.open()
    with ThreadPoolExecutor(4) as pool:
        fed = list(pool.map(lambda _: books.book.feed(BATCH, 1, chunk_of(1, 5)), range(8)))
    assert sum(fed) == 1
    assert books.book.backlog(QUEUE) == 5


def test_a_chunk_without_good_lines_is_to_flush_at_once(books: Books) -> None:
    """Its report part is of rejected lines only."""
    books.open()
    assert books.book.feed(BATCH, 1, [])
    assert books.book.to_flush(BATCH) == [1]
    assert books.take() is None


def test_a_chunk_that_is_reported_already_is_only_counted(books: Books) -> None:
    """After Redis was emptied, what storage knows is not worked on again."""
    books.open()
    assert books.book.skip(BATCH, 1, succeeded=3, failed=1, cancelled=1)
    assert not books.book.skip(BATCH, 1, succeeded=3, failed=1)
    assert not books.book.skip(BATCH, 3, succeeded=3, failed=1)
    books.book.seal(BATCH, chunks=1, accepted=5, rejected=0)
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.fed, batch.flushed, batch.complete, batch.flushed_wholly) == (1, 1, True, True)
    assert books.counts() == (3, 1, 1)
    assert books.book.to_flush(BATCH) == []


# -- taking --------------------------------------------------------------------------------------


def test_a_run_has_a_bounded_number_of_lines_and_chars(books: Books) -> None:
    """But at least one line, however long it is."""
    books.open()
    books.book.feed(BATCH, 1, [(1, 5), (2, 5), (3, 1), (4, 900), (5, 1)])
    found = [books.take(jobs=9, chars=10), books.take(jobs=9, chars=10), books.take(jobs=1)]
    assert [lines_of(run.jobs) for run in found if run] == [[1, 2], [3], [4]]
    last = books.take(jobs=9, chars=10)
    assert last is not None
    assert (last.batch, lines_of(last.jobs)) == (BATCH, [5])
    assert books.take() is None


def test_workers_that_take_at_the_same_time_get_different_lines(books: Books) -> None:
    """Each line is worked on by one."""
    books.open(lines=300)
    workers = [f"w{number}" for number in range(6)]
    shared = [books.another() for _ in workers]

    def work(number: int) -> list[int]:
        lines: list[int] = []
        for turn in range(100):
            run = shared[number].take(
                QUEUE, workers[number], nonce=f"{turn}", max_jobs=7, max_chars=999, max_strikes=3
            )
            if run is None:
                return lines
            lines += lines_of(run.jobs)
        return lines

    with ThreadPoolExecutor(len(workers)) as pool:
        found = list(pool.map(work, range(len(workers))))
    assert sorted(itertools.chain.from_iterable(found)) == list(range(1, 301))
    held = {worker: sorted(lines) for worker, lines in zip(workers, found, strict=True) if lines}
    assert books.book.holders(BATCH) == held


def test_a_take_whose_reply_was_lost_is_asked_again_without_harm(books: Books) -> None:
    """Under the same nonce it is the same run, also when another batch is next meanwhile."""
    books.open(lines=6)
    first = books.take(jobs=3, nonce="same")
    books.open("a0", lines=3)
    assert books.take(jobs=3, nonce="same") == first
    assert first is not None
    assert lines_of(first.jobs) == [1, 2, 3]
    assert books.book.held_by(BATCH, "w1") == [1, 2, 3]
    assert books.book.held_by("a0", "w1") == []


def test_asked_again_a_run_is_what_is_left_of_it(books: Books) -> None:
    """What has ended or was given back is not worked on again; then it is a take like any other."""
    books.open(lines=6)
    run = books.take(jobs=3, nonce="same")
    assert run is not None
    books.end(run.jobs[:1])
    books.book.release(BATCH, "w1", [(2, None, False)])
    again = books.take(jobs=3, nonce="same")
    assert again is not None
    assert again.jobs == run.jobs[2:]
    books.book.release(BATCH, "w1", [(3, None, False)])
    anew = books.take(jobs=2, nonce="same")
    assert anew is not None
    assert [(job.line, job.attempt) for job in anew.jobs] == [(3, 2), (2, 2)]


def test_a_nonce_is_that_of_its_worker(books: Books) -> None:
    """Two workers that choose the same one get different lines."""
    books.open(lines=4)
    found = [books.take(worker, jobs=2, nonce="same") for worker in ("w1", "w2")]
    assert [lines_of(run.jobs) for run in found if run] == [[1, 2], [3, 4]]


def test_a_worker_that_dies_before_its_take_has_the_batch_on_its_list(books: Books) -> None:
    """The list is written first; the recoverer finds that it holds nothing, and is done."""
    books.open(lines=2)
    books.note("w1", BATCH)
    assert books.book.claimed_by("w1") == [BATCH]
    assert books.book.held_by(BATCH, "w1") == []
    assert books.book.let_go(BATCH, "w1")
    assert books.book.claimed_by("w1") == []


def test_a_batch_stays_on_the_list_while_the_worker_has_lines(books: Books) -> None:
    """Lists lead recoverers to all that a worker has, and to jobs of other kinds besides."""
    books.open(lines=2)
    jobs = books.taken(jobs=1)
    books.note("w1", "pool.0:123")
    assert not books.book.let_go(BATCH, "w1")
    assert books.book.claimed_by("w1") == [BATCH]
    books.end(jobs)
    assert books.book.let_go(BATCH, "w1")
    assert books.book.claimed_by("w1") == []


def test_a_worker_that_finds_nothing_has_no_claim(books: Books) -> None:
    """A batch that is empty leaves the shares and the list."""
    books.open(lines=1)
    books.end(books.taken())
    assert books.take() is None
    assert books.book.claimed_by("w1") == []
    assert books.book.holders(BATCH) == {}


# -- ending --------------------------------------------------------------------------------------


def test_a_line_that_ends_is_counted_in_its_batch_and_its_chunk(books: Books) -> None:
    """Many end in one call, each in its own way."""
    books.open(lines=4)
    one, two, three, four = books.taken()
    states = [ending(one), ending(two, "failed"), ending(three, "cancelled")]
    assert books.book.finish(BATCH, "w1", states) == [True, True, True]
    assert books.counts() == (1, 1, 1)
    assert books.book.to_flush(BATCH) == []
    assert books.end([four]) == [True]
    assert books.book.to_flush(BATCH) == [1]
    assert books.book.ended_lines(BATCH, 0) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert books.book.ended_lines(BATCH, 1, 2) == [(1, 2), (2, 3)]
    batch = books.book.get(BATCH)
    assert batch is not None
    assert batch.complete
    results = books.book.results(BATCH, [1, 2, 5])
    assert {line: (job.state, job.result, job.worker) for line, job in results.items()} == {
        1: ("succeeded", {"uri": "u1"}, "w1"),
        2: ("failed", {"uri": "u2"}, "w1"),
    }


def test_finishing_twice_is_finishing_once(books: Books) -> None:
    """A reply that was lost is asked for again; another outcome is refused."""
    books.open(lines=2)
    jobs = books.taken(jobs=1)
    assert books.end(jobs) == [True]
    assert books.end(jobs) == [True]
    assert books.end([*jobs, *jobs]) == [True, True]
    assert books.end(jobs, "failed") == [False]
    assert books.counts() == (1, 0, 0)
    assert books.book.ended_lines(BATCH, 0) == [(0, 1)]


def test_only_the_newest_attempt_ends_a_line(books: Books) -> None:
    """The first worker comes back after its lines went to a second; the good ones are counted."""
    books.open(lines=3)
    first = books.taken("w1")
    books.book.release(BATCH, "w1", [(1, None, False)])
    (second,) = books.taken("w2")
    assert second.attempt == first[0].attempt + 1
    assert books.end(first, worker="w1") == [False, True, True]
    assert books.end([second], worker="w1") == [False]
    other_chunk = LineEnding(second.line, 7, second.attempt, "succeeded", {})
    assert books.book.finish(BATCH, "w2", [other_chunk]) == [False]
    assert books.end([second], "failed", worker="w2") == [True]
    assert books.counts() == (2, 1, 0)


def test_an_earlier_attempt_of_the_same_worker_ends_nothing(books: Books) -> None:
    """Its child was taken for dead and lives: the name is right, the attempt is not."""
    books.open(lines=1)
    (first,) = books.taken()
    books.book.release(BATCH, "w1", [(1, None, True)])
    (second,) = books.taken()
    assert books.end([first]) == [False]
    assert books.end([second]) == [True]


def test_a_line_ends_in_no_other_way(books: Books) -> None:
    """A state that nobody counts is a mistake of the caller."""
    books.open(lines=1)
    (job,) = books.taken()
    with pytest.raises(ValueError, match="lost"):
        books.end([job], "lost")
    assert books.book.finish(BATCH, "w1", []) == []


def test_an_ending_of_a_batch_that_is_not_there_is_refused(books: Books) -> None:
    """Nothing comes into being by it."""
    assert books.book.finish(BATCH, "w1", [LineEnding(1, 1, 1, "succeeded", {})]) == [False]
    assert books.book.get(BATCH) is None
    assert books.book.ended_lines(BATCH, 0) == []


# -- giving back ---------------------------------------------------------------------------------


def test_the_lines_of_a_dead_worker_go_to_the_head_in_their_order(books: Books) -> None:
    """Who has waited longest is served first."""
    books.open(lines=6)
    books.taken("w1", jobs=2)
    books.taken("w2", jobs=2)
    held = books.book.held_by(BATCH, "w1")
    assert held == [1, 2]
    released = books.book.release(BATCH, "w1", [(line, None, False) for line in reversed(held)])
    assert released == [0, 0]
    assert books.book.claimed_by("w1") == []
    assert books.book.holders(BATCH) == {"w2": [3, 4]}
    assert lines_of(books.taken("w3")) == [1, 2, 5, 6]


def test_only_what_the_worker_has_is_taken_back(books: Books) -> None:
    """A release names what was seen; what has changed since is left alone."""
    books.open(lines=3)
    one, two, three = books.taken("w1")
    books.end([three])
    asked: list[tuple[int, int | None, bool]] = [(1, one.attempt, False), (3, None, True)]
    assert books.book.release(BATCH, "w2", asked) == [None, None]
    assert books.book.release(BATCH, "w1", asked) == [0, None]
    assert books.book.release(BATCH, "w1", asked) == [None, None]
    (again,) = books.taken("w1")
    assert books.book.release(BATCH, "w1", [(1, one.attempt, True), (9, None, True)]) == [None] * 2
    assert books.end([again, two]) == [True, True]
    assert books.book.release("unknown", "w1", [(1, None, True)]) == [None]
    assert books.book.release(BATCH, "w1", []) == []


def test_only_a_line_that_is_struck_has_a_strike_and_is_taken_alone(books: Books) -> None:
    """What may have killed a worker takes no other line with it."""
    books.open(lines=4)
    books.taken("w1", jobs=3)
    struck: list[tuple[int, int | None, bool]] = [(1, None, False), (2, None, True), (3, 1, False)]
    assert books.book.release(BATCH, "w1", struck) == [0, 1, 0]
    assert lines_of(books.taken("w2")) == [1]
    (alone,) = books.taken("w2")
    assert (alone.line, alone.strikes, alone.exhausted) == (2, 1, False)
    assert lines_of(books.taken("w2")) == [3, 4]


def test_a_line_that_loses_its_workers_is_exhausted_unless_it_makes_progress(books: Books) -> None:
    """It comes back marked, to be failed by whoever took it."""
    books.open(lines=1)
    for strikes in (0, 1):
        (job,) = books.taken()
        assert (job.strikes, job.exhausted) == (strikes, False)
        books.book.release(BATCH, "w1", [(1, job.attempt, True)])
    (job,) = books.taken()
    assert books.append(claim_of(job), 1, 4)
    assert books.book.release(BATCH, "w1", [(1, None, True)]) == [1]
    for _ in range(2):
        (job,) = books.taken()
        assert (job.segments_done, job.exhausted) == (1, False)
        books.book.release(BATCH, "w1", [(1, job.attempt, True)])
    (job,) = books.taken()
    assert (job.strikes, job.exhausted) == (3, True)
    assert books.end([job], "failed") == [True]


def test_a_taken_line_is_a_job_of_the_ledger(books: Books) -> None:
    """Progress is noted, and refused to a stale attempt; what is not taken has no job."""
    books.open(lines=2)
    (first,) = books.taken("w1", jobs=1)
    record = books.ledger.get(keys.batch_job_id(BATCH, 1))
    assert record is not None
    assert (record.state, record.attempt, record.worker) == ("running", 1, "w1")
    assert (record.request, record.meta.batch, record.meta.line) == ({}, BATCH, 1)
    assert books.ledger.get(keys.batch_job_id(BATCH, 2)) is None
    assert books.append(claim_of(first), 1, 2)
    books.book.release(BATCH, "w1", [(1, None, False)])
    (second,) = books.taken("w2", jobs=1)
    assert not books.append(claim_of(first), 2, 2)
    assert books.append(claim_of(second, "w2"), 2, 2)


def test_a_line_that_the_ledger_released_is_put_back_by_the_book(books: Books) -> None:
    """The ledger knows of no list; its strike counts, and there is no second one."""
    books.open(lines=2)
    (job,) = books.taken(jobs=1)
    claim = claim_of(job)
    assert books.ledger.release(claim.job_id, "w1", job.attempt, strike=True) == 1
    assert books.book.held_by(BATCH, "w1") == [1]
    assert books.end([job]) == [False]
    assert books.book.release(BATCH, "w2", [(1, None, True)]) == [None]
    assert books.book.release(BATCH, "w1", [(1, None, True)]) == [1]
    assert [(job.line, job.strikes) for job in books.taken("w2")] == [(1, 1)]


# -- flushing ------------------------------------------------------------------------------------


def test_a_chunk_is_flushed_once_by_racing_flushers(books: Books) -> None:
    """Its jobs go, and the others stay."""
    books.open()
    books.book.seal(BATCH, chunks=2, accepted=5, rejected=0)
    books.book.feed(BATCH, 1, chunk_of(1, 3))
    books.book.feed(BATCH, 2, chunk_of(4, 5))
    jobs = books.taken()
    books.end(jobs[:2])
    assert not books.book.flushed(BATCH, 1, [1, 2, 3])
    books.end(jobs[2:4])
    with ThreadPoolExecutor(4) as pool:
        flushed = list(pool.map(lambda _: books.book.flushed(BATCH, 1, [1, 2, 3]), range(8)))
    assert sum(flushed) == 1
    assert books.book.to_flush(BATCH) == []
    assert list(books.book.results(BATCH, [1, 2, 3, 4, 5])) == [4, 5]
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.flushed, batch.flushed_wholly, batch.complete) == (1, False, False)
    assert books.end(jobs[4:]) == [True]
    assert books.book.flushed(BATCH, 2, [4, 5])
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.flushed_wholly, batch.complete) == (True, True)


def test_a_report_is_noted_when_all_is_flushed(books: Books) -> None:
    """Until then the batch is on the list of those that need one."""
    books.open(lines=1)
    books.end(books.taken())
    assert not books.book.reported(BATCH, "uri", retention_s=60)
    assert [batch.id for batch in books.book.unreported()] == [BATCH]
    books.book.flushed(BATCH, 1, [1])
    assert books.book.may_report(BATCH)
    assert not books.book.may_report(BATCH)
    assert books.book.reported(BATCH, "uri", retention_s=60)
    assert books.book.unreported() == []
    assert not open_again(books)
    assert books.book.unreported() == []
    assert [batch.report for batch in books.book.all()] == ["uri"]


def test_batches_are_listed_and_a_lost_list_is_written_again(books: Books) -> None:
    """A batch with ready lines that nothing lists would never be worked on."""
    books.open("b2", lines=1)
    books.open("b3", lines=1)
    assert sorted(batch.id for batch in books.book.all()) == ["b2", "b3"]
    books.unlist("b2")
    assert books.book.backlog(QUEUE) == 1
    books.book.relist()
    assert books.book.backlog(QUEUE) == 2
    assert [batch.id for batch in books.book.unreported()] == ["b2", "b3"]


def test_only_the_newest_ended_lines_are_kept(books: Books) -> None:
    """Their positions count from the first line that ever ended."""
    books.open()
    assert books.book.cancel(BATCH)  # so that feeding ends them
    for chunk in range(DONE_KEPT // 500 + 1):
        assert books.book.feed(BATCH, chunk + 1, chunk_of(500 * chunk + 1, 500 * chunk + 500))
    assert books.book.ended_lines(BATCH, 0, 2) == [(500, 501), (501, 502)]
    assert books.book.ended_lines(BATCH, DONE_KEPT + 499) == [(DONE_KEPT + 499, DONE_KEPT + 500)]
    assert books.book.ended_lines(BATCH, DONE_KEPT + 500) == []


# -- cancelling ----------------------------------------------------------------------------------


def test_cancelled_at_every_moment_all_lines_are_counted(books: Books) -> None:
    """Ready, running, given back, ended and not flushed, flushed, never fed: none twice."""
    books.open()
    books.book.grow(BATCH, 3)
    books.book.feed(BATCH, 1, chunk_of(1, 2))
    books.book.feed(BATCH, 2, chunk_of(3, 9))
    books.end(books.taken(jobs=2))
    books.book.flushed(BATCH, 1, [1, 2])
    ended, failed, running, back, struck = books.taken("w1", jobs=5)
    books.end([ended])
    books.end([failed], "failed")
    books.book.release(BATCH, "w1", [(back.line, None, False)])
    books.ledger.release(claim_of(struck).job_id, "w1", None, strike=True)
    assert not books.book.is_cancelled(BATCH)
    assert books.book.cancel(BATCH)
    assert books.book.cancel(BATCH)  # asked again after a lost reply
    assert books.book.is_cancelled(BATCH)
    assert books.counts() == (3, 1, 5)
    assert books.take() is None
    assert books.book.holders(BATCH) == {}
    assert not books.append(claim_of(running), 1, 2)
    assert books.end([running, struck]) == [False, False]
    assert books.book.release(BATCH, "w1", [(running.line, None, True)]) == [None]
    assert books.book.to_flush(BATCH) == [2]
    states = {line: job.state for line, job in books.book.results(BATCH, range(3, 10)).items()}
    assert states == {
        3: "succeeded",
        4: "failed",
        **dict.fromkeys((5, 6, 7), "cancelled"),
    }  # 8 and 9 were never taken
    assert books.book.feed(BATCH, 3, chunk_of(10, 12))
    assert books.book.to_flush(BATCH) == [2, 3]
    books.book.seal(BATCH, chunks=3, accepted=12, rejected=2)
    assert books.counts() == (3, 1, 8)
    for chunk in (2, 3):
        assert books.book.flushed(BATCH, chunk, range(3, 13))
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.complete, batch.flushed_wholly) == (True, True)
    lines = [line for _, line in books.book.ended_lines(BATCH, 0)]
    assert sorted(lines) == list(range(1, 13))


def test_a_batch_that_has_ended_cannot_be_cancelled(books: Books) -> None:
    """Nor one that there is not."""
    books.open(lines=1)
    books.end(books.taken())
    assert not books.book.cancel(BATCH)
    assert not books.book.is_cancelled(BATCH)
    assert not books.book.cancel("unknown")
    assert not books.book.is_cancelled("unknown")


def test_cancelling_takes_no_line_twice_from_those_who_end_them(books: Books) -> None:
    """Workers finish and take while it happens; each line is counted once."""
    books.open(lines=120)
    workers = [f"w{number}" for number in range(3)]
    clients = [books.another() for _ in workers]

    def work(number: int) -> None:
        book, worker = clients[number], workers[number]
        limits = {"max_jobs": 4, "max_chars": 999, "max_strikes": 3}
        turn = 0
        while run := book.take(QUEUE, worker, nonce=f"{turn}", **limits):
            turn += 1
            if turn == 4 and number == 0:
                book.cancel(BATCH)
            book.finish(BATCH, worker, [ending(job) for job in run.jobs])

    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(work, range(len(workers))))
    succeeded, failed, cancelled = books.counts()
    assert succeeded + cancelled == 120
    assert cancelled > 0
    assert failed == 0
    ended = Counter(line for _, line in books.book.ended_lines(BATCH, 0))
    assert ended == Counter(range(1, 121))
    assert books.book.to_flush(BATCH) == [1]


# -- trying again --------------------------------------------------------------------------------


def done_with_failures(books: Books) -> None:
    """Bring a batch of three lines to its end: the second and the third have failed."""
    books.open(lines=3)
    jobs = books.taken()
    books.end(jobs[:1])
    books.end(jobs[1:], "failed")
    assert books.book.flushed(BATCH, 1, [1, 2, 3])
    assert books.book.reported(BATCH, "uri", retention_s=60)


def test_failed_lines_are_tried_again(books: Books) -> None:
    """The counters are corrected, the report is void, and the chunk is flushed anew."""
    done_with_failures(books)
    assert books.book.reopen(BATCH, 1, chunk_of(2, 3))
    assert not books.book.reopen(BATCH, 1, chunk_of(2, 3))  # asked again after a lost reply
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.complete, batch.flushed, batch.report) == (False, 0, None)
    assert books.counts() == (1, 0, 0)
    assert [batch.id for batch in books.book.unreported()] == [BATCH]
    assert not books.book.reported(BATCH, "late", retention_s=60)
    jobs = books.taken("w2")
    assert [(job.line, job.attempt) for job in jobs] == [(2, 1), (3, 1)]
    assert books.end(jobs, worker="w2") == [True, True]
    assert books.counts() == (3, 0, 0)
    assert books.book.flushed(BATCH, 1, [2, 3])
    assert books.book.reported(BATCH, "uri", retention_s=60)


def test_no_more_lines_are_tried_again_than_have_failed(books: Books) -> None:
    """The counters never go below zero."""
    done_with_failures(books)
    assert not books.book.reopen(BATCH, 1, chunk_of(1, 3))
    assert not books.book.reopen(BATCH, 1, chunk_of(2, 3), cancelled=1)
    assert not books.book.reopen(BATCH, 2, chunk_of(2, 3))
    assert not books.book.reopen(BATCH, 1, [])
    assert books.counts() == (1, 2, 0)


def test_a_cancelled_batch_goes_on_when_it_is_tried_again(books: Books) -> None:
    """What was cancelled is ready again, and what is fed next is not cancelled."""
    books.open(lines=3)
    (job,) = books.taken(jobs=1)
    books.end([job], "failed")
    books.book.cancel(BATCH)
    assert not books.book.reopen(BATCH, 1, chunk_of(1, 3), cancelled=2)  # not flushed yet
    books.book.flushed(BATCH, 1, [1, 2, 3])
    assert books.book.reopen(BATCH, 1, chunk_of(1, 3), cancelled=2)
    assert not books.book.is_cancelled(BATCH)
    assert books.counts() == (0, 0, 0)
    assert books.end(books.taken()) == [True, True, True]


def test_a_removed_batch_is_gone_and_its_workers_are_refused(books: Books) -> None:
    """Removing again does nothing; the id is free."""
    books.open(lines=4)
    jobs = books.taken(jobs=3)
    books.end(jobs[:1])
    books.book.release(BATCH, "w1", [(3, None, False)])
    books.book.remove(BATCH)
    books.book.remove(BATCH)
    assert books.book.get(BATCH) is None
    assert (books.book.all(), books.book.unreported()) == ([], [])
    assert books.end(jobs) == [False] * 3
    assert not books.append(claim_of(jobs[1]), 1, 2)
    assert books.book.release(BATCH, "w1", [(2, None, True)]) == [None]
    assert books.book.results(BATCH, [1, 2, 3, 4]) == {}
    assert (books.take(), books.book.backlog(QUEUE)) == (None, 0)
    assert books.book.get(BATCH) is None
    assert open_again(books)


# -- what stays in Redis --------------------------------------------------------------------------


def keys_left(client: redis.Redis) -> set[str]:
    return set(client.scan_iter(f"tts:{{{BATCH}}}:*"))


def test_nothing_of_a_removed_batch_stays_in_redis(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Also of lines that run, were given back, or have ended."""
    books = books_in_redis(redis_url)
    books.open(lines=4)
    books.end(books.taken(jobs=2)[:1])
    books.taken("w2", jobs=1)
    books.book.release(BATCH, "w2", [(3, None, True)])
    assert len(keys_left(redis_client)) > 5
    books.book.remove(BATCH)
    assert keys_left(redis_client) == set()


def test_a_reported_batch_expires_and_a_reopened_one_does_not(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Nothing of it is left after its retention; while it is tried again nothing goes."""
    books = books_in_redis(redis_url)
    done_with_failures(books)
    left = keys_left(redis_client)
    assert left == {keys.batch(BATCH), keys.batch_done(BATCH)}
    assert all(0 < redis_client.ttl(key) <= 60 for key in left)
    books.book.reopen(BATCH, 1, chunk_of(2, 2))
    assert all(redis_client.ttl(key) == -1 for key in keys_left(redis_client))


def test_redis_holds_no_more_of_a_longer_batch(redis_url: str, redis_client: redis.Redis) -> None:
    """20,000 lines go through a window of two chunks: what is in Redis is the window."""
    books = books_in_redis(redis_url)
    books.open()
    chunks, size = 40, 500
    most = 0

    def in_memory_bytes() -> int:
        return sum(redis_client.memory_usage(key) or 0 for key in keys_left(redis_client))

    at_first_bytes = 0
    for chunk in range(1, chunks + 1):
        first = (chunk - 1) * size + 1
        books.book.grow(BATCH, chunk)
        assert books.book.feed(BATCH, chunk, chunk_of(first, first + size - 1))
        while run := books.take(jobs=64, chars=64 * 10):
            assert all(books.end(run.jobs))
        if chunk in (2, 20, chunks):
            most = max(most, len(keys_left(redis_client)))
            at_first_bytes = at_first_bytes or in_memory_bytes()
        for ended in books.book.to_flush(BATCH):
            if ended < chunk:
                start = (ended - 1) * size + 1
                assert books.book.flushed(BATCH, ended, range(start, start + size))
    assert most <= 2 * size + 6
    assert in_memory_bytes() < at_first_bytes + 200_000  # the list of ended lines
    assert books.book.flushed(BATCH, chunks, range((chunks - 1) * size + 1, chunks * size + 1))
    books.book.seal(BATCH, chunks=chunks, accepted=chunks * size, rejected=0)
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.succeeded, batch.flushed_wholly) == (chunks * size, True)
    assert keys_left(redis_client) == {
        keys.batch(BATCH),
        keys.batch_done(BATCH),
        keys.batch_runs(BATCH),
    }
    assert in_memory_bytes() < 200_000
    assert redis_client.llen(keys.batch_done(BATCH)) == DONE_KEPT


def test_a_line_that_was_given_back_untried_has_had_no_attempt(books: Books) -> None:
    """Its number goes to the next one; what another worker did under it is not mixed up."""
    books.open(lines=2)
    jobs = books.taken("w1")
    back = [(job.line, job.attempt, False) for job in jobs]
    assert books.book.release(BATCH, "w1", back, untried=True) == [0, 0]
    assert books.book.release(BATCH, "w1", back, untried=True) == [None, None]
    (again, _) = books.taken("w2")
    assert again.attempt == 1
    assert books.end(jobs[:1], worker="w1") == [False]
    assert books.book.release(BATCH, "w1", back[:1], untried=True) == [None]
    assert books.end([again], worker="w2") == [True]


# -- elsewhere -------------------------------------------------------------------------------------


def struck(books: Books, worker: str, *, strikes: int = 3) -> int:
    """Take the next line, fail over it, and give it back; returns the line."""
    (job,) = books.taken(worker, jobs=1)
    books.ledger.release(claim_of(job).job_id, worker, job.attempt, strike=True)
    books.book.release(BATCH, worker, [(job.line, job.attempt, False)])
    return job.line


def test_a_line_over_which_a_worker_failed_is_left_to_others_for_a_while(books: Books) -> None:
    """The worker goes on with what is behind it, others may have it at once, in its place."""
    books.open(lines=4)
    assert struck(books, "w1") == 1
    run = books.take("w1", jobs=2, elsewhere_s=30)
    assert run is not None
    assert lines_of(run.jobs) == [2]  # of two that it looked at
    run = books.take("w2", jobs=4, elsewhere_s=30)
    assert run is not None
    assert lines_of(run.jobs) == [1]
    books.book.release(BATCH, "w2", [(1, None, False)])
    run = books.take("w1", elsewhere_s=30)
    assert run is not None
    assert lines_of(run.jobs) == [3, 4]
    assert books.book.ready(BATCH) == 1
    assert books.take("w1", elsewhere_s=30) is None
    assert books.book.has_work(QUEUE)
    books.let_pass(claim_of(run.jobs[0]).job_id.rpartition(":")[0] + ":1", 31)
    again = books.take("w1", elsewhere_s=30)
    assert again is not None
    assert lines_of(again.jobs) == [1]


def test_where_there_are_no_others_a_worker_tries_again_at_once(books: Books) -> None:
    """And a clock that was set back keeps a line from nobody."""
    books.open(lines=1)
    struck(books, "w1")
    (job,) = books.taken("w1")
    books.ledger.release(claim_of(job).job_id, "w1", job.attempt, strike=True)
    books.book.release(BATCH, "w1", [(1, job.attempt, False)])
    books.let_pass(claim_of(job).job_id, -3600)
    assert books.take("w1", elsewhere_s=30) is not None


def test_a_line_that_is_to_be_ended_need_not_wait_for_others(books: Books) -> None:
    """There is nothing left to be tried elsewhere."""
    books.open(lines=1)
    for _ in range(3):
        struck(books, "w1")
    run = books.take("w1", elsewhere_s=30)
    assert run is not None
    assert run.jobs[0].exhausted


def test_struck_lines_keep_their_order_when_they_are_left_to_others(books: Books) -> None:
    """They are put back at the head as they were."""
    books.open(lines=3)
    jobs = books.taken("w1", jobs=2)
    for job in jobs:
        books.ledger.release(claim_of(job).job_id, "w1", job.attempt, strike=True)
    books.book.release(BATCH, "w1", [(job.line, job.attempt, False) for job in jobs])
    run = books.take("w1", elsewhere_s=30)
    assert run is not None
    assert lines_of(run.jobs) == [3]
    taken = [books.taken("w2", jobs=3)[0].line for _ in range(2)]
    assert taken == [1, 2]


def test_lines_that_were_counted_without_a_job_are_told_to_who_follows(books: Books) -> None:
    """A chunk whose report part was there already."""
    books.open()
    assert books.book.skip(BATCH, 1, succeeded=2, failed=1, lines=[1, 2, 4])
    assert books.book.ended_lines(BATCH, 0) == [(0, 1), (1, 2), (2, 4)]


def test_who_may_report_a_reopened_batch_is_asked_anew(books: Books) -> None:
    """Its report of before may have been written a moment ago."""
    books.open(lines=1)
    books.end(books.taken(), "failed")
    assert books.book.flushed(BATCH, 1, [1])
    assert books.book.may_report(BATCH)
    assert books.book.reported(BATCH, "u", retention_s=60)
    assert books.book.reopen(BATCH, 1, chunk_of(1, 1))
    assert books.book.may_report(BATCH)


def test_a_segment_log_goes_with_a_line_that_nobody_ends(books: Books) -> None:
    """Of a cancelled line when its chunk is flushed, of all when the batch is removed."""
    books.open(lines=2)
    jobs = books.taken()
    first, second = map(claim_of, jobs)
    for claim in (first, second):
        assert books.append(claim, 1, 2)
    books.end(jobs[:1])
    books.book.cancel(BATCH)
    assert books.book.flushed(BATCH, 1, [1, 2])
    assert books.log.exists(first.job_id)  # whoever ended it lets it go
    assert not books.log.exists(second.job_id)
    books.log.remove([first.job_id])
    assert not books.log.exists(first.job_id)


def test_nothing_is_left_of_a_removed_batch_not_even_its_segments(books: Books) -> None:
    """Somebody may be in the middle of a line."""
    books.open(lines=1)
    (claim,) = (claim_of(job) for job in books.taken())
    assert books.append(claim, 1, 2)
    books.book.remove(BATCH)
    assert not books.log.exists(claim.job_id)
