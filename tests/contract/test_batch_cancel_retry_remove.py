"""A batch is cancelled, tried again or removed at any moment, and each line is counted once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.batch_books import (
    BATCH,
    QUEUE,
    Books,
    chunk_of,
    claim_of,
    done_with_failures,
    ending,
    open_again,
)

# -- cancelling -----------------------------------------------------------------------------------


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


# -- trying again ---------------------------------------------------------------------------------


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


def test_who_may_report_a_reopened_batch_is_asked_anew(books: Books) -> None:
    """Its report of before may have been written a moment ago."""
    books.open(lines=1)
    books.end(books.taken(), "failed")
    assert books.book.flushed(BATCH, 1, [1])
    assert books.book.may_report(BATCH)
    assert books.book.reported(BATCH, "u", retention_s=60)
    assert books.book.reopen(BATCH, 1, chunk_of(1, 1))
    assert books.book.may_report(BATCH)


# -- removing -------------------------------------------------------------------------------------


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


def test_nothing_is_left_of_a_removed_batch_not_even_its_segments(books: Books) -> None:
    """Somebody may be in the middle of a line."""
    books.open(lines=1)
    (claim,) = (claim_of(job) for job in books.taken())
    assert books.append(claim, 1, 2)
    books.book.remove(BATCH)
    assert not books.log.exists(claim.job_id)
