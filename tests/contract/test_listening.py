"""A listener hears all of a job's sound, once and in order, whenever and however often it comes."""

from __future__ import annotations

import asyncio
import io
import secrets
import threading
import wave
from typing import TYPE_CHECKING

import pytest

from tts_tasks import client, keys
from tts_tasks.batches.window import Window
from tts_tasks.errors import JobFailedError, NotFoundError, WaitTimeoutError
from tts_tasks.events import EventLog
from tts_tasks.ledger import BatchBook, Claim, JobLedger, JobMeta, LoggedSegment, SegmentLog
from tts_tasks.ledger.batch_records import LineEnding
from tts_tasks.requests import SpeechRequest
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage
from tts_tasks.storage.staging import Staging

if TYPE_CHECKING:
    import redis

JOB = "b1:1"
SOUND = [bytes([number]) * 200 * number for number in range(1, 5)]
RATE_HZ = 8000


class Job:
    """One job that a worker speaks, segment by segment."""

    def __init__(self, url: str, suffix: str = "wav") -> None:
        self.ledger, self.log = JobLedger(url), SegmentLog(url)
        self.storage = open_storage(get_settings().storage_url)
        self.name = f"heard-{secrets.token_hex(8)}.{suffix}"
        meta = JobMeta(queue="q", name=self.name)
        self.ledger.accept([(JOB, SpeechRequest(text="一"), meta)])
        self.references: list[str] = []
        self.claim = self.claimed("w1")

    def claimed(self, worker: str) -> Claim:
        answer = self.ledger.claim(JOB, worker, None, max_strikes=9, nonce=secrets.token_hex(4))
        assert isinstance(answer, Claim)
        return answer

    def append(self, number: int, *, staged: bool = False) -> None:
        pcm = SOUND[number - 1]
        name = Staging(self.storage, JOB, 1).put(number, pcm) if staged else ""
        segment = LoggedSegment.of(number, len(SOUND), pcm, RATE_HZ, reference=name)
        assert self.log.append(self.claim, segment, "plan", None, 60)
        self.references += [name] * staged

    def finish(self, *, artifact: bytes = b"") -> None:
        target = io.BytesIO()
        with wave.open(target, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes(b"".join(SOUND))
        self.storage.create(self.name, artifact or target.getvalue())
        self.ledger.finish(self.claim, "succeeded", {"name": self.name}, retention_s=60)


@pytest.fixture
def job(redis_url: str) -> Job:
    """A job in a worker's hands, nothing of it spoken."""
    return Job(redis_url)


def heard(after: int = 0) -> list[bytes]:
    return [one.pcm for one in client.follow_audio(JOB, after=after, timeout_s=60)]


def test_a_listener_hears_each_segment_as_it_is_spoken(job: Job) -> None:
    """It is there before the next one is begun."""
    segments = client.follow_audio(JOB, timeout_s=60)
    for number in range(1, 5):
        job.append(number, staged=number == 3)
        segment = next(segments)
        assert (segment.number, segment.segments) == (number, 4)
        assert segment.pcm == SOUND[number - 1]
        assert segment.duration_s == pytest.approx(number * 100 / RATE_HZ)
    assert list(segments) == []


def test_a_late_listener_hears_all_and_a_returning_one_the_rest(job: Job) -> None:
    """Whether the job has ended meanwhile or not."""
    for number in range(1, 5):
        job.append(number)
    assert heard() == SOUND
    assert heard(after=2) == SOUND[2:]
    job.finish()
    assert heard() == SOUND
    assert heard(after=3) == SOUND[3:]
    assert heard(after=4) == []


def test_a_failover_is_a_pause_and_never_a_gap_or_a_repeat(job: Job) -> None:
    """What the dead worker had not appended is spoken by the next one."""
    listened: list[bytes] = []
    listener = threading.Thread(target=lambda: listened.extend(heard()))
    listener.start()
    job.append(1)
    job.append(2)
    job.ledger.release(JOB, "w1", None, strike=True)
    job.claim = job.claimed("w2")
    job.append(2)  # spoken again: it is there already
    job.append(3)
    job.append(4)
    listener.join(60)
    assert listened == SOUND


def test_several_listeners_hear_the_same(job: Job) -> None:
    """And in an event loop as well."""

    async def listen() -> list[bytes]:
        return [one.pcm async for one in client.follow_audio_async(JOB, timeout_s=60)]

    async def both() -> list[list[bytes]]:
        return list(await asyncio.gather(listen(), listen(), asyncio.to_thread(heard)))

    def speak() -> None:
        for number in range(1, 5):
            job.append(number)

    worker = threading.Timer(0.1, speak)
    worker.start()
    assert asyncio.run(both()) == [SOUND] * 3
    worker.join()


def test_after_the_log_the_artifact_is_heard(job: Job, redis_client: redis.Redis) -> None:
    """Its samples are the segments', so a listener goes on in the middle of it."""
    for number in range(1, 5):
        job.append(number, staged=number > 2)
    job.finish()
    job.storage.remove(job.references)
    assert b"".join(heard()) == b"".join(SOUND)
    assert heard(after=2) == [b"".join(SOUND[2:])]
    redis_client.delete(keys.segments(JOB))
    assert heard() == [b"".join(SOUND)]
    with pytest.raises(NotFoundError, match="from the beginning"):
        heard(after=2)


def test_a_job_that_was_published_before_is_heard_from_its_artifact(job: Job) -> None:
    """Nothing was spoken, so the log has nothing."""
    job.finish()
    assert heard() == [b"".join(SOUND)]


def test_an_artifact_that_is_no_wav_is_named(redis_url: str) -> None:
    """A client has no decoder."""
    job = Job(redis_url, "mp3")
    job.finish(artifact=b"an mp3")
    with pytest.raises(NotFoundError, match=rf"no longer kept; its artifact is {job.name}"):
        heard()


def test_a_job_that_fails_ends_the_listening(job: Job) -> None:
    """With the reason, and after what was spoken of it."""
    job.append(1)
    segments = client.follow_audio(JOB, timeout_s=60)
    assert next(segments).pcm == SOUND[0]
    result = {"error": {"code": "engine", "reason": "it broke"}}
    job.ledger.finish(job.claim, "failed", result, retention_s=60)
    with pytest.raises(JobFailedError, match="it broke"):
        next(segments)


def test_waiting_has_an_end(job: Job) -> None:
    """The work goes on."""
    job.append(1)
    segments = client.follow_audio(JOB, timeout_s=0.3)
    next(segments)
    with pytest.raises(WaitTimeoutError, match="goes on"):
        next(segments)


def test_an_unknown_job_is_not_found(redis_url: str) -> None:
    """At once."""
    with pytest.raises(NotFoundError, match="there is no job"):
        next(client.follow_audio("default.0:nobody"))


def test_a_line_of_a_batch_is_heard_before_it_is_taken_and_after_it_is_reported(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Of a line Redis knows something only in between."""
    id_ = f"heard-{secrets.token_hex(4)}"
    name = f"{id_}/1.wav"
    client.submit_batch([{"text": "一", "output_name": "1"}, {"text": "二"}], id=id_)
    with pytest.raises(WaitTimeoutError):
        list(client.follow_audio(f"{id_}:1", timeout_s=0.2))
    book, storage = BatchBook(redis_url), open_storage(get_settings().storage_url)
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(SOUND[0])
    storage.create(name, target.getvalue())
    run = book.take("tts.batch.default", "w1", nonce="n", max_jobs=2, max_chars=99, max_strikes=3)
    assert run is not None
    failure = {"error": {"code": "engine", "reason": "it broke"}}
    first, second = run.jobs
    book.finish(
        id_,
        "w1",
        [
            LineEnding(first.line, 1, first.attempt, "succeeded", {"name": name}),
            LineEnding(second.line, 1, second.attempt, "failed", failure),
        ],
    )
    Window(book, storage, EventLog(redis_client), retention_s=60).settle(id_)
    assert book.results(id_, [1, 2]) == {}
    assert [one.pcm for one in client.follow_audio(f"{id_}:1", timeout_s=5)] == [SOUND[0]]
    with pytest.raises(JobFailedError, match="it broke"):
        list(client.follow_audio(f"{id_}:2", timeout_s=5))
    for nothing in (f"{id_}:9", "nobody:1"):
        with pytest.raises(NotFoundError):
            list(client.follow_audio(nothing, timeout_s=5))
