"""What a worker's child does when it hears that there is work."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Reject

from tests.shifts import Engine
from tests.waiting import eventually
from tts_tasks import client
from tts_tasks.coordination.base import Lease
from tts_tasks.errors import EngineLoadError, UnavailableError
from tts_tasks.ledger import BatchBook
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage
from tts_tasks.storage.epochs import EpochMarks
from tts_workers import batch_runner
from tts_workers.batch_runner import BatchRunner
from tts_workers.engine_host import LoadedEngine
from tts_workers.leadership import BelievedLease
from tts_workers.pace import Pace
from tts_workers.workbench import Workbench

if TYPE_CHECKING:
    import redis

ME = "w1@h/1"
QUEUE = "tts.batch.default"
ONLINE = "tts.online.default.0"


@dataclass
class World:
    """One child, with an engine that makes short noises."""

    redis: redis.Redis
    engine: Engine = field(default_factory=Engine)
    believed: BelievedLease = field(default_factory=BelievedLease)
    said: list[dict[str, Any]] = field(default_factory=list)
    pace: Pace = field(
        default_factory=lambda: Pace(lambda _: None, floor_s=1, factor=5, unknown_s=60)
    )
    pid: int = 11
    loads: bool = False

    def __post_init__(self) -> None:
        self.tell(serving=True)
        parts: Any = (self, self.believed, self)
        self.runner = BatchRunner(Workbench.of(*parts, get_settings(), ME))

    def wait(self, _: float) -> LoadedEngine:
        if self.loads:
            raise EngineLoadError("it loads")
        storage = open_storage(get_settings().storage_url)
        has = {"languages": ("zh",), "features": []}
        return LoadedEngine(self.engine, "f", has, storage, EpochMarks(storage, "default.0"))  # type: ignore[arg-type]

    def say(self, message: dict[str, Any]) -> None:
        self.said.append(message)

    def show(self, message: dict[str, Any], *, later: bool = False) -> None:
        self.said.append(message)

    def lost(self, error: Exception) -> None:
        raise AssertionError(f"no engine is lost here: {error}")

    def tell(self, *, serving: bool, others: int = 0, lease: str | None = None) -> None:
        self.believed.parent_said({"serving": serving, "lease": lease, "others_ready": others})

    @property
    def rings(self) -> int:
        return int(self.redis.llen(QUEUE))

    def hear(self) -> None:
        """Take the ring, and do what it calls for."""
        self.redis.rpop(QUEUE)
        self.runner()


@pytest.fixture
def world(redis_url: str, redis_client: redis.Redis) -> World:
    root = Path(get_settings().storage_url.removeprefix("file://"))
    shutil.rmtree(root, ignore_errors=True)
    return World(redis_client)


def lines(count: int, text: str = "{}号") -> list[dict[str, Any]]:
    return [{"id": f"n{n}", "text": text.format(n)} for n in range(1, count + 1)]


def test_a_ring_is_worked_off_and_forgotten(world: World) -> None:
    """All lines, one after the other; the parent hears of each, and of the end."""
    client.submit_batch(lines(5), id="b1")
    world.hear()
    assert client.batch_status("b1").succeeded == 5
    jobs = [message["job"] for message in world.said if message["event"] == "job"]
    assert jobs == [f"b1:{n}" for n in range(1, 6)] + [""]
    assert world.rings == 0


def test_a_ring_with_nothing_to_do_is_forgotten(world: World) -> None:
    """Somebody else was first."""
    world.runner()
    assert world.engine.spoken == []


@pytest.mark.parametrize("why", ["loads", "does not serve"])
def test_who_cannot_work_leaves_the_ring_to_others(world: World, why: str) -> None:
    """An engine that loads again; a worker that is drained."""
    client.submit_batch(lines(1), id="b1")
    world.loads = why == "loads"
    world.tell(serving=why != "does not serve")
    with pytest.raises(Reject) as rejected:
        world.hear()
    assert rejected.value.requeue
    assert world.engine.spoken == []


@pytest.mark.parametrize("others", [0, 1])
def test_who_finds_work_rings_for_the_next(world: World, others: int) -> None:
    """Where there is anybody to hear it; one ring at most waits."""
    client.submit_batch(lines(40), id="b1")
    world.tell(serving=True, others=others)
    waiting: list[int] = []
    world.engine.meanwhile = lambda _: waiting.append(world.rings)
    world.hear()
    assert set(waiting) <= {0, others}
    assert waiting[-1] == others


def test_online_work_interrupts_a_shift_and_the_ring_goes_back(world: World) -> None:
    """What was taken and not spoken is ready again; another worker may go on at once."""
    client.submit_batch(lines(5), id="b1")
    world.tell(serving=True, lease=str(Lease(1, ME)))

    def comes(text: str) -> None:
        if text == "2号":
            world.redis.lpush(ONLINE, "a call")
            eventually(world.runner._online.waits)

    world.engine.meanwhile = comes
    with pytest.raises(Reject) as rejected:
        world.hear()
    assert rejected.value.requeue
    assert world.engine.spoken == ["1号", "2号"]
    book = world.runner._book
    assert book.held_by("b1", ME) == []
    assert book.ready("b1") == 3


def test_a_drained_worker_stops_between_two_lines(world: World) -> None:
    """And the ring goes to somebody else."""
    client.submit_batch(lines(5), id="b1")
    world.engine.meanwhile = lambda _: world.tell(serving=False)
    with pytest.raises(Reject):
        world.hear()
    assert world.engine.spoken == ["1号"]


def test_a_line_over_which_this_worker_failed_is_left_to_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rest, and the ring for them; where there are none it tries again itself."""
    rests: list[float] = []
    monkeypatch.setattr(batch_runner.time, "sleep", rests.append)
    client.submit_batch(lines(1), id="b1")
    book, ledger = world.runner._book, world.runner._ledger
    run = book.take(QUEUE, ME, nonce="x", max_jobs=1, max_chars=99, max_strikes=3)
    assert run is not None
    ledger.release("b1:1", ME, 1, strike=True)
    book.release("b1", ME, [(1, 1, False)])
    world.tell(serving=True, others=1)
    with pytest.raises(Reject):
        world.hear()
    assert (world.engine.spoken, len(rests)) == ([], 1)
    world.tell(serving=True, others=0)
    world.runner()
    assert world.engine.spoken == ["1号"]


def test_what_a_shift_could_not_give_back_is_given_back_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing that is in hand."""
    client.submit_batch(lines(3), id="b1")
    book = world.runner._book
    in_hand: list[int] = []

    class Broken:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def work(self) -> int:
            book.take(QUEUE, ME, nonce="11.x", max_jobs=2, max_chars=99, max_strikes=3)
            world.runner._next_look_s = 0.0
            world.runner.give_back_what_is_owed()
            in_hand.extend(book.held_by("b1", ME))
            raise UnavailableError("away")

    monkeypatch.setattr(batch_runner, "Shift", Broken)
    with pytest.raises(Reject):
        world.hear()
    assert in_hand == [1, 2]
    world.runner.give_back_what_is_owed()
    assert book.held_by("b1", ME) == []
    assert book.ready("b1") == 3


def test_a_line_whose_end_the_store_forgot_comes_back_by_itself(world: World) -> None:
    """A replica that was promoted may not have heard of it."""
    client.submit_batch(lines(1), id="b1")
    world.runner._book.take(QUEUE, ME, nonce="11.x", max_jobs=1, max_chars=99, max_strikes=3)
    world.runner._owes = False
    world.runner.give_back_what_is_owed()
    assert BatchBook(get_settings().redis_url).ready("b1") == 1


def test_segment_logs_go_with_the_lines(world: World) -> None:
    """At once, but for a line that somebody may listen to."""
    batch = [{"text": "一|二"}, {"text": "三|四", "stream": True}, {"text": "五"}]
    client.submit_batch(batch, id="b1")
    world.hear()
    assert world.redis.keys("tts:{b1}:segments:*") == ["tts:{b1}:segments:2"]
    ttl_s = get_settings().segment_log_ttl_s
    assert 0 < world.redis.ttl("tts:{b1}:segments:2") <= ttl_s


def test_a_slow_engine_takes_no_more_than_it_needs(world: World) -> None:
    """What waits in its hands cannot be spoken by anybody else."""
    for _ in range(20):
        with world.pace.step("speak", 1):
            pass
    world.pace._known_s["speak"] = 1.0  # a second for each character
    client.submit_batch(lines(8), id="b1")
    held: list[int] = []
    book = BatchBook(get_settings().redis_url)

    def look(text: str) -> None:
        until_s = time.monotonic() + 0.2
        while text == "1号" and time.monotonic() < until_s:
            held.append(len(book.held_by("b1", ME)))

    world.engine.meanwhile = look
    world.hear()
    assert set(held) == {1}
    assert client.batch_status("b1").succeeded == 8
