"""Lexicons, loudness and subtitles on real workers; a job that is killed gives the same files."""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import wave
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.waiting import eventually
from tts_tasks import client
from tts_tasks.ledger import JobLedger
from tts_tasks.requests import SpeechRequest
from tts_tasks.settings import get_settings
from tts_workers.audio_out.loudness import integrated_lufs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.e2e

TEXT = "".join(
    f"第{number}段，开往重庆的列车晚点{number}分钟，票价¥{number}0。" for number in range(1, 9)
)
FIELDS = {
    "loudness_lufs": -20.0,
    "trim_silence": True,
    "fade_ms": 3.0,
    "sentence_pause_ms": 500.0,
    "subtitles": ("json", "srt", "vtt"),
}


def sound(data: bytes) -> tuple[np.ndarray, int]:
    with wave.open(io.BytesIO(data)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.astype(np.float32) / np.float32(32768), file.getframerate()


def test_a_batch_is_as_loud_as_asked_with_subtitles_and_a_lexicon(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Loudness, peaks, cue times and pronunciation of what is published; fetched with it."""
    cluster.start("w1", "w2")
    client.lexicon_add("stops", '{"phrase": "重庆", "text": "山城"}'.encode())
    lines = [
        {"id": f"l{n}", "text": TEXT, "output_name": f"x/{n}", "lexicon": "stops", **FIELDS}
        for n in range(4)
    ]
    lines.append({"id": "same", "text": "你好。", "output_name": "x/0", "format": "mp3", **FIELDS})
    client.submit_batch(lines, id="b")
    client.lexicon_add("stops", '{"phrase": "重庆", "text": "另外一个很远的城市"}'.encode())
    results = list(client.follow("b", timeout_s=120))
    assert [one.state for one in results] == ["succeeded"] * 4
    assert len({one.sha256 for one in results}) == 1  # whichever worker spoke it
    report = list(client.report("b"))
    assert report[4]["state"] == "rejected"
    assert "already made by line 1" in report[4]["error"]["reason"]
    assert report[0]["subtitles"] == {kind: f"b/x/0.{kind}" for kind in ("json", "srt", "vtt")}

    samples, rate_hz = sound(client.read_artifact(report[0]["name"]))
    assert integrated_lufs([samples], rate_hz) == pytest.approx(-20, abs=0.5)
    assert np.abs(samples).max() <= 10 ** (-1 / 20)
    told = json.loads(client.read_artifact(report[0]["subtitles"]["json"]))["segments"]
    assert "".join(cue["text"] for cue in told) == TEXT
    assert all("山城" in cue["spoken"] for cue in told if "重庆" in cue["text"])
    for cue, following in pairwise(told):
        assert following["start_sample"] - cue["end_sample"] in (round(0.5 * rate_hz), 0)
        assert not samples[cue["end_sample"] : following["start_sample"]].any()
        assert np.abs(samples[cue["start_sample"] : cue["end_sample"]]).max() > 0.01
    assert told[-1]["end_sample"] == samples.size
    srt = client.read_artifact(report[0]["subtitles"]["srt"]).decode()
    assert srt.count(" --> ") == len(told)

    files = {path.relative_to(tmp_path).as_posix() for path in client.fetch("b", tmp_path)}
    assert {"x/0.wav", "x/0.srt", "x/0.vtt", "x/0.json", "x/3.wav"} <= files
    assert len(files) == 16


def test_a_job_that_is_killed_gives_the_same_audio_and_subtitles(cluster: Cluster) -> None:
    """Byte for byte, though two workers were killed in the middle."""
    paced = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.1"}
    cluster.start("w1", "w2", "w3", **paced)

    def submitted() -> str:
        name = secrets.token_hex(8)
        return client.submit_job(SpeechRequest(text=TEXT, output_name=name, **FIELDS))

    (whole,) = client.follow(submitted(), timeout_s=120)
    job = submitted()
    ledger = JobLedger(get_settings().redis_url)
    for done in (2, 5):

        def who(done: int = done) -> int | None:
            record = ledger.get(job)
            if record is None or record.segments_done < done:
                return None
            return next(
                (
                    worker.process.pid
                    for worker in cluster.workers
                    if (worker.record or {}).get("id") == record.worker
                ),
                None,
            )

        os.kill(eventually(who, what=f"{done} segments are spoken"), signal.SIGKILL)
    (result,) = client.follow(job, timeout_s=120)
    assert result.sha256 == whole.sha256
    assert result.attempt > 1
    for kind in FIELDS["subtitles"]:
        names = [str(one.name).replace(".wav", f".{kind}") for one in (whole, result)]
        assert client.read_artifact(names[0]) == client.read_artifact(names[1])
