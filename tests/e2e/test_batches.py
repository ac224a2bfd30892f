"""Batches on real workers: shared among them, in fair shares, cancelled, and taken up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import eventually
from tts_tasks import client
from tts_tasks.cluster import cluster_status
from tts_tasks.ledger import JobLedger
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.e2e

#: A line of `lines` is about a quarter of a second of work.
PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.15"}
LONG = "这是一段比较长的通知，请大家注意听。" * 8


def lines(count: int) -> list[dict[str, Any]]:
    return [{"id": f"n{n}", "text": f"请{n}号到窗口。"} for n in range(1, count + 1)]


def test_a_small_batch_is_shared_among_idle_workers(cluster: Cluster) -> None:
    """Nobody takes ahead what somebody else could speak now."""
    cluster.start("w1", "w2", **PACED)
    client.submit_batch(lines(8), id="b")
    report = list(client.follow("b", timeout_s=120))
    assert [result.state for result in report] == ["succeeded"] * 8
    by_worker = Counter(result.worker for result in report)
    assert len(by_worker) == 2
    assert min(by_worker.values()) >= 2


def test_a_small_batch_is_not_stuck_behind_a_large_one(cluster: Cluster) -> None:
    """It gets every other line, and a weighty one more than that."""
    cluster.start("w1", **PACED)
    client.submit_batch(lines(60), id="large")
    eventually(lambda: client.batch_status("large").succeeded >= 2, what="it is under way")
    client.submit_batch(lines(4), id="small", priority=4)
    before = client.batch_status("large").succeeded
    assert [result.state for result in client.follow("small", timeout_s=120)] == ["succeeded"] * 4
    # of what was spoken since a fifth, give or take what was in hand
    assert client.batch_status("large").succeeded - before <= 8


def test_a_cancelled_batch_stops_within_a_segment_and_is_resumed(cluster: Cluster) -> None:
    """What is being spoken is not published; resumed, it is."""
    cluster.start("w1", **PACED)
    client.submit_batch([{"id": "long", "text": LONG}, *lines(3)], id="b")
    ledger = JobLedger(get_settings().redis_url)
    eventually(lambda: (record := ledger.get("b:1")) and record.segments_done >= 2)
    assert client.batch_cancel("b").state == "cancelled"
    done = ledger.get("b:1")
    assert done is not None
    eventually(lambda: not cluster_status()["workers"][0]["job"], what="its worker is idle")
    eventually(lambda: client.batch_status("b").report, what="the report is written")
    assert {line["state"] for line in client.report("b")} == {"cancelled"}
    assert client.batch_resume("b") == 4
    assert [r.state for r in client.follow("b", after=4, timeout_s=120)] == ["succeeded"] * 4


def test_failed_lines_are_retried_alone(cluster: Cluster, tmp_path: Path) -> None:
    """What had succeeded is not spoken again."""
    spans = tmp_path / "spans"
    environment = PACED | {"TTS_PACED_SPANS": str(spans), "TTS_PACED_COST": "0.02"}
    (bad,) = cluster.start("w1", **environment, TTS_PACED_FAULTS="error@text:POISON")
    batch = [*lines(5), {"id": "bad", "text": "POISON, please."}]
    client.submit_batch(batch, id="b")
    states = [result.state for result in client.follow("b", timeout_s=120)]
    assert Counter(states) == {"succeeded": 5, "failed": 1}
    bad.kill(signal.SIGTERM)
    bad.process.wait(60)
    spans.unlink()
    cluster.start("w2", **environment)
    assert client.batch_retry("b") == 1
    eventually(lambda: client.batch_status("b").report, what="the report is written anew")
    assert [line["state"] for line in client.report("b")] == ["succeeded"] * 6
    spoken = [json.loads(line) for line in spans.read_text().splitlines()]
    assert len([span for span in spoken if span["job"] > 1]) == 1  # the first is the probe


def test_a_client_that_was_killed_is_completed_by_the_same_command(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Workers go on with what is in; nothing is done twice."""
    cluster.start("w1", **PACED | {"TTS_PACED_COST": "0.001"})
    count = 600
    path = tmp_path / "big.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines(count)))
    command = [sys.executable, "-m", "ttsctl", "submit", str(path), "--id", "b", "--no-wait"]
    submitting = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(
        lambda: any(status.batch == "b" for status in client.batch_list()),
        every_s=0.005,
        what="it has begun",
    )
    os.kill(submitting.pid, signal.SIGKILL)
    submitting.wait(15)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: client.batch_status("b").report, within_s=120, what="the report is written")
    report = list(client.report("b"))
    assert len(report) == count
    assert {(line["state"], line["attempt"]) for line in report} == {("succeeded", 1)}
    assert len({line["name"] for line in report}) == count
