"""What every book of batches must do with lines: each is fed once, worked on by one, counted once.

Run on a real Redis, on a real cluster and in memory, as are ``test_batch_given_back.py``,
``test_batch_flushing.py``, ``test_batch_cancel_retry_remove.py`` and ``test_batch_shares.py``.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.batch_books import (
    BATCH,
    QUEUE,
    Books,
    chunk_of,
    claim_of,
    ending,
    lines_of,
    open_again,
)
from tts_tasks import keys
from tts_tasks.errors import ConflictError, RequestError, UnavailableError
from tts_tasks.ledger.batch_book import BatchBook
from tts_tasks.ledger.batch_lines import DONE_KEPT
from tts_tasks.ledger.batch_records import LineEnding
from tts_tasks.redis_connection import connect

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


def test_a_redis_that_is_away_is_said_so() -> None:
    """Every call says what to do."""
    book = BatchBook("redis://127.0.0.1:1/0", client=connect("redis://127.0.0.1:1/0", retries=0))
    with pytest.raises(UnavailableError, match="ttsctl up"):
        book.take(QUEUE, "w1", nonce="n", max_jobs=1, max_chars=1, max_strikes=1)
    with pytest.raises(UnavailableError, match="ttsctl up"):
        book.finish(BATCH, "w1", [LineEnding(1, 1, 1, "succeeded", {})])


# -- feeding and skipping -------------------------------------------------------------------------


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


def test_lines_that_were_counted_without_a_job_are_told_to_who_follows(books: Books) -> None:
    """A chunk whose report part was there already."""
    books.open()
    assert books.book.skip(BATCH, 1, succeeded=2, failed=1, lines=[1, 2, 4])
    assert books.book.ended_lines(BATCH, 0) == [(0, 1), (1, 2), (2, 4)]


# -- taking ---------------------------------------------------------------------------------------


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


# -- ending ---------------------------------------------------------------------------------------


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


def test_only_the_newest_ended_lines_are_kept(books: Books) -> None:
    """Their positions count from the first line that ever ended."""
    books.open()
    assert books.book.cancel(BATCH)  # so that feeding ends them
    for chunk in range(DONE_KEPT // 500 + 1):
        assert books.book.feed(BATCH, chunk + 1, chunk_of(500 * chunk + 1, 500 * chunk + 500))
    assert books.book.ended_lines(BATCH, 0, 2) == [(500, 501), (501, 502)]
    assert books.book.ended_lines(BATCH, DONE_KEPT + 499) == [(DONE_KEPT + 499, DONE_KEPT + 500)]
    assert books.book.ended_lines(BATCH, DONE_KEPT + 500) == []
