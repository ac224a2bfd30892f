"""The engine glmtts in real workers, on the double of its checkout: it is killed, and it fails."""

from __future__ import annotations

import os
import secrets
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.test_long_text import goes_on_from, has_come_to, in_hand, text
from tests.glmtts_double import environment
from tests.waiting import eventually
from tts_tasks import client
from tts_tasks.cluster import events
from tts_tasks.requests import SpeechRequest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.e2e

#: Slow enough to be met in the middle of a text.
COST = {"GLMTTS_DOUBLE_COST": "0.02"}


def speak(words: str, **options: Any) -> str:
    request = SpeechRequest(text=words, output_name=secrets.token_hex(8), **options)
    return str(client.submit_job(request))


def test_a_text_survives_the_death_of_its_engine_and_of_its_worker(cluster: Cluster) -> None:
    """Kill -9 in the middle, twice: the artifact is that of an undisturbed run, to the byte."""
    words = text(900)
    (calm,) = cluster.start("calm", **environment())
    (whole,) = client.follow(speak(words), timeout_s=300)
    calm.kill(signal.SIGTERM)
    calm.process.wait(60)

    cluster.start("w1", "w2", **environment(**COST))
    job = speak(words)
    for percent in (30, 60):
        done = has_come_to(job, percent)
        victim = in_hand(cluster, job)
        os.kill(victim.child_pid if percent == 30 else victim.process.pid, signal.SIGKILL)
        goes_on_from(job, done)
    (result,) = client.follow(job, timeout_s=300)

    assert result.state == "succeeded"
    assert result.sha256 == whole.sha256
    assert result.attempt >= 3


def test_a_lost_cuda_context_costs_one_attempt_and_no_other_job(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The child is ended, and says why; the next one does the job, and says all as it was."""
    fault = {"GLMTTS_DOUBLE_FAULT": f"assert:坏了:{tmp_path / 'once'}"}
    (worker,) = cluster.start("w1", **environment(**fault))
    first = worker.child_pid
    (before,) = client.follow(speak("一切都好。"), timeout_s=120)
    job = speak("显卡坏了。")
    (result,) = client.follow(job, timeout_s=120)
    (after,) = client.follow(speak("一切都好。"), timeout_s=120)

    assert (result.state, result.attempt) == ("succeeded", 2)
    assert (after.state, after.attempt, after.sha256) == ("succeeded", 1, before.sha256)
    assert worker.child_pid not in {0, first}
    assert "is lost: the CUDA context is lost: CUDA error: device-side" in worker.log.read_text()


def test_a_context_that_is_lost_over_the_probe_is_left_too(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Before a worker is ready there is no job to give back: it loads in another process."""
    fault = {"GLMTTS_DOUBLE_FAULT": f"assert:hello:{tmp_path / 'once'}"}
    (worker,) = cluster.start("w1", **environment(**fault))

    (failed,) = [event for event in events() if event["event"] == "engine.load_failed"]
    assert "the CUDA context is lost" in failed["reason"]
    assert worker.log.read_text().count("is lost: the CUDA context is lost") == 1
    (result,) = client.follow(speak("一切都好。"), timeout_s=120)
    assert (result.state, result.attempt) == ("succeeded", 1)


def test_out_of_memory_is_met_in_the_same_place(cluster: Cluster, tmp_path: Path) -> None:
    """Memory is given back, and the job is done by the same attempt."""
    fault = {"GLMTTS_DOUBLE_FAULT": f"oom:显存:{tmp_path / 'once'}"}
    (worker,) = cluster.start("w1", **environment(**fault))
    first = worker.child_pid
    job = speak("显存不够了。")
    (result,) = client.follow(job, timeout_s=120)

    assert (result.state, result.attempt) == ("succeeded", 1)
    assert worker.child_pid == first
    assert [e["then"] for e in events() if e["event"] == "job.out_of_memory"] == ["tried again"]


def test_a_worker_that_lacks_weights_says_which(cluster: Cluster, tmp_path: Path) -> None:
    """It never becomes ready, tells its reason, and takes no job."""
    worker = cluster._spawn("w1", environment(TTS_GLMTTS_CKPT=str(tmp_path)))
    eventually(
        lambda: "flow.pt" in worker.log.read_text() and "Nothing is fetched" in worker.tail(),
        what="the missing files are named",
    )

    assert not (worker.record or {}).get("ready")
