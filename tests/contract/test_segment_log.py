"""What every segment log must do: segments in order, each once, of the newest attempt alone."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks import keys
from tts_tasks.ledger import (
    Checkpoint,
    Claim,
    JobLedger,
    JobMeta,
    LoggedSegment,
    SegmentLog,
)
from tts_tasks.redis_connection import connect
from tts_tasks.requests import SpeechRequest
from tts_tasks.testing import MemoryLedger, MemorySegments, MemoryStore

if TYPE_CHECKING:
    import redis

JOB = "default.0:j1"
PLAN = "split.8000 fingerprint"
#: Every byte there is: none may be taken for text.
AUDIO = bytes(range(256))


@dataclass
class Stores:
    """A ledger and its segment logs."""

    ledger: JobLedger | MemoryLedger
    log: SegmentLog | MemorySegments

    def claim(self, worker: str = "w1") -> Claim:
        """Have the job claimed, from whoever has it."""
        record = self.ledger.get(JOB)
        assert record is not None
        self.ledger.release(JOB, record.worker, None, strike=True)
        nonce = secrets.token_hex(4)
        # a line of a batch: it needs no lease
        answer = self.ledger.claim(JOB, worker, None, max_strikes=99, nonce=nonce)
        assert isinstance(answer, Claim)
        return answer

    def append(self, claim: Claim, number: int, audio: bytes = AUDIO, **options: Any) -> bool:
        """Append a segment of three."""
        segment = LoggedSegment.of(number, 3, audio, 8000, **options)
        return self.log.append(claim, segment, PLAN, {"after": number}, 60)


@pytest.fixture(params=["redis", "cluster", "memory"])
def stores(request: pytest.FixtureRequest) -> Stores:
    """Each kind of store in turn, with one accepted job."""
    if request.param == "memory":
        store = MemoryStore()
        made = Stores(MemoryLedger(store), MemorySegments(store))
    else:
        url = request.getfixturevalue("redis_url")
        if request.param == "cluster":
            url = request.getfixturevalue("redis_cluster").url
        made = Stores(JobLedger(url), SegmentLog(url))
    made.ledger.accept([(JOB, SpeechRequest(text="一"), JobMeta(queue="q", name="a.wav"))])
    return made


def test_segments_come_back_as_they_were_appended(stores: Stores) -> None:
    """In order, byte for byte, from wherever one asks."""
    claim = stores.claim()
    assert stores.append(claim, 1)
    assert stores.append(claim, 2, AUDIO[::-1])
    first, second = stores.log.read(JOB)
    assert (first.number, first.segments, first.audio) == (1, 3, AUDIO)
    assert (first.sample_rate_hz, first.reference) == (8000, "")
    assert first.is_intact(AUDIO)
    assert not first.is_intact(AUDIO[::-1])
    assert second.audio == AUDIO[::-1]
    assert stores.log.read(JOB, 1) == [second]
    assert stores.log.read(JOB, 2) == []
    assert stores.log.read(JOB, limit=1) == [first]


def test_a_segment_may_be_a_reference(stores: Stores) -> None:
    """Then the log holds where the audio is, and how to tell that it is whole."""
    stores.append(stores.claim(), 1, reference=".tts/staging/x")
    (segment,) = stores.log.read(JOB)
    assert (segment.audio, segment.reference) == (b"", ".tts/staging/x")
    assert segment.size_bytes == len(AUDIO)
    assert segment.is_intact(AUDIO)


def test_the_next_attempt_is_told_where_to_go_on(stores: Stores) -> None:
    """The number, the plan and the engine's state after the newest segment."""
    assert stores.log.checkpoint(JOB) == Checkpoint(0, "", None)
    claim = stores.claim()
    stores.append(claim, 1)
    stores.append(claim, 2)
    stores.claim("w2")
    assert stores.log.checkpoint(JOB) == Checkpoint(2, PLAN, {"after": 2})
    assert stores.log.checkpoint("default.0:unknown") == Checkpoint(0, "", None)


def test_an_attempt_that_was_overtaken_appends_nothing(stores: Stores) -> None:
    """Neither under its old number nor under another name; nor after the end."""
    stale = stores.claim("w1")
    assert stores.append(stale, 1)
    newest = stores.claim("w2")
    assert not stores.append(stale, 2)
    assert not stores.log.restart(stale)
    assert [one.number for one in stores.log.read(JOB)] == [1]
    assert stores.append(newest, 2)
    stores.ledger.finish(newest, "succeeded", {}, retention_s=60)
    assert not stores.append(newest, 3)
    assert not stores.log.restart(newest)


def test_appending_twice_is_appending_once(stores: Stores) -> None:
    """A reply that was lost is asked for again; a segment spoken again changes nothing."""
    claim = stores.claim()
    assert stores.append(claim, 1)
    assert stores.append(claim, 1, b"other")
    assert [one.audio for one in stores.log.read(JOB)] == [AUDIO]
    assert stores.log.checkpoint(JOB).engine_state == {"after": 1}


def test_there_is_never_a_gap(stores: Stores) -> None:
    """A segment that does not follow on the last one is a bug of the caller, and refused."""
    claim = stores.claim()
    with pytest.raises(Exception, match="segment 2 would follow on 0"):
        stores.append(claim, 2)
    assert stores.log.read(JOB) == []


def test_a_restart_forgets_the_segments(stores: Stores) -> None:
    """What cannot be gone on from is spoken again from its beginning."""
    claim = stores.claim()
    stores.append(claim, 1)
    stores.append(claim, 2)
    assert stores.log.restart(claim)
    assert stores.log.checkpoint(JOB) == Checkpoint(0, "", None)
    assert stores.log.read(JOB) == []
    assert not stores.log.exists(JOB)
    assert stores.append(claim, 1)
    assert stores.log.exists(JOB)


def test_waiting_ends_with_a_segment_or_with_time(stores: Stores) -> None:
    """A listener hears of a segment as it is appended."""
    claim = stores.claim()
    assert stores.log.wait(JOB, 0, 0.05) == []
    stores.append(claim, 1)
    assert [one.number for one in stores.log.wait(JOB, 0, 0.05)] == [1]
    later = threading.Timer(0.1, stores.append, (claim, 2))
    later.start()
    heard: list[LoggedSegment] = []
    while not heard:
        heard = stores.log.wait(JOB, 1, 1.0)
    later.join()
    assert [one.number for one in heard] == [2]


def test_a_death_after_a_new_segment_is_no_strike(stores: Stores) -> None:
    """Progress starts the count of strikes anew; a segment spoken again does not."""
    claim = stores.claim()
    stores.append(claim, 1)
    assert stores.ledger.release(JOB, claim.worker, None, strike=True) == 1
    claim = stores.claim()
    stores.append(claim, 1)
    assert stores.ledger.release(JOB, claim.worker, None, strike=True) == 2


def test_logs_expire(redis_url: str, redis_client: redis.Redis) -> None:
    """While a job runs, long after its last segment; once it has ended, soon."""
    stores = Stores(JobLedger(redis_url), SegmentLog(redis_url, client=connect(redis_url)))
    stores.ledger.accept([(JOB, SpeechRequest(text="一"), JobMeta(queue="q", name="a.wav"))])
    stores.append(stores.claim(), 1)
    assert 0 < int(redis_client.ttl(keys.segments(JOB))) <= 60
    stores.log.expire(JOB, 5)
    assert 0 < int(redis_client.ttl(keys.segments(JOB))) <= 5
