"""A job in the worker's child, on a real ledger, lease and storage: in what order, and fenced."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from celery.exceptions import Ignore, Reject

from tts_tasks import keys
from tts_tasks.coordination.base import EpochFloor, Lease
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.errors import EngineLostError, JobCancelledError, JobFailedError, StorageError
from tts_tasks.events import EventLog
from tts_tasks.ledger import Claim, JobLedger, JobMeta, LaneLoad
from tts_tasks.requests import SpeechRequest
from tts_tasks.settings import get_settings
from tts_tasks.storage import LocalStorage
from tts_tasks.storage.epochs import EpochMarks
from tts_workers import job_runner
from tts_workers.engine_host import LoadedEngine
from tts_workers.engines.base import Capabilities, EngineVoice, Segment, Spoken
from tts_workers.job_runner import JobRunner
from tts_workers.leadership import BelievedLease
from tts_workers.link import nonce_prefix
from tts_workers.pace import Pace
from tts_workers.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

LANE = "default.0"
ME, OTHER = "me@h/1", "other@h/2"
CHILD = 4711


class Engine:
    """Speaks a silence for each sentence; ``meanwhile`` happens while it does."""

    name, version = "silent", "1"

    def __init__(self) -> None:
        self.spoken: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def capabilities(self) -> Capabilities:
        return Capabilities(languages=("zh",), sample_rate_hz=8000)

    def load(self, device: str) -> None:
        return

    def encode_voice(self, reference: Any) -> EngineVoice:
        return EngineVoice(reference)

    def split(self, text: str) -> list[Segment]:
        return [Segment(part) for part in text.split("|")]

    def speak(self, segment: Segment, *_: Any) -> Spoken:
        self.spoken.append(segment.text)
        self.meanwhile()
        return Spoken(np.zeros(80, dtype=np.float32))

    def fingerprint(self) -> str:
        return "f"

    def close(self) -> None:
        return


class FullDisk(LocalStorage):
    """Takes marks and sidecars, but no sound; or refuses whatever name holds another text."""

    def __init__(self, root: Path, refuses: str = ".wav") -> None:
        super().__init__(root)
        self.refuses = refuses

    def create(self, name: str, data: bytes) -> bool:
        if self.refuses in name and not name.endswith(".json"):
            raise StorageError("the disk is full")
        return super().create(name, data)


@dataclass
class World:
    """One worker's child, and what the rest of the cluster does."""

    url: str
    redis: redis.Redis
    root: Path
    engine: Engine = field(default_factory=Engine)
    said: list[dict[str, Any]] = field(default_factory=list)
    believed: BelievedLease = field(default_factory=BelievedLease)
    lost: list[Exception] = field(default_factory=list)  #: what ends a child's process

    def __post_init__(self) -> None:
        self.ledger = JobLedger(self.url)
        self.storage: LocalStorage = LocalStorage(self.root)
        self.coordinator = RedisCoordinator(self.url, timeout_s=2.0)

    def lead(self, worker: str = ME, *, floor: int = 0) -> Lease:
        lease = self.coordinator.acquire(LANE, worker, 30, EpochFloor(floor, complete=True))
        assert lease is not None
        return lease

    def believe(self, lease: Lease) -> None:
        self.believed.parent_said({"lease": str(lease)})

    def accept(self, text: str = "一|二", *, job_id: str = "") -> str:
        job_id = job_id or keys.new_job_id(LANE)
        meta = JobMeta(queue="q", name="a.wav", lane_key=LANE)
        self.ledger.accept([(job_id, SpeechRequest(text=text), meta)])
        return job_id

    def show(self, message: dict[str, Any], *, later: bool = False) -> None:
        self.said.append(message)

    def run(self, job_id: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
        loaded = LoadedEngine(
            self.engine,
            "f",
            {"languages": ("zh",), "features": []},
            self.storage,
            EpochMarks(self.storage, LANE),
        )
        pace = Pace(lambda _: None, floor_s=1, factor=5, unknown_s=60)
        host: Any = SimpleNamespace(wait=lambda _: loaded, pace=pace, lost=self.lost.append)
        link: Any = SimpleNamespace(say=self.said.append, show=self.show, pid=CHILD)
        runner = JobRunner(Workbench.of(host, self.believed, link, get_settings(), ME))
        task: Any = SimpleNamespace(request=SimpleNamespace(id=job_id))
        return runner(task, job_id, given)

    def state(self, job_id: str) -> tuple[str, str, int]:
        record = self.ledger.get(job_id)
        assert record is not None
        return record.state, record.worker, record.attempt

    def seen(self, event: str) -> list[dict[str, Any]]:
        return [one for one in EventLog(self.redis).read() if one["event"] == event]


@pytest.fixture
def world(redis_url: str, redis_client: redis.Redis, tmp_path: Path) -> World:
    """A worker whose engine is loaded, and an empty cluster."""
    return World(redis_url, redis_client, tmp_path / "store")


def test_a_job_is_spoken_published_and_ended(world: World) -> None:
    """Its record is what the ledger says of it, and names the epoch it was claimed under."""
    lease = world.lead()
    world.believe(lease)
    job_id = world.accept()

    record = world.run(job_id)

    assert world.engine.spoken == ["一", "二"]
    assert world.storage.stat("a.wav") is not None
    assert (record["attempt"], record["worker"], record["epoch"]) == (1, ME, lease.epoch)
    told = world.ledger.get(job_id)
    assert told is not None
    assert (told.state, told.result) == ("succeeded", record)
    said = [message["job"] for message in world.said if message["event"] == "job"]
    assert said == [job_id, ""]


def test_a_claim_says_which_child_made_it(world: World) -> None:
    """So that a dead child's jobs can be told from those of its successor."""
    world.believe(world.lead())
    job_id = world.accept()
    world.run(job_id)
    record = world.ledger.get(job_id)
    assert record is not None
    assert record.nonce.startswith(nonce_prefix(CHILD))


def test_an_epoch_is_marked_in_the_storage_before_anything_is_claimed_under_it(
    world: World,
) -> None:
    """A Redis that forgets everything must not give it out again."""
    lease = world.lead(floor=2500)
    world.believe(lease)
    job_id = world.accept()
    world.engine.meanwhile = lambda: marked.append(EpochMarks(world.storage, LANE).floor())
    marked: list[int] = []
    world.run(job_id)
    assert marked
    assert marked[0] >= lease.epoch


def test_a_job_whose_epoch_cannot_be_marked_is_not_claimed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may have a storage that takes the mark; this worker claims nothing."""
    monkeypatch.setattr(job_runner, "_ENGINE_RETURNS_S", 0.0)
    world.believe(world.lead())
    job_id = world.accept()
    world.storage = FullDisk(world.root, refuses="/")
    with pytest.raises(Reject) as rejected:
        world.run(job_id)
    assert rejected.value.requeue
    assert world.state(job_id) == ("accepted", "", 0)


def test_a_worker_that_is_not_the_primary_speaks_nothing(world: World) -> None:
    """What it believes does not count: the message goes to whoever leads."""
    lease = world.lead(OTHER)
    world.believe(Lease(lease.epoch, ME))
    job_id = world.accept()
    with pytest.raises(Reject) as rejected:
        world.run(job_id)
    assert rejected.value.requeue
    assert world.engine.spoken == []
    assert world.state(job_id) == ("accepted", "", 0)
    assert [e["lease"] for e in world.seen("job.not_leader")] == [str(lease)]


def cancel(world: World, job_id: str) -> None:
    record = world.ledger.get(job_id)
    assert record is not None
    assert world.ledger.cancel(record, retention_s=60) == "cancelled"


@pytest.mark.parametrize("text", ["一", "一|二"])
def test_an_attempt_that_was_overtaken_ends_nothing(world: World, text: str) -> None:
    """The worker was taken for dead while it spoke; its successor has the job, and it yields."""
    lease = world.lead()
    world.believe(lease)
    job_id = world.accept(text)

    def overtake() -> None:
        world.ledger.release(job_id, ME, None, strike=True)
        world.coordinator.remove(LANE, lease)
        world.ledger.claim(job_id, OTHER, world.lead(OTHER), max_strikes=3, nonce="n")

    world.engine.meanwhile = overtake
    with pytest.raises(Ignore):
        world.run(job_id)
    assert world.state(job_id) == ("running", OTHER, 2)
    assert world.engine.spoken == ["一"]
    assert [(e["attempt"], e["worker"]) for e in world.seen("job.stale_refused")] == [(1, ME)]


def test_a_job_that_was_cancelled_is_not_spoken(world: World) -> None:
    """Its message comes late, and whoever waits for its result is told."""
    world.believe(world.lead())
    job_id = world.accept()
    cancel(world, job_id)
    with pytest.raises(JobCancelledError, match=job_id):
        world.run(job_id)
    assert world.engine.spoken == []
    assert world.state(job_id) == ("cancelled", "", 0)


@pytest.mark.parametrize("text", ["一", "一|二|三"])
def test_a_job_that_is_cancelled_stops_at_the_end_of_its_segment(world: World, text: str) -> None:
    """It is no attempt that was overtaken: whoever waits for its result is told."""
    world.believe(world.lead())
    job_id = world.accept(text)
    world.engine.meanwhile = lambda: cancel(world, job_id)
    with pytest.raises(JobCancelledError, match=job_id):
        world.run(job_id)
    assert world.engine.spoken == ["一"]
    assert world.state(job_id) == ("cancelled", ME, 1)
    assert world.ledger.claims_of(ME) == []
    assert world.seen("job.stale_refused") == []


def test_a_cancelled_job_is_not_tried_again(world: World) -> None:
    """Its attempt fails after it was cancelled: nobody is to have it."""
    world.believe(world.lead())
    job_id = world.accept("一")
    world.engine.meanwhile = lambda: cancel(world, job_id)
    world.storage = FullDisk(world.root)
    with pytest.raises(JobCancelledError):
        world.run(job_id)
    assert world.state(job_id) == ("cancelled", ME, 1)


def test_what_is_published_already_is_adopted_unspoken(world: World) -> None:
    """An attempt died between publishing and finishing, or Redis forgot the job."""
    world.believe(world.lead())
    job_id = world.accept()
    first = world.run(job_id)
    world.redis.delete(keys.job(job_id))
    world.accept(job_id=job_id)
    again = world.run(job_id)
    assert world.engine.spoken == ["一", "二"]
    assert again == first | {"adopted": True}


def test_a_job_succeeds_only_when_its_artifact_is_there(world: World) -> None:
    """A storage that refuses gives the job back with a strike; nothing was promised."""
    world.believe(world.lead())
    job_id = world.accept("一")
    world.storage = FullDisk(world.root)
    with pytest.raises(Reject) as rejected:
        world.run(job_id)
    assert rejected.value.requeue
    assert world.state(job_id) == ("accepted", "", 1)
    assert [e["code"] for e in world.seen("job.attempt_failed")] == ["storage"]


# -- what costs its workers -----------------------------------------------------------------------


def accept_line(world: World, text: str = "一|二") -> str:
    job_id = keys.batch_job_id("b", 1)
    meta = JobMeta(queue="q", name="a.wav", batch="b", line=1)
    world.ledger.accept([(job_id, SpeechRequest(text=text), meta)])
    return job_id


def lose(world: World, job_id: str, worker: str) -> None:
    """Have a worker take the job and lose its child over it."""
    claim = world.ledger.claim(job_id, worker, None, max_strikes=9, nonce=worker)
    evidence = {"reason": "the engine's process was killed by SIGSEGV", "signal": "SIGSEGV"}
    assert isinstance(claim, Claim)
    world.ledger.release(job_id, worker, None, strike=True, evidence=evidence)


def test_each_segment_is_told_as_it_begins(world: World) -> None:
    """It is what the parent knows of a child that dies."""
    world.run(accept_line(world))
    segments = [m for m in world.said if m["event"] == "segment"]
    assert [(m["segment"], m["segments"]) for m in segments] == [(1, 2), (2, 2)]


def test_a_job_that_lost_too_many_workers_fails_with_the_evidence(world: World) -> None:
    """The newest, and whom it cost."""
    job_id = accept_line(world)
    for worker in (ME, OTHER, ME):
        lose(world, job_id, worker)
    with pytest.raises(JobFailedError, match=r"3 attempts in a row .* killed by SIGSEGV"):
        world.run(job_id)
    record = world.ledger.get(job_id)
    assert record is not None
    error = record.result["error"]
    assert (error["code"], error["workers"]) == ("attempts_exhausted", [ME, OTHER])
    assert error["evidence"]["signal"] == "SIGSEGV"


def test_out_of_memory_is_tried_again_here_then_elsewhere_before_it_counts(world: World) -> None:
    """Twice a job's life it is no strike; the failure says what it was."""
    job_id = accept_line(world, "一")

    def run_out() -> None:
        raise MemoryError

    world.engine.meanwhile = run_out
    strikes = []
    for _ in range(4):
        with pytest.raises(Reject):
            world.run(job_id)
        record = world.ledger.get(job_id)
        assert record is not None
        strikes.append(record.strikes)
    assert strikes == [0, 0, 1, 2]
    with pytest.raises(JobFailedError, match="out_of_memory"):
        world.run(job_id)
    assert len(world.engine.spoken) == 10
    told = [e["then"] for e in world.seen("job.out_of_memory")]
    assert told == ["tried again", "given back"] * 5
    record = world.ledger.get(job_id)
    assert record is not None
    assert record.result["error"]["code"] == "out_of_memory"
    assert record.result["error"]["workers"] == [ME]


def test_a_job_whose_deadline_has_passed_is_not_spoken(world: World) -> None:
    """It ends as failed, with a code and an event; its message asked again gets the same."""
    world.believe(world.lead())
    job_id = world.accept()
    world.redis.hset(keys.job(job_id), "deadline_ms", 1)
    for _ in range(2):
        with pytest.raises(JobFailedError, match="deadline_exceeded"):
            world.run(job_id)
    assert world.engine.spoken == []
    assert world.state(job_id) == ("failed", "", 0)
    assert [e["code"] for e in world.seen("job.failed")] == ["deadline_exceeded"]
    assert world.redis.ttl(keys.job(job_id)) > 0
    assert world.ledger.load(LANE) == LaneLoad()


def test_a_foreign_job_that_is_refused_fails_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`send_task` cannot be refused where it is called: its result says what the lane said."""
    tight = get_settings().model_copy(update={"max_online_jobs": 1})
    monkeypatch.setattr("tts_tasks.tasks.get_settings", lambda: tight)
    world.believe(world.lead())
    world.accept("waits")
    foreign = f"{LANE}:foreign"
    with pytest.raises(JobFailedError, match=r"queue_full.*try again in 1 s"):
        world.run(foreign, {"text": "一"})
    assert world.engine.spoken == []
    assert world.ledger.get(foreign) is None
    assert [e["code"] for e in world.seen("job.failed")] == ["queue_full"]


def test_a_lane_learns_its_pace_from_what_is_spoken(world: World) -> None:
    """Claim to finish, by the character."""
    world.believe(world.lead())
    world.run(world.accept("一|二|三|四"))
    load = world.ledger.load(LANE)
    assert load.char_s is not None
    assert 0 < load.char_s < 10


def test_a_lost_engine_ends_its_process_over_its_job(world: World) -> None:
    """The child is to end where it stands, so that its parent gives the job back."""

    def gone() -> None:
        raise EngineLostError("its server is gone")

    world.engine.meanwhile = gone
    world.believe(world.lead())
    with pytest.raises(Reject):  # nobody ends this process
        world.run(world.accept())
    assert [str(error) for error in world.lost] == ["its server is gone"]
