"""A long text goes on from its last segment, whatever happens to its workers."""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import threading
import wave
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import eventually
from tts_tasks import client
from tts_tasks.cluster import events
from tts_tasks.ledger import JobLedger
from tts_tasks.requests import SpeechRequest
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage
from tts_tasks.storage.staging import STAGING_FOLDER

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster, Worker

pytestmark = [pytest.mark.e2e, pytest.mark.drill]

SENTENCE = "第{}段，请各位旅客注意，开往北京南站的列车即将进站，请在安全线以内等候。"
PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.04"}
#: What happens to the worker that has the text, when so many percent of it are spoken.
FAULTS = {10: "worker", 40: "child", 70: "pause", 95: "child"}
#: 60,000 characters: TTS_TEST_LONG_TEXT_CHARS=60000 python -m pytest tests/e2e/test_long_text.py
CHARS = int(os.environ.get("TTS_TEST_LONG_TEXT_CHARS", "2400"))


def text(chars: int) -> str:
    sentences: list[str] = []
    while sum(map(len, sentences)) < chars:
        sentences.append(SENTENCE.format(len(sentences) + 1))
    return "\n\n".join(
        "".join(sentences[start : start + 5]) for start in range(0, len(sentences), 5)
    )


class Listener(threading.Thread):
    """Listens to a job from its beginning to its end."""

    def __init__(self, job: str) -> None:
        super().__init__(daemon=True)
        self.job = job
        self.heard: list[Any] = []
        self.start()

    def run(self) -> None:
        self.heard.extend(client.follow_audio(self.job, timeout_s=1200))


def progress(job: str) -> tuple[int, int]:
    record = JobLedger(get_settings().redis_url).get(job)
    if record is None:  # a line of a batch that nobody has taken yet
        return 0, 0
    return record.segments_done, record.segments


def has_come_to(job: str, percent: int) -> int:
    """Wait until so much of a job is spoken; returns the segments."""

    def reached() -> int:
        done, segments = progress(job)
        return done if segments and done * 100 >= segments * percent else 0

    return int(eventually(reached, what=f"{percent} % are spoken", within_s=1200))


def goes_on_from(job: str, done: int) -> None:
    eventually(lambda: progress(job)[0] > done, what="another worker goes on", within_s=60)


def in_hand(cluster: Cluster, job: str) -> Worker:
    """Return the worker that speaks a job."""

    def who() -> Worker | None:
        record = JobLedger(get_settings().redis_url).get(job)
        holder = record.worker if record else ""
        return next(
            (w for w in cluster.workers if holder and (w.record or {}).get("id") == holder), None
        )

    found: Worker = eventually(who, what="a worker has the job")
    return found


def spoken_segments(spans: Path) -> int:
    """Count the segments that engines have spoken to their end, their probes (job 1) left out."""
    return sum(json.loads(line)["job"] > 1 for line in spans.read_text().splitlines())


def samples(wav: bytes) -> bytes:
    with wave.open(io.BytesIO(wav)) as file:
        return file.readframes(file.getnframes())


def test_a_text_survives_its_workers_and_a_listener_hears_it_whole(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Killed at 10, 40, 70 and 95 %, and stopped past the lease: as if nothing had happened."""
    spans = tmp_path / "spans.jsonl"
    words = text(CHARS)
    (calm,) = cluster.start("calm", **PACED)
    undisturbed = client.submit_job(SpeechRequest(text=words, output_name=secrets.token_hex(8)))
    (whole,) = client.follow(undisturbed, timeout_s=1200)
    calm.kill(signal.SIGTERM)
    calm.process.wait(60)

    cluster.start("w1", "w2", "w3", **PACED, TTS_PACED_SPANS=str(spans))
    name = secrets.token_hex(8)
    job = client.submit_job(SpeechRequest(text=words, stream=True, output_name=name))
    listener = Listener(job)
    for percent, fault in FAULTS.items():
        done = has_come_to(job, percent)
        victim = in_hand(cluster, job)
        processes = {"worker": [victim.process.pid], "child": [victim.child_pid]}
        for pid in processes.get(fault, [victim.process.pid, victim.child_pid]):
            os.kill(pid, signal.SIGSTOP if fault == "pause" else signal.SIGKILL)
        if fault == "pause":  # past the lease; it comes back as a stranger, in its segment
            goes_on_from(job, done + 1)
            for pid in (victim.process.pid, victim.child_pid):
                os.kill(pid, signal.SIGCONT)
    (result,) = client.follow(job, timeout_s=1200)
    listener.join(60)

    assert result.sha256 == whole.sha256
    assert b"".join(one.pcm for one in listener.heard) == samples(
        client.read_artifact(str(result.uri))
    )
    assert [one.number for one in listener.heard] == [*range(1, listener.heard[-1].segments + 1)]
    again = spoken_segments(spans) - len(listener.heard)
    assert again <= len(FAULTS)
    refused = [e for e in events() if e["event"] == "job.stale_refused" and e["job"] == job]
    assert len(refused) <= 1


def test_nothing_is_left_in_staging(cluster: Cluster) -> None:
    """A line of a batch that was killed in the middle: its segments go when it is published."""
    cluster.start("w1", "w2", **PACED)
    client.submit_batch([{"id": "long", "text": text(400)}], id="b")
    job = "b:1"
    has_come_to(job, 20)
    in_hand(cluster, job).kill()
    (result,) = client.follow("b", timeout_s=300)
    assert result.state == "succeeded"
    storage = open_storage(get_settings().storage_url)
    eventually(
        lambda: not [name for name in storage.list_hidden(STAGING_FOLDER) if "b~1/" in name],
        what="staging is empty",
    )


def test_a_batch_makes_way_for_online_work_between_two_segments(cluster: Cluster) -> None:
    """One worker: the caller does not wait for the end of the long text, which goes on there."""
    cluster.start("w1", **PACED | {"TTS_PACED_COST": "0.1"})
    client.submit_batch([{"id": "long", "text": text(600)}], id="b")
    job = "b:1"
    has_come_to(job, 10)
    online = client.submit_job(SpeechRequest(text="你好。"))
    (result,) = client.follow(online, timeout_s=60)
    done, segments = progress(job)
    assert result.state == "succeeded"
    assert 0 < done < segments
    (long,) = client.follow("b", timeout_s=300)
    assert long.state == "succeeded"
    assert [e["job"] for e in events() if e["event"] == "job.yielded"] == [job]
