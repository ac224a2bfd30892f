"""Lines of a batch that a worker gives back or is taken: who gets them, when, and how often."""

from __future__ import annotations

from tests.batch_books import BATCH, QUEUE, Books, claim_of, lines_of

# -- giving back ----------------------------------------------------------------------------------


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


# -- elsewhere ------------------------------------------------------------------------------------


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
