"""An online job is cancelled at any moment, and nothing more comes of it.

The ledger's part on a real Redis, on a cluster, and on the one in memory; the client's on Redis.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Task

from tts_tasks import client, follow, keys, synthesize
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.errors import ConflictError, JobCancelledError, NotFoundError, RequestError
from tts_tasks.ledger import (
    Claim,
    ClaimRefused,
    JobLedger,
    JobMeta,
    JobRecord,
    LaneLoad,
    LoggedSegment,
    Refusal,
    SegmentLog,
)
from tts_tasks.redis_connection import connect
from tts_tasks.requests import SpeechRequest
from tts_tasks.testing import (
    ALL_KNOWN,
    MemoryCoordinator,
    MemoryLedger,
    MemorySegments,
    MemoryStore,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.coordination.base import Coordinator

LANE = "default.0"
QUEUE = "tts.online.default.0"
JOB = f"{LANE}:j"


@dataclass
class Lane:
    """One store, one lane with its primary ``w1``, and one job of it."""

    ledger: JobLedger | MemoryLedger
    log: SegmentLog | MemorySegments
    coordinator: Coordinator
    open_jobs: Callable[[], list[str]]

    def __post_init__(self) -> None:
        self._nonces = itertools.count()
        self._lease = self.coordinator.acquire(LANE, "w1", 600, ALL_KNOWN)
        meta = JobMeta(queue=QUEUE, name="j.wav", lane_key=LANE)
        self.ledger.accept([(JOB, SpeechRequest(text="你好"), meta)])

    @property
    def record(self) -> JobRecord:
        record = self.ledger.get(JOB)
        assert record is not None
        return record

    def ask(self) -> Claim | ClaimRefused:
        nonce = str(next(self._nonces))
        return self.ledger.claim(JOB, "w1", self._lease, max_strikes=3, nonce=nonce)

    def claim(self) -> Claim:
        answer = self.ask()
        assert isinstance(answer, Claim), answer
        return answer

    def cancel(self) -> str:
        return self.ledger.cancel(self.record, retention_s=60)

    def append(self, claim: Claim, number: int) -> bool:
        segment = LoggedSegment.of(number, 3, b"\0\1", 8000)
        return self.log.append(claim, segment, "plan", {"after": number}, 60)


@pytest.fixture(params=["redis", "cluster", "memory"])
def lane(request: pytest.FixtureRequest) -> Lane:
    """Each kind of store in turn."""
    if request.param == "memory":
        store = MemoryStore()
        return Lane(
            MemoryLedger(store),
            MemorySegments(store),
            MemoryCoordinator(store=store),
            lambda: list(store.open_jobs[QUEUE]),
        )
    if request.param == "cluster":
        url = request.getfixturevalue("redis_cluster").url
    else:
        url = request.getfixturevalue("redis_url")
    redis = connect(url)
    return Lane(
        JobLedger(url),
        SegmentLog(url),
        RedisCoordinator(url, timeout_s=2.0),
        lambda: list(redis.zrange(keys.open_jobs(QUEUE), 0, -1)),
    )


def ended(lane: Lane) -> None:
    """Check that a cancelled job leaves nothing to do, and that nobody gets it."""
    assert (lane.record.state, lane.record.result) == ("cancelled", {})
    assert lane.record.finished_ms is not None
    assert lane.ledger.load(LANE) == LaneLoad()
    assert lane.open_jobs() == lane.ledger.open_jobs() == []
    assert lane.ledger.claims_of("w1") == []
    assert lane.ask() == ClaimRefused(Refusal.ENDED, "cancelled")


def test_a_job_that_waits_is_cancelled_at_once(lane: Lane) -> None:
    """Its message finds that it has ended; cancelling twice is cancelling once."""
    assert [lane.cancel() for _ in range(2)] == ["cancelled"] * 2
    ended(lane)


def test_of_a_job_that_is_spoken_nothing_more_counts(lane: Lane) -> None:
    """The attempt that has it may neither append nor begin anew, finish or give it back."""
    claim = lane.claim()
    assert lane.append(claim, 1)
    assert lane.cancel() == "cancelled"
    assert not lane.append(claim, 2)
    assert not lane.log.restart(claim)
    assert not lane.ledger.finish(claim, "succeeded", {"uri": "late"}, retention_s=60)
    assert not lane.ledger.finish(claim, "failed", {"error": {}}, retention_s=60)
    assert not lane.ledger.give_up(lane.record, "w1", {"error": {}}, retention_s=60)
    assert lane.ledger.release(JOB, "w1", None, strike=True) is None
    ended(lane)


def test_a_job_that_was_given_back_is_cancelled(lane: Lane) -> None:
    """It waits again, and is counted as what it is."""
    claim = lane.claim()
    lane.ledger.release(JOB, "w1", claim.attempt, strike=True)
    assert lane.cancel() == "cancelled"
    ended(lane)


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_a_job_that_has_ended_stays_as_it_is(lane: Lane, state: str) -> None:
    """Its artifact is there, or its failure was told."""
    lane.ledger.finish(lane.claim(), state, {"uri": "u"}, retention_s=60)
    assert lane.cancel() == state
    assert (lane.record.state, lane.record.result) == (state, {"uri": "u"})


def test_an_unknown_job_is_not_invented_to_be_cancelled(lane: Lane) -> None:
    """It may have been forgotten in between."""
    gone = replace(lane.record, id=f"{LANE}:gone")
    assert lane.ledger.cancel(gone, retention_s=60) == ""
    assert lane.ledger.get(gone.id) is None


# -- as callers have it ----------------------------------------------------------------------------


@pytest.fixture
def unheard(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Redis, and no message that reaches anybody."""
    sent = Task.apply_async

    def apply_async(self: Task, *args: Any, **options: Any) -> Any:
        return sent(self, *args, **{**options, "queue": "nobody"})

    monkeypatch.setattr(Task, "apply_async", apply_async)
    return redis_url


@pytest.mark.parametrize("task_id", [None, "order-17"])
def test_whoever_waits_for_a_cancelled_job_is_told_at_once(
    unheard: str, task_id: str | None
) -> None:
    """In ``.get()``, in `follow` and in `follow_audio`, without any worker; the events have it."""
    waiting = synthesize.apply_async(("你好",), task_id=task_id)
    job_id = keys.job_id_of_task(waiting.id, LANE)
    for _ in range(2):
        client.job_cancel(job_id)
    with pytest.raises(JobCancelledError, match=f"job {job_id} was cancelled"):
        waiting.get(timeout=10)
    (result,) = follow(job_id, timeout_s=10)
    assert (result.state, result.uri, result.error, result.attempt) == ("cancelled", None, None, 0)
    with pytest.raises(JobCancelledError):
        list(client.follow_audio(job_id, timeout_s=10))
    told = [event["job"] for event in client.events() if event["event"] == "job.cancelled"]
    assert told == [job_id]
    assert JobLedger(unheard).load(LANE) == LaneLoad()


def test_what_cannot_be_cancelled_is_refused_with_the_reason(unheard: str) -> None:
    """A job that has ended, one that nobody knows, a line of a batch, and what is no job."""
    job_id = client.submit_job(SpeechRequest(text="你好"))
    record = JobLedger(unheard).get(job_id)
    assert record is not None
    assert JobLedger(unheard).give_up(record, "w1", {"error": {}}, retention_s=60)
    with pytest.raises(ConflictError, match="has failed already"):
        client.job_cancel(job_id)
    for unknown in (f"{LANE}:unknown", "nowhere:1"):
        with pytest.raises(NotFoundError, match=unknown):
            client.job_cancel(unknown)
    client.submit_batch([{"text": "你好"}], id="morning")
    with pytest.raises(ConflictError, match="ttsctl batch cancel morning"):
        client.job_cancel("morning:1")
    with pytest.raises(RequestError, match="not a job id"):
        client.job_cancel("morning")


def test_a_job_is_cancelled_though_nobody_can_be_told(
    unheard: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker of its own that is away: the ledger has it, and who hears the message is told."""
    job_id = client.submit_job(SpeechRequest(text="你好"))

    def away(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("connection refused")

    monkeypatch.setattr(synthesize.backend, "store_result", away)
    client.job_cancel(job_id)
    record = JobLedger(unheard).get(job_id)
    assert record is not None
    assert record.state == "cancelled"
    assert "not told yet" in caplog.text
