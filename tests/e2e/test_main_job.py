"""The main job with real workers: jobs and batches become artifacts, as the documentation says."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import soundfile
from celery import group

from tests.waiting import eventually
from tts_tasks import app, client, synthesize
from tts_tasks.errors import ConflictError, JobFailedError, NoPoolError, RequestError
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.e2e

ANNOUNCEMENTS = Path(__file__).parents[2] / "examples" / "announcements.jsonl"


def lines(count: int, prefix: str = "n") -> list[dict[str, Any]]:
    return [
        {"id": f"{prefix}{n}", "text": f"请{n}号到3号窗口。", "output_name": f"{prefix}{n}"}
        for n in range(1, count + 1)
    ]


def wait_for(batch: str) -> list[client.JobResult]:
    return list(client.follow(batch, timeout_s=120))


def test_delay_returns_the_artifacts_record(cluster: Cluster) -> None:
    """`synthesize.delay("你好").get()` gives a record of a real, audible file."""
    cluster.start("w1")
    record = synthesize.delay("你好，欢迎光临。").get(timeout=60)
    samples, rate_hz = soundfile.read(io.BytesIO(client.read_artifact(record["uri"])))
    assert rate_hz == record["sample_rate_hz"]
    assert len(samples) / rate_hz == pytest.approx(record["duration_s"], abs=0.001)
    assert 0.05 < abs(samples).max() < 1.0
    assert record["attempt"] == 1


def test_plain_celery_ways_of_calling_work(cluster: Cluster) -> None:
    """`send_task` from a client without our classes, `group`, and a failing call."""
    cluster.start("w1")
    foreign = app.send_task("tts_tasks.synthesize", args=["今天星期五"], kwargs={"format": "flac"})
    assert foreign.get(timeout=60)["format"] == "flac"
    three = group(synthesize.s(f"第{n}位") for n in (1, 2, 3)).apply_async()
    assert [r.get("state", "ok") for r in three.get(timeout=60)] == ["ok"] * 3
    with pytest.raises(JobFailedError, match="exists with other content"):
        [synthesize.delay(text, output_name="one").get(timeout=60) for text in ("一", "二")]
    with pytest.raises(NoPoolError, match="voice nobody"):
        synthesize.delay("你好", voice="nobody")
    with pytest.raises(RequestError, match="text"):
        synthesize.delay("……")


def test_a_client_needs_no_engine_to_follow_the_cluster(cluster: Cluster) -> None:
    """A bare Python process submits and gets its record, by environment alone."""
    cluster.start("w1")
    code = (
        "from tts_tasks import synthesize; print(synthesize.delay('你好').get(timeout=60)['uri'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("file://")


def test_the_example_batch_becomes_speech_with_three_reported_lines(cluster: Cluster) -> None:
    """Good lines go on, bad lines are reported, the report is in input order."""
    cluster.start("w1", "w2")
    status = client.submit_batch(ANNOUNCEMENTS, id="ann")
    results = wait_for("ann")
    status = eventually(
        lambda: (s := client.batch_status("ann")).report and s, what="the report is written"
    )
    assert (status.state, status.failed, status.rejected) == ("done", 0, 3)
    eventually(
        lambda: (
            [e["event"] for e in client.events() if e.get("batch") == "ann"]
            == ["batch.accepted", "batch.done"]
        ),
        what="the stream tells of the batch",
    )
    assert status.succeeded == len(results) >= 60
    report = [json.loads(line) for line in client.read_artifact(status.report).splitlines()]
    assert [line["line"] for line in report] == sorted(line["line"] for line in report)
    assert len(report) == status.total
    bad = [line for line in report if line["state"] == "rejected"]
    assert all(line["error"]["reason"] for line in bad)
    names = Counter(line["name"] for line in report if line["state"] == "succeeded")
    assert set(names.values()) == {1}
    for line in report:
        if line["state"] == "succeeded":
            samples, rate_hz = soundfile.read(io.BytesIO(client.read_artifact(line["uri"])))
            assert len(samples) / rate_hz > 0.5
            assert 0.05 < abs(samples).max() <= 1.0


def test_the_same_batch_reattaches_and_another_id_sounds_the_same(cluster: Cluster) -> None:
    """One id: nothing is spoken again. Another id and output: byte-identical, on any worker."""
    cluster.start("w1", "w2")
    batch = lines(30)
    client.submit_batch(batch, id="one")
    first = {r.id: r.sha256 for r in wait_for("one")}
    again = client.submit_batch(batch, id="one")
    assert (again.state, again.succeeded) == ("done", 30)
    assert {r.attempt for r in wait_for("one")} == {1}
    client.submit_batch(batch, id="two", output="elsewhere/two")
    second = wait_for("two")
    assert {r.id: r.sha256 for r in second} == first
    assert all(str(r.name).startswith("elsewhere/two/") for r in second)
    with pytest.raises(ConflictError, match="one"):
        client.submit_batch(lines(31), id="one")


def test_a_resubmission_after_redis_was_emptied_redoes_nothing(
    cluster: Cluster, redis_client: Any
) -> None:
    """What is in the report that storage has is not even looked at again."""
    (worker,) = cluster.start("w1")
    client.submit_batch(lines(5), id="lost")
    wait_for("lost")
    before = list(client.report("lost"))
    redis_client.flushall()
    eventually(lambda: worker.record, what="the worker registered again")
    client.submit_batch([*lines(5)], id="lost")
    again = wait_for("lost")
    report = list(client.report("lost"))
    assert len(again) == 5
    assert report == before


def test_an_artifact_of_somebody_else_is_never_overwritten(cluster: Cluster) -> None:
    """A name that exists with other content fails that job and no other."""
    cluster.start("w1")
    path = Path(get_settings().storage_url.removeprefix("file://")) / "mine" / "n1.wav"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not yours")
    client.submit_batch(lines(2), id="mine")
    states = {r.id: (r.state, (r.error or {}).get("code")) for r in wait_for("mine")}
    assert states == {"n1": ("failed", "conflict"), "n2": ("succeeded", None)}
    assert path.read_bytes() == b"not yours"


def test_fetch_copies_artifacts_and_overwrites_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """Fetching twice is fetching once; a different local file is a conflict."""
    cluster.start("w1")
    client.submit_batch(lines(3), id="f")
    wait_for("f")
    assert len(list(client.fetch("f", tmp_path / "here"))) == 3
    assert len(list(client.fetch("f", tmp_path / "here"))) == 3
    (tmp_path / "here" / "n2.wav").write_bytes(b"other")
    with pytest.raises(ConflictError, match="n2"):
        list(client.fetch("f", tmp_path / "here"))


def test_a_starting_worker_removes_what_a_dead_writer_left(cluster: Cluster) -> None:
    """A half-written file of the day before yesterday goes; one of a moment ago may be in use."""
    temporary = Path(get_settings().storage_url.removeprefix("file://")) / ".tts-tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    old, fresh = temporary / "old.part", temporary / "fresh.part"
    for path in (old, fresh):
        path.write_bytes(b"half")
    two_days_ago_s = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago_s, two_days_ago_s))
    cluster.start("w1")
    assert not old.exists()
    assert fresh.exists()
