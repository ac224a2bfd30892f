"""What a dead worker held is given back: once, to nobody's harm, through a real Redis and kombu."""

from __future__ import annotations

import json
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from kombu.transport.redis import QoS

from tts_tasks import client, keys
from tts_tasks.app import app
from tts_tasks.coordination.base import WorkerRecord
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.doorbell import ring
from tts_tasks.errors import StorageError
from tts_tasks.events import EventLog
from tts_tasks.ledger import BatchBook, Claim, JobLedger, JobMeta, LoggedSegment, SegmentLog
from tts_tasks.ledger.batch_records import LineEnding
from tts_tasks.redis_connection import connect
from tts_tasks.requests import SpeechRequest
from tts_tasks.routing import Route
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage
from tts_tasks.testing import ALL_KNOWN
from tts_tasks.voices import ReferenceStore, pin_of
from tts_workers.link import nonce_prefix
from tts_workers.recovery import Recovery, unacked_keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from tts_tasks.coordination import Lease

BATCH = "b1"
QUEUE = "tts.batch.default"
DEAD, OTHER = "dead@h/1", "other@h/2"
CHILD, SUCCESSOR = 4711, 4712


class World:
    """A ledger, a broker, and what workers did before they died."""

    def __init__(self, broker: redis.Redis, broker_url: str, url: str) -> None:
        self.broker = broker
        self.url = url
        self.redis = connect(url)
        self.ledger = JobLedger(url, broker_url=broker_url)
        self.coordinator = RedisCoordinator(url, timeout_s=2.0)
        self.events = EventLog(self.redis)
        self.recovery = Recovery(
            app,
            get_settings(),
            name=OTHER,
            ledger=self.ledger,
            coordinator=self.coordinator,
            events=self.events,
            book=BatchBook(url),
        )
        self.dead = ExitStack()

    def accept(self, count: int = 1) -> list[str]:
        jobs = [keys.batch_job_id(BATCH, line) for line in range(1, count + 1)]
        self.accepted_ms, *_ = self.ledger.accept(
            [
                (
                    job,
                    SpeechRequest(text="你好"),
                    JobMeta(queue=QUEUE, name=f"{line}.wav", batch=BATCH, line=line),
                )
                for line, job in enumerate(jobs, start=1)
            ]
        )
        return jobs

    def ring(self, *jobs: str) -> None:
        ring(app, QUEUE, jobs, rung_ms=self.ledger.now_ms())

    def take_messages(self, worker: str, count: int) -> None:
        """Take messages as a worker does that is killed before it has acknowledged them."""
        options = dict(app.conf.broker_transport_options) | unacked_keys(worker)
        template = self.dead.enter_context(app.connection_for_write())
        connection = self.dead.enter_context(template.clone(transport_options=options))
        channel = connection.channel()
        channel.do_restore = False  # as after a SIGKILL
        for _ in range(count):
            assert channel.basic_get(QUEUE) is not None

    def claim(self, job: str, worker: str, *, child: int = CHILD) -> Claim:
        nonce = nonce_prefix(child) + secrets.token_hex(4)
        answer = self.ledger.claim(job, worker, None, max_strikes=9, nonce=nonce)
        assert isinstance(answer, Claim), answer
        return answer

    def append(self, claim: Claim) -> bool:
        segment = LoggedSegment.of(1, 2, b"\0\1", 8000)
        return SegmentLog(self.url).append(claim, segment, "plan", None, 60)

    def waiting(self) -> list[str]:
        """Return whose messages wait, the next to be taken first."""
        messages: Any = self.broker.lrange(QUEUE, 0, -1)
        return [json.loads(message)["headers"]["id"] for message in reversed(messages)]

    def grow_old(self, *jobs: str) -> None:
        """Let a minute pass since these jobs were rung and claimed."""
        for job in jobs:
            self.redis.zincrby(keys.open_jobs(QUEUE), -60_000, job)
            if self.redis.hget(keys.job(job), "claimed_ms"):
                self.redis.hincrby(keys.job(job), "claimed_ms", -60_000)

    def register(self, worker: str, pool: str = "default", **fields: Any) -> None:
        """Have a worker beat once."""
        record = WorkerRecord(id=worker, host="h", pid=1, pool=pool, lane="0", beat=1, **fields)
        self.coordinator.beat(record, 30)

    def lead(self, lane_key: str, worker: str) -> Lease:
        """Have a worker of a pool's first lane be its primary."""
        self.register(worker, lane_key.partition(".")[0])
        lease = self.coordinator.acquire(lane_key, worker, 30, ALL_KNOWN)
        assert lease is not None
        return lease

    def state(self, job: str) -> tuple[str, str]:
        record = self.ledger.get(job)
        assert record is not None
        return record.state, record.worker

    def seen(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events.read() if one["event"] == event]


@pytest.fixture(params=["one Redis", "Redis Cluster"])
def world(
    request: pytest.FixtureRequest, redis_client: redis.Redis, redis_url: str
) -> Iterator[World]:
    """An empty cluster, on one Redis, and with its ledger in a Redis Cluster."""
    url = redis_url
    if request.param == "Redis Cluster":
        url = request.getfixturevalue("redis_cluster").url
    world = World(redis_client, redis_url, url)
    yield world
    world.dead.close()


def test_a_dead_workers_job_is_given_back_and_rung(world: World) -> None:
    """Its message was acknowledged or lost: the ledger knows of the job, so it is rung anew."""
    (job,) = world.accept()
    world.claim(job, DEAD)
    world.register(DEAD)

    world.recovery.recover(DEAD, silent_s=3.0)

    assert world.state(job) == ("accepted", "")
    assert world.waiting() == [job]
    assert world.ledger.claims_of(DEAD) == []
    assert world.coordinator.workers() == {}
    assert [(e["worker"], e["jobs"]) for e in world.seen("worker.dead")] == [(DEAD, [job])]


def test_messages_that_a_dead_worker_had_taken_come_back_to_the_head_in_order(
    world: World,
) -> None:
    """What it took and did not claim is served next, as if it had never been taken."""
    jobs = world.accept(4)
    world.ring(*jobs)
    world.take_messages(DEAD, 2)
    assert world.waiting() == jobs[2:]

    world.recovery.recover(DEAD, silent_s=3.0)

    assert world.waiting() == jobs
    assert not world.broker.exists(*unacked_keys(DEAD).values())


def test_a_job_whose_message_comes_back_is_not_rung_beside_it(world: World) -> None:
    """One job, one message."""
    jobs = world.accept(2)
    world.ring(jobs[0])
    world.take_messages(DEAD, 1)
    for job in jobs:
        world.claim(job, DEAD)

    world.recovery.recover(DEAD, silent_s=3.0)

    assert sorted(world.waiting()) == jobs


def test_a_job_is_free_before_its_message_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who takes the message at once must not be told that the dead worker has the job."""
    (job,) = world.accept()
    world.ring(job)
    world.take_messages(DEAD, 1)
    world.claim(job, DEAD)
    seen = []
    restore: Any = QoS.restore_by_tag

    def look(*args: Any, **options: Any) -> Any:
        seen.append(world.state(job))
        return restore(*args, **options)

    monkeypatch.setattr(QoS, "restore_by_tag", look)
    world.recovery.recover(DEAD, silent_s=3.0)
    assert seen == [("accepted", "")]
    assert world.waiting() == [job]


def test_who_strikes_a_primary_off_takes_its_lease_away_first(world: World) -> None:
    """Its lane's standbys, who would depose it, find it no longer in the registry."""
    lane = Route("zh", "0").lane_key
    lease = world.lead(lane, DEAD)
    world.recovery.recover(DEAD, silent_s=0.2)
    assert world.coordinator.read(lane) is None
    (deposed,) = world.seen("lease.deposed")
    assert (deposed["lane"], deposed["holder"], deposed["epoch"]) == (lane, DEAD, lease.epoch)
    assert deposed["by"] == OTHER


def test_the_lease_of_a_successor_stays(world: World) -> None:
    """Somebody was faster."""
    lane = Route("zh", "0").lane_key
    first = world.lead(lane, DEAD)
    assert world.coordinator.remove(lane, first)
    second = world.lead(lane, OTHER)
    world.register(DEAD, "zh")
    world.recovery.recover(DEAD, silent_s=0.2)
    assert world.coordinator.read(lane) == second
    assert world.seen("lease.deposed") == []


def test_recovery_takes_nothing_from_who_has_the_job_now(world: World) -> None:
    """The dead worker had noted a claim that another one got."""
    (job,) = world.accept()
    claim = world.claim(job, OTHER)
    world.redis.sadd(keys.claims(DEAD), job)

    world.recovery.recover(DEAD, silent_s=3.0)

    assert world.state(job) == ("running", OTHER)
    assert world.waiting() == []
    assert world.seen("job.recovered") == []
    assert world.append(claim)


def test_several_survivors_that_recover_at_once_do_it_once(world: World) -> None:
    """Releases are fenced, messages move in transactions."""
    jobs = world.accept(6)
    world.ring(*jobs[:3])
    world.take_messages(DEAD, 3)
    for job in jobs[2:]:
        world.claim(job, DEAD)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: world.recovery.recover(DEAD, silent_s=3.0), range(4)))

    # one that found a job released and its message put back already may ring once more
    assert set(world.waiting()) == set(jobs)
    assert {world.state(job) for job in jobs} == {("accepted", "")}
    assert len(world.seen("job.recovered")) == 4


def test_a_job_says_how_its_worker_was_lost(world: World) -> None:
    """What the recoverer knows, or the parent of the dead child; it is in the event too."""
    job, other = world.accept(2)
    world.claim(job, DEAD)
    world.recovery.recover(DEAD, silent_s=3.04)
    world.claim(other, OTHER)
    world.recovery.give_back_claims(OTHER, {"reason": "killed by SIGSEGV", "signal": "SIGSEGV"})
    first, second = world.ledger.get_many([job, other])
    assert first is not None
    assert second is not None
    lost = {"reason": "worker lost, silent 3.0 s", "silent_s": 3.04, "worker": DEAD}
    assert first.evidence == lost
    assert second.evidence["signal"] == "SIGSEGV"
    assert (first.struck_workers, second.struck_workers) == ((DEAD,), (OTHER,))
    assert [e["reason"] for e in world.seen("job.recovered")] == [
        lost["reason"],
        "killed by SIGSEGV",
    ]


def test_a_dead_childs_job_is_given_back_with_a_strike(world: World) -> None:
    """A text that kills its engines must not do so for ever."""
    (job,) = world.accept()
    world.claim(job, DEAD)
    assert world.recovery.give_back_claims(DEAD, child=CHILD) == [job]
    assert world.waiting() == [job]
    assert world.redis.hget(keys.job(job), "strikes") == "1"


def test_a_dead_childs_message_comes_back_to_the_head_and_the_others_stay(world: World) -> None:
    """Its worker lives on, and will come to what else it has taken."""
    jobs = world.accept(3)
    world.ring(*jobs)
    world.take_messages(DEAD, 2)
    world.claim(jobs[0], DEAD)
    assert world.recovery.give_back_claims(DEAD, child=CHILD) == jobs[:1]
    assert world.waiting() == [jobs[0], jobs[2]]


def test_a_dead_childs_late_give_back_takes_nothing_from_its_successor(world: World) -> None:
    """Neither another job nor the very same one: the store may have been away in between."""
    same, other = world.accept(2)
    world.claim(same, DEAD)
    claims = [world.claim(job, DEAD, child=SUCCESSOR) for job in (same, other)]
    assert world.recovery.give_back_claims(DEAD, child=CHILD) == []
    assert world.waiting() == []
    assert all(world.append(claim) for claim in claims)
    assert world.recovery.give_back_claims(DEAD) == [same, other]  # when the worker leaves


def test_a_death_with_a_full_queue_of_intact_messages_rings_for_nobody_else(world: World) -> None:
    """Neither for the chunk of the message at the head, nor for what was rung again before."""
    *waiting, dead = world.accept(40)
    assert world.accepted_ms
    ring(app, QUEUE, waiting, rung_ms=world.accepted_ms)
    world.claim(dead, DEAD)
    world.recovery.recover(DEAD, silent_s=3.0)
    assert world.recovery.reconcile(QUEUE, {OTHER: ""}, at_once=True) == 0
    world.broker.ltrim(QUEUE, 0, 0)  # the others are taken
    for job in waiting:
        world.claim(job, OTHER)
    assert world.recovery.reconcile(QUEUE, {OTHER: ""}, at_once=True) == 0
    assert world.waiting() == [dead]
    assert world.seen("job.rung_again") == []


def test_a_storage_that_keeps_a_lane_without_a_primary_is_told_of_once(
    world: World, tmp_path: Path
) -> None:
    """The candidate asks it four times a second; after an answer, an outage is news again."""
    root = tmp_path / "store"
    settings = get_settings().model_copy(update={"storage_url": root.as_uri()})
    stores = {"ledger": world.ledger, "coordinator": world.coordinator, "events": world.events}
    recovery = Recovery(app, settings, name=OTHER, **stores)  # type: ignore[arg-type]
    assert recovery.highest_epoch() == 0
    for _ in range(2):
        shutil.rmtree(root, ignore_errors=True)
        root.write_text("not a folder")
        for _ in range(2):
            with pytest.raises(StorageError):
                recovery.highest_epoch()
        root.unlink()
        assert recovery.highest_epoch() == 0
    told = world.seen("lease.epochs_unknown")
    assert [event["lane"] for event in told] == [settings.lane_key] * 2
    assert str(root) in told[0]["reason"]


# -- what nobody has heard of -------------------------------------------------------------------


def test_a_job_that_has_lost_its_message_is_rung_again(world: World) -> None:
    """Accepted, unheard of, and no message waits: once rung, it is waited for again."""
    (job,) = world.accept()
    assert world.recovery.reconcile(QUEUE, {OTHER: ""}) == 0
    world.grow_old(job)
    assert world.recovery.reconcile(QUEUE, {OTHER: ""}) == 1
    assert world.waiting() == [job]
    assert world.recovery.reconcile(QUEUE, {OTHER: ""}) == 0


def test_a_job_that_a_living_worker_has_in_hand_is_left_alone(world: World) -> None:
    """However long it takes."""
    (job,) = world.accept()
    world.claim(job, OTHER)
    world.grow_old(job)
    assert world.recovery.reconcile(QUEUE, {OTHER: job}) == 0
    assert world.state(job) == ("running", OTHER)
    assert world.waiting() == []


def test_a_job_that_was_just_claimed_is_left_alone(world: World) -> None:
    """Its worker says with its next heartbeat that it works on it."""
    (job,) = world.accept()
    world.grow_old(job)
    world.claim(job, OTHER)
    assert world.recovery.reconcile(QUEUE, {OTHER: ""}) == 0
    assert world.state(job) == ("running", OTHER)


@pytest.mark.parametrize("working_on", [{OTHER: ""}, {OTHER: "b1:9"}, {"third@h/3": "b1:1"}])
def test_a_job_that_fell_through_its_workers_hands_is_taken_back_and_rung(
    world: World, working_on: dict[str, str]
) -> None:
    """Its worker works on nothing, on something else, or is not there any more."""
    (job,) = world.accept()
    world.claim(job, OTHER)
    world.grow_old(job)
    assert world.recovery.reconcile(QUEUE, working_on) == 1
    assert world.state(job) == ("accepted", "")
    assert world.waiting() == [job]


def test_after_a_death_a_lost_message_is_not_waited_for(world: World) -> None:
    """What was just accepted is rung; what was just claimed by the living is left alone."""
    lost, held = world.accept(2)
    world.claim(held, "alive")
    assert world.recovery.reconcile(QUEUE, {"alive": ""}) == 0
    assert world.recovery.reconcile(QUEUE, {"alive": ""}, at_once=True) == 1
    assert world.waiting() == [lost]
    assert world.state(held) == ("running", "alive")


# -- lines of batches ------------------------------------------------------------------------------


def take_lines(world: World, worker: str, *, lines: int = 3) -> BatchBook:
    """Have a worker take lines of a batch, and the ring be heard."""
    book = BatchBook(world.url)
    book.open(BATCH, source="s", output=BATCH, queue=QUEUE, created_ms=1)
    book.seal(BATCH, chunks=1, accepted=lines, rejected=0)
    book.feed(BATCH, 1, [(line, 2) for line in range(1, lines + 1)])
    nonce = nonce_prefix(CHILD) + "x"
    assert book.take(QUEUE, worker, nonce=nonce, max_jobs=9, max_chars=99, max_strikes=3)
    return book


def test_the_lines_of_a_dead_worker_go_back_and_somebody_hears_of_it(world: World) -> None:
    """The line that it was heard to speak last gets the strike."""
    book = take_lines(world, DEAD)
    world.register(DEAD, job=f"{BATCH}:2")
    world.recovery.recover(DEAD, silent_s=3.0)
    assert book.ready(BATCH) == 3
    assert [job.strikes for job in book.results(BATCH, [1, 2, 3]).values()] == [0, 1, 0]
    assert world.broker.llen(QUEUE) == 1
    (dead,) = world.seen("worker.dead")
    assert (dead["lines"], dead["jobs"]) == (3, [])
    world.recovery.recover(DEAD, silent_s=3.0)
    assert world.broker.llen(QUEUE) == 1


def test_the_lines_of_a_dead_child_go_back(world: World) -> None:
    """With the evidence of how it ended."""
    book = take_lines(world, DEAD)
    evidence = {"reason": "killed by SIGSEGV", "job": f"{BATCH}:1"}
    assert world.recovery.give_back_claims(DEAD, evidence, child=SUCCESSOR) == []
    assert book.ready(BATCH) == 0
    world.recovery.give_back_claims(DEAD, evidence, child=CHILD)
    assert book.ready(BATCH) == 3
    assert book.results(BATCH, [1])[1].evidence["reason"] == "killed by SIGSEGV"
    assert world.broker.llen(QUEUE) == 1


def test_lines_that_nobody_has_heard_of_are_rung_for(world: World) -> None:
    """The ring was lost; one that waits is enough."""
    book = take_lines(world, OTHER)
    book.release(BATCH, OTHER, [(1, None, False)])
    for _ in range(2):
        world.recovery.reconcile(QUEUE, {})
        assert world.broker.llen(QUEUE) == 1


def test_a_batch_whose_workers_have_died_is_settled_by_the_others(
    redis_client: redis.Redis, redis_url: str
) -> None:
    """It is fed on, and reported in the end; one that cannot be keeps none of the others."""
    world = World(redis_client, redis_url, redis_url)
    id_ = f"settled-{secrets.token_hex(4)}"
    broken = BatchBook(world.url)
    broken.open("a-broken-one", source="s", output="a", queue=QUEUE, created_ms=1)
    broken.grow("a-broken-one", 1)  # and there is no such chunk
    client.submit_batch([{"text": "一"}], id=id_)
    book = BatchBook(redis_url)
    run = book.take(QUEUE, OTHER, nonce="n", max_jobs=9, max_chars=99, max_strikes=3)
    assert run is not None
    endings = [LineEnding(job.line, 1, job.attempt, "failed", {}) for job in run.jobs]
    book.finish(id_, OTHER, endings)
    world.recovery.settle_batches()
    assert client.batch_status(id_).report


def test_recordings_that_no_open_job_needs_are_swept(world: World) -> None:
    """A recording of some days ago stays while a job waits with it, and goes when it has ended."""
    storage = open_storage(get_settings().storage_url)
    references = ReferenceStore(storage)
    sha256 = references.put(b"recording", "online/20200101")
    request = SpeechRequest(text="你好", prompt_text="你好", prompt_audio=pin_of(sha256))
    meta = JobMeta(queue="tts.online.default.0", name="a.wav", lane_key="default.0")
    world.ledger.accept([("default.0:a", request, meta)])
    world.recovery.sweep()
    assert references.has(sha256)
    lease = world.coordinator.acquire("default.0", "w", 30, ALL_KNOWN)
    claim = world.ledger.claim("default.0:a", "w", lease, max_strikes=3, nonce="n")
    assert isinstance(claim, Claim)
    assert world.ledger.finish(claim, "succeeded", {}, retention_s=60)
    world.recovery.sweep()
    assert not references.has(sha256)
