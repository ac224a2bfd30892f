"""A line that costs its workers is tried elsewhere, then reported with the evidence."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from tests.waiting import eventually
from tts_tasks import client, synthesize
from tts_tasks.cluster import events
from tts_tasks.ledger import JobLedger
from tts_tasks.settings import get_settings
from ttsctl.__main__ import cli

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster, Worker

pytestmark = [pytest.mark.e2e, pytest.mark.drill]

PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.02", "TTS_FIRST_STEP_S": "3"}
BAD = 7


def lines() -> list[dict[str, Any]]:
    batch = [{"id": f"n{n}", "text": f"请{n}号到窗口。"} for n in range(1, 21)]
    batch[BAD - 1] = {"id": "bad", "text": "请注意听。\nPOISON, please."}
    return batch


def speak_them(cluster: Cluster, fault: str) -> tuple[dict[str, Any], list[Worker]]:
    """Speak a batch of 20 with one bad line on two workers; returns the bad line's error."""
    workers = cluster.start("w1", "w2", **PACED, TTS_PACED_FAULTS=f"{fault}@text:POISON")
    client.submit_batch(lines(), id="b")
    list(client.follow("b", timeout_s=150))
    report = list(client.report("b"))
    assert Counter(line["state"] for line in report) == {"succeeded": 19, "failed": 1}
    (bad,) = (line for line in report if line["state"] == "failed")
    assert (bad["line"], bad["id"]) == (BAD, "bad")
    return bad["error"], workers


def seen(event: str) -> list[dict[str, Any]]:
    return [e for e in events() if e["event"] == event]


def check_tried_on_both(error: dict[str, Any]) -> None:
    """On two workers, and not first twice on the same one, while the other was ready."""
    assert {worker.split("@")[0] for worker in error["workers"]} == {"w1", "w2"}
    lost = seen("job.recovered") + seen("job.attempt_failed")
    tries = {e["attempt"]: e["worker"] for e in lost}
    assert tries[1] != tries[2]


@pytest.mark.parametrize(
    ("fault", "field", "value"),
    [("crash", "signal", "SIGKILL"), ("abort", "signal", "SIGABRT"), ("exit", "exit_status", 70)],
)
def test_a_line_that_kills_its_workers_fails_with_how_they_died(
    cluster: Cluster, fault: str, field: str, value: object
) -> None:
    """Signal or exit status, segment, last log lines, both workers; the other 19 are there."""
    error, _ = speak_them(cluster, fault)
    assert error["code"] == "attempts_exhausted"
    evidence = error["evidence"]
    assert evidence[field] == value
    assert (evidence["segment"], evidence["segments"]) == (2, 2)
    assert any("injected by TTS_PACED_FAULTS" in line for line in evidence["log"])
    assert "3 attempts in a row" in error["reason"]
    assert str(value) in error["reason"]
    if fault == "abort":  # what native code and the interpreter say at their end
        assert "paced: terminate called, injected by TTS_PACED_FAULTS" in evidence["stderr"]
        assert "Fatal Python error: Aborted" in evidence["stderr"]
    check_tried_on_both(error)
    shown = CliRunner().invoke(cli, ["batch", "errors", "b", "-o", "table"])
    assert shown.exit_code == 0
    for worker in error["workers"]:
        assert worker in shown.stdout
    assert str(value) in shown.stdout


def test_a_line_that_hangs_its_workers_fails_with_how_long(cluster: Cluster) -> None:
    """The budget and the silence; the other 19 are there."""
    error, _ = speak_them(cluster, "hang")
    assert error["code"] == "attempts_exhausted"
    evidence = error["evidence"]
    assert evidence["silent_s"] >= evidence["budget_s"] >= 3.0
    assert (evidence["segment"], evidence["segments"]) == (2, 2)
    assert "made no progress" in error["reason"]
    assert any("in speak" in line for line in evidence["stderr"]), evidence["stderr"]
    check_tried_on_both(error)


def test_a_line_that_needs_too_much_memory_is_tried_elsewhere_before_it_counts(
    cluster: Cluster,
) -> None:
    """Two pardons, three strikes, each tried twice in place; the other 19 are there."""
    error, _ = speak_them(cluster, "oom")
    assert error["code"] == "out_of_memory"
    assert "out of memory" in error["evidence"]["reason"]
    check_tried_on_both(error)
    assert Counter(e["then"] for e in seen("job.out_of_memory")) == {
        "tried again": 5,
        "given back": 5,
    }


def test_memory_that_can_be_freed_costs_no_attempt(cluster: Cluster, tmp_path: Path) -> None:
    """The second try in the same place succeeds."""
    once = {"TTS_PACED_FAULTS": f"oom@text:POISON&once:{tmp_path / 'once'}"}
    cluster.start("w1", **PACED, **once)
    assert synthesize.delay("POISON, please.").get(timeout=60)["attempt"] == 1
    assert [e["then"] for e in seen("job.out_of_memory")] == ["tried again"]


def test_a_killed_worker_leaves_what_its_recoverer_knows(cluster: Cluster) -> None:
    """Kill -9 of the whole worker: nobody can ask it."""
    cluster.start("w1", "w2", **PACED | {"TTS_PACED_COST": "1", "TTS_FIRST_STEP_S": "60"})
    client.submit_batch(
        [{"id": "long", "text": "这是一段比较长的通知，请大家注意听。" * 3}], id="b"
    )
    ledger = JobLedger(get_settings().redis_url)
    holder = eventually(
        lambda: next((w for w in cluster.workers if (w.record or {}).get("job") == "b:1"), None),
        what="somebody works on it",
    )
    holder.kill()
    recovered = eventually(lambda: seen("job.recovered"))
    assert recovered[0]["reason"].startswith("worker lost, silent ")
    record = ledger.get("b:1")  # of a line that has ended only the report is kept
    (result,) = client.follow("b", timeout_s=60)
    assert (result.state, result.attempt) == ("succeeded", 2)
    assert record is not None
    assert record.evidence["reason"] == recovered[0]["reason"]
    assert record.struck_workers == (recovered[0]["worker"],)
