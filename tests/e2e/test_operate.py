"""Work on a running cluster: switchover, drain, rolling restart. No job notices."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.waiting import eventually
from tts_tasks import client, synthesize
from tts_tasks.cluster import cluster_status, events
from tts_tasks.ledger import JobLedger
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.cluster import Cluster, Worker

pytestmark = [pytest.mark.e2e, pytest.mark.drill]

PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.02"}


class OnlineStream:
    """Callers that come in one by one, whatever happens to the workers."""

    def __init__(self, pause_s: float = 0.05) -> None:
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call, daemon=True)
        self.calls: list[Any] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _call(self) -> None:
        while not self._stop.is_set():
            self.calls.append(synthesize.delay(f"请{len(self.calls) + 1}号到窗口。"))
            self._stop.wait(self._pause_s)

    def grows_by(self, count: int) -> None:
        """Wait until so many more calls were answered."""
        first = len(self.calls)
        eventually(
            lambda: len(self.calls) >= first + count and self.calls[first + count - 1].ready(),
            what=f"{count} more online jobs are done",
        )

    def check_all_succeeded_at_once(self) -> list[dict[str, Any]]:
        """Each caller has a record, none of a second attempt."""
        records = [call.get(timeout=60) for call in self.calls]
        assert {record["attempt"] for record in records} == {1}
        assert len({record["uri"] for record in records}) == len(self.calls)
        return records

    def handovers_s(self) -> Iterator[tuple[str, str, float]]:
        """Yield old worker, new worker, and the time between their jobs, for each change."""
        ledger = JobLedger(get_settings().redis_url)
        found = (ledger.get(call.id) for call in self.calls)
        jobs = sorted((job for job in found if job), key=lambda job: job.claimed_ms)
        for before, after in itertools.pairwise(jobs):
            if before.worker != after.worker:
                assert before.finished_ms is not None
                gap_s = (after.claimed_ms - before.finished_ms) / 1000
                yield before.worker, after.worker, gap_s


def ttsctl(*words: str, code: int = 0) -> Any:
    """Run a command as operators do; returns its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "ttsctl", *words, "-o", "json"],
        env=os.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def id_of(worker: Worker) -> str:
    return str(eventually(lambda: (worker.record or {}).get("id")))


def roles() -> dict[str, str]:
    return {w["id"].partition("@")[0]: w["role"] for w in cluster_status()["workers"]}


def primary(cluster: Cluster) -> Worker:
    return eventually(cluster.primary, what="there is a primary")


def troubles() -> list[dict[str, Any]]:
    bad = {"worker.dead", "lease.deposed", "job.recovered", "job.attempt_failed", "job.failed"}
    return [event for event in events() if event["event"] in bad]


def lines(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"n{n}", "text": f"请{n}号到3号窗口，谢谢您的配合。"} for n in range(1, count + 1)
    ]


def test_a_switchover_under_online_load_fails_no_job(cluster: Cluster) -> None:
    """There and back, by name and without one: each job once, the lane never long without work."""
    w1, w2 = cluster.start("w1", "w2", **PACED)
    old = primary(cluster)
    other = w2 if old is w1 else w1
    with OnlineStream() as stream:
        stream.grows_by(5)
        there = ttsctl("switchover", "--to", other.name, "--reason", "new driver")
        assert (there["lane"], there["from"], there["to"]) == (
            "default.0", id_of(old), id_of(other),
        )  # fmt: skip
        stream.grows_by(5)
        back = ttsctl("switchover", "default.0", "--reason", "and back")
        assert (back["from"], back["to"]) == (there["to"], there["from"])
        assert back["epoch"] == there["epoch"] + 1
        stream.grows_by(5)
    stream.check_all_succeeded_at_once()
    changes = list(stream.handovers_s())
    assert [(a, b) for a, b, _ in changes] == [
        (there["from"], there["to"]), (back["from"], back["to"]),
    ]  # fmt: skip
    assert max(gap_s for _, _, gap_s in changes) < 2  # far below three heartbeats
    assert max(there["took_s"], back["took_s"]) < 2
    assert troubles() == []
    told = [e for e in events() if e["event"] == "lane.switchover"]
    assert [e["reason"] for e in told] == ["new driver", "and back"]


def test_a_switchover_to_who_cannot_lead_is_refused(cluster: Cluster) -> None:
    """An unknown worker, the primary itself, no standby: said by the exit code, nothing moves."""
    cluster.start("w1", **PACED)
    old = primary(cluster)
    ttsctl("switchover", "--to", "w9", "--reason", "r", code=6)
    ttsctl("switchover", "nowhere.0", "--reason", "r", code=6)
    ttsctl("switchover", "--to", old.name, "--reason", "r", code=5)
    ttsctl("switchover", "--reason", "r", code=8)
    (second,) = cluster.start("w2", **PACED)
    ttsctl("drain", second.name, "--reason", "r")
    eventually(lambda: (second.record or {}).get("draining"))
    ttsctl("switchover", "--to", second.name, "--reason", "r", code=5)
    assert len([e for e in events() if e["event"] == "lease.acquired"]) == 1


def test_a_drained_worker_finishes_and_takes_nothing_until_it_is_undrained(
    cluster: Cluster,
) -> None:
    """The primary is drained under load: the other one leads, and does the rest of the batch."""
    cluster.start("w1", "w2", **{**PACED, "TTS_PACED_COST": "0.1"})
    old = primary(cluster)
    old_id = id_of(old)
    client.submit_batch(lines(30), id="b")
    eventually(lambda: client.batch_status("b").succeeded >= 4, what="the batch is under way")
    answer = ttsctl("drain", old.name, "--reason", "dust", "--wait", "--timeout-s", "60")
    assert answer == {"worker": old_id, "draining": True, "reason": "dust"}
    assert old.record is not None
    assert (old.record["job"], old.record["role"]) == ("", "draining")
    assert sorted(roles().values()) == ["draining", "primary"]
    by_old = [r for r in client.report("b") if r.get("worker") == old_id]
    report = list(client.follow("b", timeout_s=120))
    assert len(report) == 30
    assert {r.attempt for r in report} == {1}
    assert len([r for r in report if r.worker == old_id]) == len(by_old) < 30
    ttsctl("undrain", old.name)
    eventually(lambda: (old.record or {}).get("role") == "standby", what="it is back")
    client.submit_batch(lines(20), id="c")
    workers = {r.worker for r in client.follow("c", timeout_s=120)}
    assert old_id in workers
    assert troubles() == []


def test_a_rolling_restart_of_all_workers_under_load_loses_nothing(cluster: Cluster) -> None:
    """As docs/how-to/operate.md says: drain and wait, stop, start, wait; one after the other."""
    environment = {**PACED, "TTS_PACED_COST": "0.05"}
    first = cluster.start("w1", "w2", **environment)
    client.submit_batch(lines(60), id="b")
    with OnlineStream(pause_s=0.2) as stream:
        stream.grows_by(3)
        for worker in first:
            ttsctl("drain", worker.name, "--reason", "new version", "--wait", "--timeout-s", "60")
            worker.kill(signal.SIGTERM)
            worker.process.wait(60)
            cluster.start(worker.name, **environment)
            stream.grows_by(3)
    stream.check_all_succeeded_at_once()
    results = list(client.follow("b", timeout_s=120))
    assert [r.state for r in results] == ["succeeded"] * 60
    assert {r.attempt for r in results} == {1}
    assert len({r.uri for r in results}) == 60
    assert troubles() == []
    left = {e["worker"] for e in events() if e["event"] == "worker.left"}
    assert len(left) == 2
    assert not left & {w["id"] for w in cluster_status()["workers"]}


def test_stopping_workers_one_by_one_loses_nothing_either(cluster: Cluster) -> None:
    """SIGTERM alone, without a drain before it: the job in hand is finished, not redone."""
    first = cluster.start("w1", "w2", **PACED)
    with OnlineStream(pause_s=0.1) as stream:
        stream.grows_by(3)
        for worker in first:
            worker.kill(signal.SIGTERM)
            worker.process.wait(60)
            cluster.start(worker.name, **PACED)
            stream.grows_by(3)
    stream.check_all_succeeded_at_once()
    assert troubles() == []
