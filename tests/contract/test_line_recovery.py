"""Lines that nobody works on come back: those of the dead, and those that no list leads to."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from tests.batch_books import BATCH, QUEUE, Books, ending, lines_of
from tests.recorded_events import RecordedEvents
from tts_tasks import keys
from tts_tasks.ledger.batch_lines import BatchLines
from tts_tasks.testing.batch_lines import MemoryBatchLines
from tts_workers.line_recovery import LineRecovery
from tts_workers.link import nonce_prefix

if TYPE_CHECKING:
    from tts_tasks.ledger.batch_records import TakenJob
    from tts_tasks.ledger.records import JobRecord

ME, OTHER = "w1", "w2"
CHILD, SUCCESSOR = 4711, 47110
LOST = {"reason": "worker lost, silent 0.2 s"}


class Died(Exception):  # noqa: N818 - it stands for a SIGKILL
    """The process is no more."""


def recovery_of(books: Books) -> LineRecovery:
    book: Any = books.book
    ledger: Any = books.ledger
    events: Any = RecordedEvents()
    return LineRecovery(book, ledger, events)


def taken_by(books: Books, child: int, jobs: int = 1) -> list[TakenJob]:
    """Take lines as a child of `ME`."""
    run = books.take(ME, jobs=jobs, nonce=nonce_prefix(child) + secrets.token_hex(4))
    assert run is not None
    return run.jobs


def reconcile(books: Books, **working_on: str) -> int:
    """Look after lines two times; ``working_on``: the living workers' jobs."""
    recovery = recovery_of(books)
    assert recovery.reconcile(QUEUE, working_on) == 0
    assert recovery.reconcile("another", working_on) == 0
    return recovery.reconcile(QUEUE, working_on)


def test_a_take_that_came_after_its_worker_was_recovered_is_given_back(books: Books) -> None:
    """Nobody looks at the list of claims of a worker that is no more; its line has no strike."""
    books.open(lines=2)
    taken_by(books, CHILD)
    assert reconcile(books, w2="") == 1
    assert books.book.held_by(BATCH, ME) == []
    run = books.take(OTHER)
    assert run is not None
    assert [(job.line, job.strikes) for job in run.jobs] == [(1, 0), (2, 0)]


def test_a_line_that_was_taken_since_the_last_look_is_left_alone(books: Books) -> None:
    """Its worker may not have been read of yet, nor have said what it works on."""
    books.open(lines=1)
    recovery = recovery_of(books)
    assert recovery.reconcile(QUEUE, {ME: ""}) == 0
    (job,) = taken_by(books, CHILD)
    assert recovery.reconcile(QUEUE, {ME: ""}) == 0
    books.book.release(BATCH, ME, [(1, job.attempt, False)])
    taken_by(books, CHILD)
    assert recovery.reconcile(QUEUE, {ME: ""}) == 0
    assert books.book.held_by(BATCH, ME) == [1]
    assert recovery.reconcile(QUEUE, {ME: ""}) == 1


def test_lines_ahead_of_the_one_that_is_spoken_are_left_alone(books: Books) -> None:
    """However long it takes until it is their turn; those of an earlier child go back."""
    books.open(lines=3)
    taken_by(books, CHILD)
    taken_by(books, SUCCESSOR, jobs=2)
    assert reconcile(books, w1=keys.batch_job_id(BATCH, 2)) == 1
    assert books.book.held_by(BATCH, ME) == [2, 3]


def test_a_worker_that_has_just_ended_its_line_is_not_doubted(books: Books) -> None:
    """What it said is a heartbeat old, and the line may be flushed."""
    books.open(lines=2)
    taken = taken_by(books, CHILD, jobs=2)
    books.book.finish(BATCH, ME, [ending(taken[0])])
    assert reconcile(books, w1=keys.batch_job_id(BATCH, 1)) == 0
    assert reconcile(books, w1=keys.batch_job_id(BATCH, 77)) == 0
    assert books.book.held_by(BATCH, ME) == [2]


def test_what_a_worker_that_does_nothing_still_has_is_given_back(books: Books) -> None:
    """Its child has died, and the take came after that was seen."""
    books.open(lines=1)
    taken_by(books, CHILD)
    assert reconcile(books, w1="") == 1
    assert books.book.held_by(BATCH, ME) == []


def test_who_dies_as_it_finds_nothing_more_leaves_its_list_behind(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child takes ahead of what it speaks, and what it speaks may kill it at any moment."""
    books.open(lines=1)
    taken_by(books, CHILD)
    book = MemoryBatchLines if isinstance(books.book, MemoryBatchLines) else BatchLines
    with monkeypatch.context() as dying:

        def dies(*_: object) -> list[int]:
            raise Died

        dying.setattr(book, "held_by", dies)
        with pytest.raises(Died):
            books.take(ME)
    assert recovery_of(books).release(ME, {"reason": "it died"}) == (1, {QUEUE})


# -- who is to blame -------------------------------------------------------------------------------


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def recovery(books: Books, events: RecordedEvents) -> LineRecovery:
    parts: Any = (books.book, books.ledger, events)
    return LineRecovery(*parts)


def job(books: Books, line: int) -> JobRecord:
    return books.book.results(BATCH, [line])[line]


def strikes(books: Books, *lines: int) -> list[int]:
    return [job(books, line).strikes for line in lines]


def test_only_the_line_that_was_spoken_gets_the_strike(
    books: Books, recovery: LineRecovery, events: RecordedEvents
) -> None:
    """The others have done nothing; all are ready again, in the order of the file."""
    books.open(lines=5)
    books.taken(jobs=4)
    told = {**LOST, "job": f"{BATCH}:2"}
    assert recovery.release("w1", told) == (4, {QUEUE})
    assert strikes(books, 1, 2, 3, 4) == [0, 1, 0, 0]
    assert job(books, 2).evidence == {**told, "worker": "w1"}
    assert job(books, 2).struck_workers == ("w1",)
    assert books.book.claimed_by("w1") == []
    assert books.taken("w2", jobs=9)[0].line == 1
    (recovered,) = events.named("batch.recovered")
    assert (recovered["lines"], recovered["worker"]) == (4, "w1")
    assert [event["job"] for event in events.named("job.recovered")] == [f"{BATCH}:2"]


@pytest.mark.parametrize(
    ("told", "struck"),
    [("b1:1", 3), ("b1:3", 3), ("b1:4", 4), ("b1:9", 3), ("", 0), ("b2:3", 0), ("p.0:x", 0)],
)
def test_who_was_heard_a_while_ago_is_taken_to_have_gone_on(
    books: Books, recovery: LineRecovery, told: str, struck: int
) -> None:
    """It has ended the line that it told of; a worker that told of no line has spoken none."""
    books.open(lines=6)
    books.end(books.taken(jobs=2))
    books.taken(jobs=3)
    recovery.release("w1", {**LOST, "job": told})
    assert strikes(books, 3, 4, 5) == [int(line == struck) for line in (3, 4, 5)]


def test_a_dead_childs_successor_keeps_what_it_has_taken(
    books: Books, recovery: LineRecovery
) -> None:
    """However late the recovery comes."""
    books.open(lines=4)
    books.take(jobs=2, nonce=f"{nonce_prefix(11)}a")
    books.take(jobs=2, nonce=f"{nonce_prefix(12)}b")
    assert recovery.release("w1", {**LOST, "job": f"{BATCH}:1"}, 11)[0] == 2
    assert books.book.held_by(BATCH, "w1") == [3, 4]
    assert books.book.claimed_by("w1") == [BATCH]
    assert strikes(books, 1, 2, 3, 4) == [1, 0, 0, 0]


def test_recovering_twice_is_recovering_once(
    books: Books, recovery: LineRecovery, events: RecordedEvents
) -> None:
    """Any number of agents may do it."""
    books.open(lines=2)
    books.taken(jobs=2)
    told = {**LOST, "job": f"{BATCH}:1"}
    recovery.release("w1", told)
    assert recovery.release("w1", told) == (0, set())
    assert strikes(books, 1, 2) == [1, 0]
    assert len(events.named("batch.recovered")) == 1
    assert lines_of(books.taken("w2", jobs=9)) == [1]  # a line with strikes comes alone
    assert lines_of(books.taken("w2", jobs=9)) == [2]
