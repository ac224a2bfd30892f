"""Workers die in every way; nothing is lost, nothing is published twice."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import eventually
from tts_tasks import client, keys, synthesize
from tts_tasks.cluster import cluster_status, events
from tts_tasks.ledger import JobLedger, JobMeta
from tts_tasks.requests import SpeechRequest
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from tests.e2e.cluster import Cluster, Worker

pytestmark = pytest.mark.e2e

PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.1"}
LONG = "这是一段比较长的通知，请大家注意听。"


def lines(count: int) -> list[dict[str, Any]]:
    return [{"id": f"n{n}", "text": f"请{n}号到窗口。{LONG}"} for n in range(1, count + 1)]


def ended(batch: str) -> int:
    status = client.batch_status(batch)
    return status.succeeded + status.failed


def check_all_published_once(batch: str, count: int) -> list[dict[str, Any]]:
    results = list(client.follow(batch, timeout_s=120))
    assert len(results) == count
    report = list(client.report(batch))
    assert Counter(line["state"] for line in report) == {"succeeded": count}
    assert len({line["name"] for line in report}) == count
    return report


def seen(event: str) -> list[dict[str, Any]]:
    return [e for e in events() if e["event"] == event]


def primary(cluster: Cluster) -> Worker:
    return eventually(cluster.primary, what="there is a primary")


@pytest.mark.parametrize("victim", ["parent", "child", "both"])
def test_a_killed_primary_loses_no_job_and_the_standby_takes_over(
    cluster: Cluster, victim: str
) -> None:
    """Kill -9 of the parent, of the child, of both, in the middle of a batch."""
    cluster.start("w1", "w2", **PACED)
    old = primary(cluster)
    old_id, old_child = old.record["id"], old.child_pid  # type: ignore[index]
    client.submit_batch(lines(12), id="b")
    eventually(lambda: ended("b") >= 3, what="the batch is under way")
    if victim in ("child", "both"):
        os.kill(old_child, signal.SIGKILL)
    if victim in ("parent", "both"):
        old.kill()
    check_all_published_once("b", 12)
    eventually(
        lambda: [e for e in seen("lease.acquired") if e["holder"] != old_id],
        what="the standby took over",
    )
    epochs = [e["epoch"] for e in seen("lease.acquired")]
    assert epochs == sorted(set(epochs))


def test_online_work_survives_the_death_of_the_primary(cluster: Cluster) -> None:
    """A caller who waits gets the artifact from the standby."""
    cluster.start("w1", "w2", **PACED)
    old = primary(cluster)
    waiting = synthesize.delay(LONG * 6)
    job_id = waiting.id
    ledger = JobLedger(get_settings().redis_url)
    eventually(lambda: (ledger.get(job_id) or 0) and ledger.get(job_id).state == "running")  # type: ignore[union-attr]
    old.kill()
    record = waiting.get(timeout=60)
    assert record["attempt"] == 2
    assert not record["worker"].startswith(old.name)


def test_a_paused_primary_is_deposed_and_comes_back_as_standby(cluster: Cluster) -> None:
    """SIGSTOP of parent and child for longer than three heartbeats, then SIGCONT."""
    cluster.start("w1", "w2", **PACED)
    old = primary(cluster)
    old_id, child = old.record["id"], old.child_pid  # type: ignore[index]
    client.submit_batch(lines(12), id="b")
    eventually(lambda: ended("b") >= 2)
    old.kill(signal.SIGSTOP)
    os.kill(child, signal.SIGSTOP)
    eventually(lambda: [e for e in seen("worker.dead") if e["worker"] == old_id])
    eventually(lambda: cluster.primary() not in (None, old))
    os.kill(child, signal.SIGCONT)
    old.kill(signal.SIGCONT)
    check_all_published_once("b", 12)
    eventually(lambda: (old.record or {}).get("role") == "standby", what="it is a standby")


def test_an_engine_that_hangs_is_killed_and_its_job_goes_on_elsewhere(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The agent beats on; three heartbeats without progress are enough for so short a text."""
    faults = {"TTS_PACED_FAULTS": f"hang@text:HANG&once:{tmp_path / 'once'}"}
    cluster.start("w1", "w2", **PACED, **faults, TTS_FIRST_STEP_S="3")
    old = primary(cluster)
    old_id = old.record["id"]  # type: ignore[index]
    record = synthesize.delay("HANG, please.").get(timeout=60)
    assert (record["attempt"], record["worker"] != old_id) == (2, True)
    (stuck,) = seen("worker.stuck")
    assert stuck["worker"] == old_id
    assert stuck["silent_s"] < 2 * stuck["budget_s"]
    eventually(lambda: (old.record or {}).get("role") == "standby", what="it loaded anew")


def test_a_stopped_child_of_an_idle_worker_is_replaced(cluster: Cluster) -> None:
    """It would have taken the next job and never begun it."""
    cluster.start("w1", "w2", **PACED)
    old = primary(cluster)
    child = old.child_pid
    os.kill(child, signal.SIGSTOP)
    eventually(lambda: cluster.primary() not in (None, old))
    assert seen("worker.stuck")
    eventually(lambda: old.child_pid not in (0, child) and (old.record or {}).get("ready"))


def test_the_standalone_watchdog_recovers_for_workers_that_are_all_dead(
    cluster: Cluster,
) -> None:
    """It needs no worker: the dead ones' lease is removed and their jobs wait for the next."""
    (only,) = cluster.start("w1", **PACED)
    old_id = primary(cluster).record["id"]  # type: ignore[index]
    client.submit_batch(lines(4), id="b")
    eventually(lambda: ended("b") >= 1)
    watchdog = cluster.watchdog()
    # it must have come before the lease lapses by itself
    log = cluster.directory / "watchdog.log"
    eventually(lambda: "watches" in log.read_text(), what="the watchdog watches")
    only.kill()
    eventually(lambda: [e for e in seen("worker.dead") if e["worker"] == old_id])
    (deposed,) = seen("lease.deposed")
    assert deposed["by"].startswith("watchdog")
    assert cluster_status()["workers"] == []
    cluster.start("w2", **PACED)
    check_all_published_once("b", 4)
    watchdog.send_signal(signal.SIGTERM)
    assert watchdog.wait(30) == 0


def test_a_clean_stop_hands_over_without_waiting_for_heartbeats(
    cluster: Cluster, tmp_path: Path
) -> None:
    """SIGTERM: the lane is released at once; what is begun is finished, and nothing redone."""
    spans = tmp_path / "spans"
    cluster.start("w1", "w2", **PACED, TTS_PACED_SPANS=str(spans))
    old = primary(cluster)
    client.submit_batch(lines(8), id="b")
    eventually(lambda: ended("b") >= 2)
    old.kill(signal.SIGTERM)
    old.process.wait(90)
    check_all_published_once("b", 8)
    spoken = [json.loads(line) for line in spans.read_text().splitlines()]
    # two segments a line; the first job of each engine is the probe
    assert len([span for span in spoken if span["job"] > 1]) == 2 * 8
    assert not seen("lease.deposed")
    assert not seen("worker.dead")
    assert eventually(lambda: len(cluster_status()["workers"]) == 1)


def test_a_job_whose_message_was_lost_is_rung_again(cluster: Cluster) -> None:
    """The ledger is the truth: an accepted job without any message in the broker is done."""
    cluster.start("w1", TTS_LOST_MESSAGE_GRACE_S="1")
    ledger = JobLedger(get_settings().redis_url)
    job_id = keys.new_job_id("default.0")
    meta = JobMeta(queue="tts.online.default.0", name="lost.wav", lane_key="default.0")
    ledger.accept([(job_id, SpeechRequest(text="没有人按铃"), meta)])
    (result,) = client.follow(job_id, timeout_s=60)
    assert result.state == "succeeded"
    assert seen("job.rung_again")


def test_a_message_taken_by_a_dead_worker_comes_back(cluster: Cluster) -> None:
    """An idle worker is stopped, a message is sent, the worker is killed: the job is done."""
    (first,) = cluster.start("w1", TTS_LOST_MESSAGE_GRACE_S="1")
    first.kill(signal.SIGSTOP)
    waiting = synthesize.delay("谁来接手")
    first.kill()
    first.process.wait(90)
    started_s = time.monotonic()
    cluster.start("w2", TTS_LOST_MESSAGE_GRACE_S="1")
    assert waiting.get(timeout=60)["worker"].startswith("w2")
    assert time.monotonic() - started_s < 60


def test_a_job_that_kills_every_worker_fails_and_the_others_go_on(cluster: Cluster) -> None:
    """Poison is reported after max_attempts; the rest of the batch is served."""
    cluster.start("w1", **PACED, TTS_PACED_FAULTS="crash@text:POISON", TTS_MAX_ATTEMPTS="2")
    batch = [{"id": "bad", "text": "POISON pill."}, *lines(3)]
    client.submit_batch(batch, id="b")
    states = {r.id: r.state for r in client.follow("b", timeout_s=120)}
    assert states == {"bad": "failed", "n1": "succeeded", "n2": "succeeded", "n3": "succeeded"}


def test_a_report_that_cannot_be_written_keeps_nobody_from_recovering(cluster: Cluster) -> None:
    """A refused write of a report is tried again and ends no thread; the next kill is survived."""
    cluster.start("w1", "w2", **PACED)
    root = Path(get_settings().storage_url.removeprefix("file://"))
    (root / "blocked").mkdir(parents=True)
    (root / "blocked" / "b.report.jsonl").mkdir()
    client.submit_batch(lines(2), id="b", output="blocked")
    list(client.follow("b", timeout_s=60))
    old = primary(cluster)
    waiting = synthesize.delay(LONG * 6)
    old.kill()
    assert waiting.get(timeout=60)["worker"].split("@")[0] != old.name
    assert client.batch_status("b").report is None
    (root / "blocked" / "b.report.jsonl").rmdir()
    eventually(lambda: client.batch_status("b").report, what="the report is written after all")


def test_callbacks_survive_an_attempt_that_failed(cluster: Cluster, tmp_path: Path) -> None:
    """A redo after an engine error is the same message: chains and links go on."""
    marker = tmp_path / "once"
    cluster.start("w1", **PACED, TTS_PACED_FAULTS=f"error@text:第一&once:{marker}")
    linked = synthesize.signature(("第二位",), immutable=True)
    first = synthesize.apply_async(("第一位",), link=linked)
    assert first.get(timeout=60)["attempt"] == 2
    (second,) = eventually(lambda: synthesize.AsyncResult(first.id).children or None)
    assert second.get(timeout=60)["attempt"] == 1


def test_a_delayed_job_is_not_taken_for_lost(cluster: Cluster) -> None:
    """`countdown` holds although the job is in the ledger from the start."""
    cluster.start("w1", TTS_LOST_MESSAGE_GRACE_S="0.5")
    sent_s = time.time()
    synthesize.apply_async(("请稍候",), countdown=4).get(timeout=60)
    assert time.time() - sent_s >= 4
    assert not seen("job.rung_again")
