"""What moving a batch's window promises: each chunk once, whoever looks, and how many at once."""

from __future__ import annotations

import threading
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tests.batch_books import BATCH, QUEUE, ending
from tests.shifts import ME, World, world_of_kind
from tts_tasks.batches.report import ReportParts
from tts_tasks.batches.window import Window
from tts_tasks.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

REJECTED = {"rejected": {"field": "text", "reason": "is missing"}}
LINES = ["一", "二", "三", "四", REJECTED, "六", "七", REJECTED]


@pytest.fixture(params=["redis", "memory"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """An empty cluster, where a chunk has two lines."""
    monkeypatch.setattr("tts_tasks.batches.manifest.CHUNK_LINES", 2)
    return world_of_kind(request.param, request, tmp_path / "store")


def chunks(world: World) -> tuple[int, int]:
    """Return how many chunks were fed and flushed."""
    batch = world.books.book.get(BATCH)
    assert batch is not None
    return batch.fed, batch.flushed


def part(world: World, chunk: int) -> list[tuple[int, str]]:
    """Return lines and states of a report part."""
    lines = ReportParts(world.storage, BATCH).read(chunk)
    assert lines is not None
    return [(line["line"], line["state"]) for line in lines]


def end_all(world: World, state: str = "succeeded") -> None:
    """Take and end whatever is ready."""
    while run := world.books.take():
        assert world.books.end(run.jobs, state, batch_id=run.batch) == [True] * len(run.jobs)


def test_a_batch_is_fed_until_enough_lines_are_ready(world: World) -> None:
    """Chunk by chunk, in the order of the file, and no more than is needed."""
    world.write(LINES)
    window = world.window(ready_lines=3)
    assert window.feed(BATCH) == 2
    assert window.feed(BATCH) == 0
    assert [job.line for job in world.books.taken()] == [1, 2, 3, 4]
    assert window.feed(BATCH) == 2
    assert [job.line for job in world.books.taken()] == [6, 7]
    assert chunks(world) == (4, 0)


def test_a_window_is_bounded_where_lines_take_long(world: World) -> None:
    """Chunks of which lines are still worked on stay in Redis: there are only so many."""
    world.write(LINES)
    events: Any = world.events
    window = Window(world.books.book, world.storage, events, retention_s=60, window_chunks=2)
    assert window.feed(BATCH) == 2
    jobs = world.books.taken()
    assert window.feed(BATCH) == 0
    world.books.end(jobs[:2])
    assert window.flush(BATCH) == 1
    assert window.feed(BATCH) == 1


def test_a_chunk_is_flushed_when_its_last_line_has_ended(world: World) -> None:
    """Its part says what came of each line, in the order of the file; its jobs go."""
    world.submit(LINES)
    jobs = world.books.taken()
    world.books.end(jobs[1:4], "failed")
    assert world.window().flush(BATCH) == 1
    assert part(world, 2) == [(3, "failed"), (4, "failed")]
    world.books.end(jobs[:1])
    world.books.end(jobs[4:])
    assert world.window().flush(BATCH) == 3
    assert part(world, 1) == [(1, "succeeded"), (2, "failed")]
    assert part(world, 3) == [(5, "rejected"), (6, "succeeded")]
    assert world.books.book.results(BATCH, range(1, 9)) == {}
    assert world.window().flush(BATCH) == 0


def test_a_batch_is_settled_to_its_report(world: World) -> None:
    """Once: the event too, however often it is asked."""
    world.write(LINES)
    assert not world.window().settle(BATCH)
    end_all(world)
    assert world.window().settle(BATCH)
    assert world.window().settle(BATCH)
    assert len(world.events.named("batch.done")) == 1
    states = ["succeeded"] * 4 + ["rejected", "succeeded", "succeeded", "rejected"]
    assert world.states() == states
    ids = [line["id"] for line in world.report()]
    assert ids == [f"i{number}" for number in range(1, 9)]


def test_a_batch_without_a_good_line_is_settled_at_once(world: World) -> None:
    """There is nothing to wait for."""
    world.write([REJECTED] * 5)
    assert world.window().settle(BATCH)
    assert world.states() == ["rejected"] * 5


def test_a_batch_that_is_not_sealed_is_not_reported(world: World) -> None:
    """There may be more lines to come."""
    world.books.book.open(BATCH, source="s", output=BATCH, queue="q", created_ms=1)
    assert not world.window().settle(BATCH)
    assert world.events.seen == []


def test_a_cancelled_batch_is_gone_through_to_its_end(world: World) -> None:
    """Lines that ended before keep how; all the others are cancelled, also those not yet fed."""
    world.write(LINES)
    window = world.window(ready_lines=3)
    window.feed(BATCH)
    first, *_ = world.books.taken(jobs=3)
    world.books.end([first])
    assert world.books.book.cancel(BATCH)
    assert window.settle(BATCH)
    cancelled = ["cancelled"] * 3
    assert world.states() == ["succeeded", *cancelled, "rejected", *cancelled[:2], "rejected"]
    assert world.books.counts() == (1, 0, 5)


def test_going_through_a_batch_can_be_stopped(world: World) -> None:
    """A worker that is to leave does not first go through a million lines."""
    world.write(LINES)
    world.books.book.cancel(BATCH)
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(len(asked) == 2)
        return asked[-1]

    assert not world.window().settle(BATCH, stop)
    assert chunks(world) < (4, 4)
    assert world.window().settle(BATCH)


def test_after_the_store_was_emptied_only_what_is_missing_is_fed(world: World) -> None:
    """Chunks whose part is there are counted, with what their lines have come to."""
    world.submit(LINES)
    jobs = world.books.taken()
    world.books.end(jobs[:1])
    world.books.end(jobs[1:2], "failed")
    world.books.end(jobs[4:])
    assert world.window().flush(BATCH) == 3
    world.books.lose_data()
    world.submit(LINES)
    assert world.books.counts() == (3, 1, 0)
    assert [job.line for job in world.books.taken()] == [3, 4]


def test_who_comes_second_with_a_chunk_changes_nothing(world: World) -> None:
    """Its jobs are gone by then: a part that was made of what is left would be wrong."""
    world.submit(LINES[:2])
    end_all(world)
    book = world.books.book
    results = book.results

    def overtaken(*args: Any) -> Any:
        monkey.undo()
        assert world.window().settle(BATCH)
        return results(*args)

    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(book, "results", overtaken)
        assert world.window().flush(BATCH) == 0
    assert world.states() == ["succeeded"] * 2


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_racing_callers_count_everything_once(world: World, state: str) -> None:
    """Submitters and workers feed, flush and settle at the same time."""
    world.write(LINES * 5)
    faults: list[BaseException] = []
    books = [world.books.another() for _ in range(4)]

    def go_on(book: Any) -> None:
        events: Any = world.events
        window = Window(book, world.storage, events, retention_s=60, ready_lines=3)
        try:
            while not window.settle(BATCH):
                batch = book.get(BATCH)
                if batch.flushed_wholly and batch.report is None:
                    return  # another one writes it
                run = book.take(
                    QUEUE,
                    f"{ME}.{id(book)}",
                    nonce=f"{batch.fed}.{batch.succeeded}.{id(book)}.{next(numbers)}",
                    max_jobs=3,
                    max_chars=99,
                    max_strikes=3,
                )
                if run is not None:
                    book.finish(
                        BATCH,
                        f"{ME}.{id(book)}",
                        [ending(job, state) for job in run.jobs],
                    )
        except BaseException as error:
            faults.append(error)
            raise

    numbers = count()
    threads = [threading.Thread(target=go_on, args=(book,)) for book in books]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(world.events.named("batch.done")) == 1
    assert chunks(world) == (20, 20)
    assert sum(world.books.counts()) == 30
    one_round = [state] * 4 + ["rejected", state, state, "rejected"]
    assert world.states() == one_round * 5


def test_a_storage_that_refuses_leaves_the_chunk_in_the_window(world: World) -> None:
    """Nothing of it is forgotten: it is flushed when somebody looks again."""
    world.submit(LINES)
    end_all(world)
    full = True

    class FullDisk:
        def __getattr__(self, name: str) -> Any:
            if name == "replace" and full:
                raise StorageError("the disk is full")
            return getattr(world.storage, name)

    events: Any = world.events
    storage: Any = FullDisk()
    window = Window(world.books.book, storage, events, retention_s=60)
    with pytest.raises(StorageError):
        window.settle(BATCH)
    assert world.books.book.to_flush(BATCH) == [1, 2, 3, 4]
    full = False
    assert window.settle(BATCH)


def test_who_comes_late_with_a_chunk_that_is_tried_again_writes_nothing(world: World) -> None:
    """It was flushed meanwhile, and lines of it wait anew: these were not cancelled."""
    world.submit(LINES)
    end_all(world, "failed")
    book, parts = world.books.book, ReportParts(world.storage, BATCH)
    was_late: list[bool] = []

    class Late:
        def results(self, *args: Any) -> Any:
            if not was_late:
                was_late.append(True)
                world.window().flush(BATCH)
                again = [{**line, "state": "accepted"} for line in parts.read(1) or []]
                parts.write(1, again)
                assert book.reopen(BATCH, 1, [(1, 2), (2, 2)])
            return book.results(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(book, name)

    window = world.window(through=lambda it: Late() if it is book else it)
    window.flush(BATCH)
    assert part(world, 1) == [(1, "accepted"), (2, "accepted")]
    end_all(world)
    assert world.window().flush(BATCH) == 1
    assert part(world, 1) == [(1, "succeeded"), (2, "succeeded")]
