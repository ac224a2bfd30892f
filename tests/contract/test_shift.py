"""What a shift promises: every line once, the engine never idle, nothing lost however it ends."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.batch_books import BATCH
from tests.shifts import CHILD, ME, OTHER, UNSPEAKABLE, Engine, World, dies, world_of_kind
from tests.waiting import eventually
from tts_tasks import keys
from tts_tasks.errors import EngineOutOfMemoryError, UnavailableError
from tts_tasks.storage.staging import STAGING_FOLDER
from tts_tasks.testing import MemoryStorage
from tts_workers.pipeline import Limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WITHIN_S = 30.0


@pytest.fixture(params=["redis", "memory"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """An empty cluster."""
    return world_of_kind(request.param, request, tmp_path / "store")


def texts(count: int) -> list[str]:
    """Return so many lines of one segment each."""
    return [f"第{number}" for number in range(1, count + 1)]


def ready_in_order(world: World, batch: str = BATCH) -> list[int]:
    """Take whatever is ready; returns the lines as they come, none of them with a strike."""
    found: list[int] = []
    while run := world.books.take("looker", strikes=9):
        assert run.batch == batch
        assert not any(job.strikes for job in run.jobs)
        found += [job.line for job in run.jobs]
    return found


def test_a_shift_works_a_batch_to_its_report(world: World) -> None:
    """Every line is spoken once, in order, published, reported, and nothing is left behind."""
    world.submit(["一|二|三", {"rejected": {"field": "text", "reason": "is missing"}}, *texts(70)])
    assert world.shift().work() == 71
    assert world.engine.spoken == ["一", "二", "三", *texts(70)]
    assert world.states() == ["succeeded", "rejected", *["succeeded"] * 70]
    assert len(world.artifacts()) == 71
    report = world.report()
    assert [line["line"] for line in report] == list(range(1, 73))
    assert [line["id"] for line in report] == [f"i{number}" for number in range(1, 73)]
    assert world.books.counts() == (71, 0, 0)
    assert world.books.book.claimed_by(ME) == []
    assert list(world.storage.list_hidden(STAGING_FOLDER)) == []
    assert [fields["batch"] for fields in world.events.named("batch.done")] == [BATCH]
    assert world.said[0] == f"{BATCH}:1"
    assert world.said[-1] == ""


def test_the_engine_speaks_in_the_callers_thread_alone(world: World) -> None:
    """Whatever else goes on beside it, also when it is asked to free memory."""
    failed: list[str] = []

    def fails(text: str) -> Exception | None:
        if text == "第3" and not failed:
            failed.append(text)
            return EngineOutOfMemoryError("full")
        return None

    world.engine.fails = fails
    world.submit(texts(40))
    world.shift().work()
    assert world.states() == ["succeeded"] * 40
    assert world.engine.speakers == {threading.get_ident()}
    assert world.engine.freed_by == [threading.get_ident()]


def test_while_a_line_is_stored_the_next_one_is_spoken(world: World) -> None:
    """A store is waited for only once it is far behind."""
    speaking = {text: threading.Event() for text in texts(6)}
    overlapped: list[bool] = []
    create = world.storage.create

    def slow_create(name: str, data: bytes) -> bool:
        if name.endswith(".wav"):
            number = int(name.rpartition("/")[2].removesuffix(".wav"))
            if number < 6:
                overlapped.append(speaking[f"第{number + 1}"].wait(WITHIN_S))
        return bool(create(name, data))

    world.stores_by(slow_create)
    world.engine.meanwhile = lambda text: speaking[text].set()
    world.submit(texts(6))
    world.shift().work()
    assert overlapped == [True] * 5
    assert world.states() == ["succeeded"] * 6


@pytest.mark.parametrize("by", ["lines", "bytes"])
def test_a_slow_store_stops_speaking_and_taking(world: World, by: str) -> None:
    """What is in memory is bounded by lines and by bytes, whatever the store does."""
    line_bytes = 2 * 160
    bytes_allowed = 3 * line_bytes if by == "bytes" else 10**9
    limits = Limits(
        run_lines=2,
        lines_ahead=4,
        storing_lines=3 if by == "lines" else 99,
        storing_bytes=bytes_allowed,
        storers=1,
        end_s=WITHIN_S,
    )
    gate = threading.Event()
    stored: list[str] = []
    held: list[int] = []
    unstored: list[int] = []
    create = world.storage.create

    def slow_create(name: str, data: bytes) -> bool:
        if name.endswith(".wav"):
            if not gate.is_set():
                # so many are being stored, and so many fit in beside them, run by run
                eventually(lambda: len(world.books.book.held_by(BATCH, ME)) == 3 + 3)
                gate.set()
            stored.append(name)
        return bool(create(name, data))

    def meanwhile(_: str) -> None:
        held.append(len(world.books.book.held_by(BATCH, ME)))
        unstored.append(len(world.engine.spoken) - len(stored))

    world.stores_by(slow_create)
    world.engine.meanwhile = meanwhile
    world.submit(texts(30))
    world.shift(limits=limits).work()
    assert world.states() == ["succeeded"] * 30
    assert max(unstored) <= 3
    assert max(held) <= 3 + 4


def test_online_work_is_let_through_at_the_end_of_a_segment(world: World) -> None:
    """The line in hand keeps what was spoken of it, and all go back without a strike, in order."""
    world.submit(["甲", "一|二|三|四", *texts(9)])
    waits: list[bool] = []
    world.engine.meanwhile = lambda text: waits.append(True) if text == "二" else None
    world.shift(online_waits=lambda: bool(waits)).work()
    assert world.engine.spoken == ["甲", "一", "二"]
    assert world.books.counts() == (1, 0, 0)
    assert world.books.book.claimed_by(ME) == []
    assert [fields["job"] for fields in world.events.named("job.yielded")] == [f"{BATCH}:2"]
    waits.clear()
    world.engine.meanwhile = lambda _: None
    world.shift(OTHER).work()
    assert world.engine.spoken == ["甲", "一", "二", "三", "四", *texts(9)]
    assert world.states() == ["succeeded"] * 11
    assert world.report()[1]["attempt"] == 2


def test_a_worker_that_is_to_stop_gives_back_what_it_has_not_spoken(world: World) -> None:
    """What it has spoken is stored first; what is left is ready again, in the order of the file."""
    world.submit(texts(60))
    world.shift(must_stop=lambda: len(world.engine.spoken) >= 3).work()
    assert world.engine.spoken == texts(3)
    assert world.books.counts() == (3, 0, 0)
    assert world.books.book.claimed_by(ME) == []
    assert ready_in_order(world) == list(range(4, 61))


def test_a_store_that_hangs_does_not_hold_up_the_end_for_long(world: World) -> None:
    """What could not be stored in time is given back, and who stores it late changes nothing."""
    world.submit(texts(3))
    gate = threading.Event()
    create = world.storage.create
    late: list[bool] = []

    def hanging_create(name: str, data: bytes) -> bool:
        if name.endswith(".wav"):
            late.append(gate.wait(WITHIN_S))
        return bool(create(name, data))

    world.stores_by(hanging_create)
    over = lambda: len(world.engine.spoken) >= 2  # noqa: E731 - as short as it is
    world.shift(must_stop=over, limits=Limits(end_s=0.1)).work()
    eventually(lambda: world.books.book.claimed_by(ME) == [], what="nothing is claimed any more")
    gate.set()
    eventually(lambda: len(world.artifacts()) == 2, what="both are stored, late")
    assert world.books.counts() == (0, 0, 0)
    world.stores_by(create)
    world.shift(OTHER).work()
    assert world.engine.spoken == texts(3), "what is published is adopted"
    assert world.states() == ["succeeded"] * 3
    assert [line["adopted"] for line in world.report()] == [True, True, False]


def test_an_engine_that_fails_over_one_line_fails_that_line_alone(world: World) -> None:
    """After as many attempts as a line may have it is failed, with evidence."""
    world.engine.fails = dies("第2")
    world.submit(texts(5))
    world.shift().work()
    assert world.states() == ["succeeded", "failed", "succeeded", "succeeded", "succeeded"]
    error = world.report()[1]["error"]
    assert error["code"] == "engine"
    assert "dies at 第2" in error["reason"]
    assert error["workers"] == [ME]
    assert error["evidence"] == {"code": "engine", "reason": "engine: dies at 第2", "worker": ME}
    assert [fields["attempt"] for fields in world.events.named("job.attempt_failed")] == [1, 2, 3]
    assert [fields["job"] for fields in world.events.named("job.failed")] == [f"{BATCH}:2"]


def test_a_line_that_lost_its_attempts_is_failed_unspoken(world: World) -> None:
    """It may be what killed its workers."""
    world.submit(texts(2))
    job_id = keys.batch_job_id(BATCH, 1)
    for _ in range(3):
        run = world.books.take(OTHER, jobs=1)
        assert run is not None
        world.books.ledger.release(job_id, OTHER, None, strike=True, evidence={"reason": "killed"})
        world.books.book.release(BATCH, OTHER, [(1, None, False)])
    world.shift().work()
    assert world.engine.spoken == ["第2"]
    assert world.states() == ["failed", "succeeded"]
    assert world.report()[0]["error"]["code"] == "attempts_exhausted"


def test_what_no_attempt_can_change_fails_at_once(world: World) -> None:
    """A request that is wrong, a text without words, a name that is taken."""
    world.storage.create(f"{BATCH}/taken.wav", b"of somebody else")
    wrong = [
        {"text": "一", "requires": {"language": "tlh"}},
        UNSPEAKABLE,
        {"text": "二", "output_name": "taken"},
        {"text": "三", "speed": 900},
    ]
    world.submit([*wrong, "四"])  # type: ignore[list-item]
    world.shift().work()
    codes = [(line["error"] or {}).get("code") for line in world.report()]
    assert codes == ["bad_request", "unspeakable_text", "conflict", "bad_request", None]
    assert [line["attempt"] for line in world.report()] == [1] * 5


def test_out_of_memory_is_tried_again_in_place_from_what_was_kept(world: World) -> None:
    """Segments that were spoken are not spoken again, nor twice in the sound."""
    world.submit(["一|二|三"])
    full = [True]
    world.engine.fails = lambda text: (
        EngineOutOfMemoryError("full") if text == "二" and full and full.pop() else None
    )
    world.shift().work()
    assert world.engine.spoken == ["一", "二", "三"]
    once = world.storage.read(f"{BATCH}/1.wav")
    world.engine.fails = lambda _: None
    world.submit(["一|二|三"], "b2")
    world.shift().work()
    assert world.storage.read("b2/1.wav") == once
    assert [fields["then"] for fields in world.events.named("job.out_of_memory")] == ["tried again"]


def test_a_cancelled_batch_is_left(world: World) -> None:
    """Attempts under way are refused, what was prepared is not spoken, and the report says so."""
    world.submit(["甲", "一|二|三", *texts(50)])
    book = world.books.book
    world.engine.meanwhile = lambda text: book.cancel(BATCH) if text == "一" else None
    world.shift(limits=Limits(run_lines=64, end_s=WITHIN_S)).work()
    assert world.engine.spoken[:2] == ["甲", "一"]
    assert len(world.engine.spoken) == 2
    assert book.claimed_by(ME) == []
    assert world.events.named("job.stale_refused")
    states = world.states()
    assert states[1:] == ["cancelled"] * 51
    assert [line["id"] for line in world.report()] == [f"i{number}" for number in range(1, 53)]


def test_who_hears_that_a_batch_is_cancelled_reports_it(world: World) -> None:
    """No line has ended by itself, so nothing else has it settled; its report is there at once."""
    world.submit(["一|二|三", "四"])
    book = world.books.book
    world.engine.meanwhile = lambda text: book.cancel(BATCH) if text == "一" else None
    world.shift(limits=Limits(end_s=WITHIN_S)).work()
    assert world.states() == ["cancelled"] * 2
    assert [line["state"] for line in world.report()] == ["cancelled"] * 2


def test_a_line_that_was_given_to_somebody_else_is_dropped(world: World) -> None:
    """Its recoverers believed this worker dead: what it finishes is refused, and is left."""
    world.submit(texts(3))
    book = world.books.book

    class OneRun:
        """Gives out one run, or this worker might be faster than the other one."""

        runs = 0

        def take(self, *args: Any, **options: Any) -> Any:
            self.runs += 1
            return book.take(*args, **options) if self.runs == 1 else None

        def __getattr__(self, name: str) -> Any:
            return getattr(book, name)

    def meanwhile(text: str) -> None:
        if text == "第1":
            world.recover()
            assert len(world.books.taken(OTHER)) == 3

    world.engine.meanwhile = meanwhile
    world.shift(book=OneRun()).work()
    stale = {fields["job"] for fields in world.events.named("job.stale_refused")}
    assert stale == {f"{BATCH}:{line}" for line in (1, 2, 3)}
    assert world.books.counts() == (0, 0, 0)
    assert world.books.book.held_by(BATCH, OTHER) == [1, 2, 3]


def test_a_small_batch_does_not_wait_behind_a_large_one(world: World) -> None:
    """Two batches get runs in turn."""
    world.submit([f"a{number}" for number in range(20)], "a1")
    world.submit([f"b{number}" for number in range(6)], "b1")
    limits = Limits(run_lines=2, lines_ahead=4, end_s=WITHIN_S)
    world.shift(limits=limits).work()
    runs = [text[0] for text in world.engine.spoken[:12:2]]
    assert sorted(runs) == ["a", "a", "a", "b", "b", "b"]
    assert all(first != second for first, second in itertools.pairwise(runs))
    assert world.states("a1") == ["succeeded"] * 20
    assert world.states("b1") == ["succeeded"] * 6


def test_stores_that_do_not_answer_are_insisted_on(world: World) -> None:
    """An outage costs nothing of what is done."""
    world.submit([*texts(6), "一|二"])
    failures: dict[str, int] = {}
    mutex = threading.Lock()

    def silent_at_first(name: str) -> None:
        with mutex:
            failures[name] = failures.get(name, 0) + 1
            if failures[name] == 1:
                raise UnavailableError(f"{name} does not answer")

    world.shift(through=lambda store: Through(store, silent_at_first)).work()
    world.window().settle(BATCH)
    assert world.states() == ["succeeded"] * 7
    assert {"take", "take answered", "finish answered", "create", "append"} <= set(failures)


def test_what_an_outage_left_on_the_claims_is_given_back_by_the_next_shift(world: World) -> None:
    """Only what this child has taken: a line of its dead predecessor may have killed it."""
    world.submit(texts(4))
    assert world.books.take(ME, jobs=1, nonce="1.dead") is not None
    assert world.books.take(ME, jobs=1, nonce=f"{CHILD}.lost") is not None
    world.shift().work()
    assert sorted(world.engine.spoken) == texts(4)[1:]
    assert world.books.book.held_by(BATCH, ME) == [1]
    assert world.books.book.claimed_by(ME) == [BATCH]


class Died(BaseException):
    """The process is no more: nothing after this reaches a store."""


class Through:
    """A store of which each call is announced before it is made, and after."""

    def __init__(self, store: Any, before: Callable[[str], None]) -> None:
        self._store = store
        self._before = before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found) or name in {"uri", "path"}:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._before(name)
            answer = found(*args, **kwargs)
            self._before(f"{name} answered")
            return answer

        return call


class Death:
    """Kills a process at its n-th call of a store, before the call or after it."""

    def __init__(self, at: int) -> None:
        self.left = at
        self._mutex = threading.Lock()

    def __call__(self, _: str) -> None:
        with self._mutex:
            self.left -= 1
            if self.left <= 0:
                raise Died


LINES = ["一|二", "三", "四|五|六", "七", "八"]


def check_a_death_at(world: World, at: int) -> bool:
    """Let a shift die, recover it, and have another one go on; True if it died."""
    world.submit(LINES)
    death = Death(at)
    limits = Limits(run_lines=2, lines_ahead=4, storing_lines=2, storers=2, end_s=WITHIN_S)
    shift = world.shift(limits=limits, through=lambda store: Through(store, death))
    try:
        shift.work()
    except Died:
        died = True
    else:
        died = death.left <= 0
    world.recover()
    assert world.books.book.held_by(BATCH, ME) == []
    world.shift(OTHER, engine=Engine()).work()
    world.window().settle(BATCH)  # as a worker's chores do
    if died and world.books.book.get(BATCH).report is None:  # type: ignore[union-attr]
        # who died had set out to write the report, and kept the others from it for a while
        eventually(lambda: world.window().settle(BATCH), within_s=WITHIN_S)
    assert world.states() == ["succeeded"] * 5
    assert world.books.counts() == (5, 0, 0)
    assert world.artifacts() == [f"{BATCH}/{line}.wav" for line in range(1, 6)]
    assert world.books.book.claimed_by(OTHER) == []
    batch = world.books.book.get(BATCH)
    assert batch is not None
    assert batch.flushed_wholly
    return died


@pytest.mark.parametrize("kind", ["redis", "memory"])
def test_nothing_is_lost_or_done_twice_wherever_a_shift_dies(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A death before or after any call of a store, then a recovery and another worker's shift."""
    monkeypatch.setattr("tts_tasks.ledger.batch_book._REPORTING_S", 1)
    monkeypatch.setattr("tts_tasks.testing.batch_book._REPORTING_MS", 0)
    at = 1
    while True:
        world = world_of_kind(kind, request, tmp_path / str(at))
        world.books.lose_data()
        if kind == "memory":
            world.storage = MemoryStorage()
        if not check_a_death_at(world, at):
            break
        at += 1 if kind == "memory" else 17
    assert at > 100, "a shift makes more calls than that"


def test_an_end_whose_reply_was_lost_is_not_taken_for_stale(world: World) -> None:
    """Its chunk was flushed before the book was asked again, and knows the line no more."""
    world.submit(texts(2))
    book = world.books.book
    lost: list[bool] = []

    class Wire:
        def finish(self, *args: Any) -> list[bool]:
            answer = book.finish(*args)
            if not lost and book.to_flush(BATCH):
                lost.append(True)
                world.window().settle(BATCH)
                raise UnavailableError("the reply was lost")
            return answer

        def __getattr__(self, name: str) -> Any:
            return getattr(book, name)

    world.shift(book=Wire()).work()
    assert lost
    assert world.states() == ["succeeded"] * 2
    assert world.events.named("job.stale_refused") == []
