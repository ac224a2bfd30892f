"""A lane of a real worker says no in time: to what it has no room for, and what would be late."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import eventually
from tts_tasks import app, client, keys, synthesize
from tts_tasks.cluster import events
from tts_tasks.errors import DeadlineError, JobFailedError, QueueFullError
from tts_tasks.ledger import JobLedger, JobRecord
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    import redis
    from celery.result import AsyncResult

    from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.e2e

LANE = "default.0"
SHORT, LONG = "请站在黄线以内。", "请大家注意，列车即将进站，请站在黄线以内排队候车。"
PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.2"}


def job(task: AsyncResult[Any]) -> JobRecord | None:
    return JobLedger(get_settings().redis_url).get(str(task.id))


def at_most(monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    """Let so many jobs of this process wait."""
    bounded = get_settings().model_copy(update={"max_online_jobs": jobs})
    monkeypatch.setattr("tts_tasks.tasks.get_settings", lambda: bounded)


def busy_lane(cluster: Cluster, jobs: int) -> list[AsyncResult[Any]]:
    """Have a worker learn its pace; then one job runs, and the others wait."""
    cluster.start("w1", **PACED)
    for text in (SHORT, LONG, SHORT):
        synthesize.delay(text).get(timeout=60)
    tasks = [synthesize.delay((LONG, SHORT)[n % 2]) for n in range(jobs)]
    ledger = JobLedger(get_settings().redis_url)
    eventually(lambda: ledger.load(LANE).running_jobs, what="the first of them runs")
    return tasks


def test_a_full_lane_says_how_long_it_would_have_taken(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its estimate is within a factor of two of what the same job then takes, let in at once."""
    waiting = busy_lane(cluster, 6)
    at_most(monkeypatch, 3)
    with pytest.raises(QueueFullError) as refused:
        synthesize.delay(LONG)
    began_s = time.monotonic()
    at_most(monkeypatch, 0)
    synthesize.delay(LONG).get(timeout=60)
    took_s = time.monotonic() - began_s
    assert refused.value.estimate_s == pytest.approx(took_s, rel=0.5)
    assert 1 <= (refused.value.retry_after_s or 0) < took_s
    assert all(task.get(timeout=60)["attempt"] == 1 for task in waiting)


def test_what_would_be_late_is_refused_and_the_rest_is_in_time(
    cluster: Cluster, redis_client: redis.Redis
) -> None:
    """Whoever is let in is done within its deadline, whoever is not has left nothing behind."""
    busy_lane(cluster, 3)
    with pytest.raises(DeadlineError) as refused:
        synthesize.apply_async((LONG,), {"deadline_s": 0.5}, task_id="late")
    estimate_s = refused.value.estimate_s or 0.0
    assert estimate_s > 0.5
    assert redis_client.exists(keys.job(f"{LANE}:late")) == 0
    deadline_s = 2 * estimate_s
    task = synthesize.delay(LONG, deadline_s=deadline_s)
    task.get(timeout=60)
    record = job(task)
    assert record is not None
    assert ((record.finished_ms or 0) - record.accepted_ms) / 1000 < deadline_s
    load = JobLedger(get_settings().redis_url).load(LANE)
    assert (load.waiting_jobs, load.running_jobs, load.running_since_ms) == (0, 0, 0)


def test_a_job_that_nobody_has_begun_in_time_is_not_spoken(cluster: Cluster) -> None:
    """It waited behind a longer one, in a lane that did not know its pace yet."""
    cluster.start("w1", **PACED)
    first = synthesize.delay(LONG * 2)
    late = synthesize.delay(SHORT, deadline_s=0.2)
    with pytest.raises(JobFailedError, match="deadline_exceeded"):
        late.get(timeout=60)
    assert first.get(timeout=60)["attempt"] == 1
    record = job(late)
    assert record is not None
    assert (record.state, record.attempt) == ("failed", 0)
    told = eventually(lambda: [e for e in events() if e["event"] == "job.failed"])
    assert [(e["job"], e["code"]) for e in told] == [(late.id, "deadline_exceeded")]
    result = client.job_result(str(late.id))
    assert result is not None
    assert (result.error or {})["code"] == "deadline_exceeded"


def test_a_foreign_job_is_refused_by_the_worker_that_takes_it(cluster: Cluster) -> None:
    """`send_task` asks nobody: the worker finds another job waiting, and the caller is told."""
    cluster.start("w1", **PACED, TTS_MAX_ONLINE_JOBS="1")
    runs = synthesize.delay(LONG)
    foreign = app.send_task(
        "tts_tasks.synthesize", args=[SHORT], queue=f"tts.online.{LANE}", task_id="foreign"
    )
    waits = synthesize.delay(SHORT)
    with pytest.raises(JobFailedError, match="queue_full"):
        foreign.get(timeout=60)
    assert [task.get(timeout=60)["attempt"] for task in (runs, waits)] == [1, 1]


def test_ttsctl_say_is_refused_with_the_estimate(cluster: Cluster) -> None:
    """Exit code 8 and one line, for a full lane and for a deadline; nothing is spoken."""
    busy_lane(cluster, 16)  # more than is spoken while two processes come up
    for options, bound in (((), "1"), (("--deadline", "300ms"), "1000")):
        done = subprocess.run(
            [sys.executable, "-m", "ttsctl", "say", LONG, *options],
            env={**os.environ, "TTS_MAX_ONLINE_JOBS": bound},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (8, ""), done.stderr
        assert " in about " in done.stderr.splitlines()[-1]
