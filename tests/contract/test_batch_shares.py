"""What every book of batches must do between batches: fair shares, and turns of outputs.

Run on a real Redis, on a real cluster and in memory.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.batch_books import BATCH, QUEUE, Books, books_in_redis, chunk_of, ending
from tts_tasks.ledger.turns import TurnOrder

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis


def chars_taken(books: Books, runs: int, *, jobs: int = 2) -> Counter[str]:
    """Take so many runs; returns how many lines of each batch came."""
    taken: Counter[str] = Counter()
    for _ in range(runs):
        run = books.take(jobs=jobs)
        assert run is not None
        taken[run.batch] += len(run.jobs)
    return taken


# -- fair shares ----------------------------------------------------------------------------------


def test_batches_of_equal_priority_get_equal_shares(books: Books) -> None:
    """Of characters, not of lines: long lines do not count as short ones."""
    books.open("short")
    books.book.feed("short", 1, chunk_of(1, 400, chars=5))
    books.open("long")
    books.book.feed("long", 1, chunk_of(1, 400, chars=50))
    taken = chars_taken(books, 66)
    assert taken["short"] == 10 * taken["long"]


def test_twice_the_priority_is_twice_the_share(books: Books) -> None:
    """The weight divides what a run costs."""
    books.open("b2", priority=2.0, lines=200)
    books.open("b1", priority=1.0, lines=200)
    taken = chars_taken(books, 60)
    assert taken == {"b2": 80, "b1": 40}


def test_a_new_batch_starts_where_the_others_are(books: Books) -> None:
    """It gets its share at once, and no more: what was before it came does not count."""
    books.open("large", lines=400)
    chars_taken(books, 50)
    books.open("small", lines=60)
    assert chars_taken(books, 20) == {"large": 20, "small": 20}


def test_a_batch_without_ready_lines_saves_nothing_up(books: Books) -> None:
    """When its next chunk is fed it goes on beside the others; meanwhile they have it all."""
    books.open("b2", lines=400)
    books.open("b1", lines=2)
    assert chars_taken(books, 2) == {"b1": 2, "b2": 2}
    assert chars_taken(books, 50) == {"b2": 100}
    books.book.feed("b1", 2, chunk_of(3, 100))
    assert chars_taken(books, 20) == {"b1": 20, "b2": 20}


def test_a_batch_that_comes_back_owes_what_it_owed(books: Books) -> None:
    """Running dry for a moment is no way to get more than others."""
    books.open("b1", lines=40)
    books.open("b2", lines=40)
    books.take(jobs=40)
    assert books.take(jobs=1, worker="w2") is not None
    books.unlist("b1")
    books.book.feed("b1", 2, chunk_of(41, 60))
    assert chars_taken(books, 18) == {"b2": 36}


def test_asking_again_for_a_run_costs_nothing(books: Books) -> None:
    """The batch is charged for a run by the script that takes it, once."""
    books.open("b1", lines=40)
    books.open("b2", lines=40)
    for _ in range(5):
        books.take(jobs=2, nonce="same")
    assert chars_taken(books, 9) == {"b1": 8, "b2": 10}


def test_each_queue_has_its_own_batches(books: Books) -> None:
    """A worker takes only what its pool can speak."""
    books.open(lines=1)
    other = "tts.batch.other"
    assert not books.book.has_work(other)
    assert books.book.has_work(QUEUE)
    limits = {"max_jobs": 9, "max_chars": 99, "max_strikes": 3}
    assert books.book.take(other, "w1", nonce="n", **limits) is None


def test_there_is_work_while_a_line_is_ready(books: Books) -> None:
    """Lines that run are nobody's work; those that were given back are."""
    assert not books.book.has_work(QUEUE)
    books.open(lines=2)
    assert (books.book.has_work(QUEUE), books.book.backlog(QUEUE)) == (True, 2)
    books.taken()
    assert (books.book.has_work(QUEUE), books.book.backlog(QUEUE)) == (False, 0)
    assert books.take() is None
    books.book.release(BATCH, "w1", [(1, None, False)])
    assert (books.book.has_work(QUEUE), books.book.backlog(QUEUE)) == (True, 1)
    books.book.cancel(BATCH)
    assert (books.book.has_work(QUEUE), books.book.backlog(QUEUE)) == (False, 0)


def test_a_batch_that_got_lines_while_it_was_struck_off_is_listed(books: Books) -> None:
    """A taker finds nothing, a feeder feeds, the taker strikes off: the lines must be found."""
    books.open()
    books.book.feed(BATCH, 1, [])
    another = books.another()
    owner, name = books.leaving(another)
    struck_off = getattr(owner, name)

    def late(queue: str, batch_id: str) -> None:
        assert books.book.feed(BATCH, 2, chunk_of(1, 3))
        struck_off(queue, batch_id)

    setattr(owner, name, late)
    limits = {"max_jobs": 9, "max_chars": 99, "max_strikes": 3}
    assert another.take(QUEUE, "w1", nonce="n", **limits) is None
    assert books.book.has_work(QUEUE)
    assert len(books.taken("w2")) == 3


def test_many_batches_that_wait_hide_none_that_does_not(books: Books) -> None:
    """More of them than are looked at at once."""
    books.open("first", output="out")
    for number in range(60):
        books.open(f"a{number:02}", output="out", lines=1)
    books.open("z", lines=1)
    run = books.take()
    assert run is not None
    assert run.batch == "z"
    assert books.take() is None
    assert not books.book.has_work(QUEUE)
    assert books.book.backlog(QUEUE) == 60


# -- turns of outputs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ("a", "a", True),
        ("a", "a/b", True),
        ("a/b", "a", True),
        ("a/b/c", "a", True),
        ("a", "ab", False),
        ("ab", "a", False),
        ("a/b", "a/c", False),
        ("a/b", "a/bc", False),
        ("a", "b", False),
    ],
)
def test_outputs_overlap_when_one_lies_in_the_other(
    first: str, second: str, *, overlap: bool
) -> None:
    """By folders, not by letters; the one that came first never waits."""
    order = TurnOrder({"b1": f"1 {first}", "b2": f"2 {second}"})
    assert order.before("b2") == (["b1"] if overlap else [])
    assert order.before("b1") == []


def test_turns_come_in_the_order_of_arrival() -> None:
    """By number, whatever the depth of the folder."""
    entries = {"x": "10 a/b", "y": "9 a", "z": "2 a/b/c", "other": "1 c", "last": "11 a/b"}
    assert TurnOrder(entries).before("last") == ["z", "y", "x"]
    assert TurnOrder(entries).before("y") == ["z"]


def test_batches_with_one_output_are_worked_on_one_after_the_other(books: Books) -> None:
    """The second has work, but not its turn, until the first has ended."""
    books.open("first", output="out", lines=2)
    books.open("second", output="out/deeper", lines=2)
    books.open("third", output="output", lines=2)
    assert books.book.waits_for("first") == []
    assert books.book.waits_for("second") == ["first"]
    assert books.book.waits_for("third") == []
    assert chars_taken(books, 2) == {"first": 2, "third": 2}
    assert (books.take(), books.book.has_work(QUEUE)) == (None, False)
    assert books.book.backlog(QUEUE) == 2
    end_all(books, "first")
    assert books.book.waits_for("second") == []
    assert chars_taken(books, 1) == {"second": 2}


def end_all(books: Books, batch_id: str) -> None:
    """End what a worker has of a batch."""
    lines = books.book.held_by(batch_id, "w1")
    jobs = books.book.results(batch_id, lines)
    held = [(line, job.attempt) for line, job in jobs.items()]
    taken = books.book.release(batch_id, "w1", [(line, n, False) for line, n in held])
    assert None not in taken
    run = books.take()
    assert run is not None
    assert run.batch == batch_id
    assert all(books.book.finish(batch_id, "w1", [ending(job) for job in run.jobs]))


def deserted(books: Books) -> None:
    """Let the first batch be silent for longer than it may be."""
    books.silence("first", 601)


@pytest.mark.parametrize(
    "passing",
    [
        lambda books: books.book.seal("first", chunks=0, accepted=0, rejected=1),
        lambda books: books.book.cancel("first"),
        lambda books: books.book.remove("first"),
        lambda books: books.lose("first"),
        deserted,
    ],
    ids=["complete", "cancelled", "removed", "lost", "deserted"],
)
def test_a_turn_passes_by_itself(books: Books, passing: Callable[[Books], object]) -> None:
    """Whatever becomes of the batch that is first."""
    books.open("first", output="out")
    books.open("second", output="out", lines=1)
    books.open("third", output="out", lines=1)
    assert books.book.waits_for("third") == ["first", "second"]
    assert books.take() is None
    passing(books)
    assert books.book.waits_for("second") == []
    assert books.book.waits_for("third") == ["second"]
    run = books.take()
    assert run is not None
    assert run.batch == "second"


def test_a_slow_submitter_keeps_its_turn_by_signs_of_life(books: Books) -> None:
    """And once it is sealed it needs none."""
    books.open("first", output="out")
    books.open("second", output="out", lines=1)
    books.silence("first", 599)
    assert books.book.waits_for("second") == ["first"]
    books.silence("first", 3)
    books.book.grow("first", 1)
    assert books.book.waits_for("second") == ["first"]
    books.silence("first", 599)
    books.open("first", output="out")
    books.silence("first", 599)
    books.book.seal("first", chunks=1, accepted=1, rejected=0)
    books.silence("first", 10_000)
    assert books.book.waits_for("second") == ["first"]


def test_a_deserted_batch_that_comes_back_takes_its_place_at_the_end(books: Books) -> None:
    """Who has got the turn meanwhile keeps it."""
    books.open("first", output="out")
    books.book.feed("first", 1, chunk_of(1, 2))
    books.open("second", output="out", lines=1)
    books.silence("first", 601)
    assert books.book.waits_for("second") == []
    books.book.grow("first", 1)
    assert books.book.waits_for("first") == ["second"]
    assert books.book.waits_for("second") == []
    run = books.take()
    assert run is not None
    assert run.batch == "second"
    books.book.finish("second", "w1", [ending(job) for job in run.jobs])
    assert books.book.waits_for("first") == []
    assert chars_taken(books, 1) == {"first": 2}


def test_a_deserted_batch_alone_is_worked_on(books: Books) -> None:
    """Its turn is good as long as nobody else wants it."""
    books.open("first", output="out")
    books.book.feed("first", 1, chunk_of(1, 2))
    books.silence("first", 601)
    assert books.book.waits_for("first") == []
    assert chars_taken(books, 1) == {"first": 2}


def test_a_batch_that_is_tried_again_takes_its_turn_anew(books: Books) -> None:
    """It waits behind those that came meanwhile."""
    books.open("first", output="out", lines=1)
    jobs = books.taken()
    books.end(jobs, "failed", batch_id="first")
    books.book.flushed("first", 1, [1])
    books.book.reported("first", "uri", retention_s=60)
    books.open("second", output="out", lines=1)
    books.book.reopen("first", 1, chunk_of(1, 1))
    assert books.book.waits_for("first") == ["second"]
    assert books.book.waits_for("second") == []


def test_turns_that_were_lost_are_taken_anew(books: Books) -> None:
    """A node of a cluster lost its data: nobody is worked on beside another for it."""
    books.open("b1", output="out", lines=2)
    books.open("b2", output="out", lines=2)
    books.unlist("b3")
    assert books.book.waits_for("b1") == []
    assert books.book.waits_for("b2") == ["b1"]
    assert chars_taken(books, 1) == {"b1": 2}
    assert books.take() is None


def test_a_batch_that_waited_for_its_turn_saved_nothing_up(books: Books) -> None:
    """It goes on beside those that worked meanwhile."""
    books.open("first", output="out")
    books.open("second", output="out", lines=300)
    books.open("third", lines=300)
    assert chars_taken(books, 50) == {"third": 100}
    books.book.cancel("first")
    taken = chars_taken(books, 20)
    assert abs(taken["second"] - taken["third"]) <= 4  # it stands where the last run began


def test_another_process_sees_a_change_of_turns(redis_url: str, redis_client: redis.Redis) -> None:
    """Each book keeps a copy of the turns, and knows when it is out of date."""
    books = books_in_redis(redis_url)
    another = books.another()
    limits = {"max_jobs": 9, "max_chars": 99, "max_strikes": 3}
    books.open("b1", output="out", lines=1)
    books.open("b2", output="out", lines=1)
    run = another.take(QUEUE, "w2", nonce="n", **limits)
    assert run is not None
    assert another.take(QUEUE, "w2", nonce="m", **limits) is None
    redis_client.delete("tts:turns")
    books.open("b0", output="out")
    assert books.book.waits_for("b2") == ["b0"]
    another.finish("b1", "w2", [ending(job) for job in run.jobs])
    assert another.take(QUEUE, "w2", nonce="o", **limits) is None
