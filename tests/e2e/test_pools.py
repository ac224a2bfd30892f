"""Two pools: each request lands where it can be served, through deaths and late arrivals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.recordings import recording
from tests.waiting import eventually
from tts_tasks import client, synthesize
from tts_tasks.cluster import cluster_status, events
from tts_tasks.errors import NoPoolError
from tts_tasks.pinning import forget_recent

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster, Worker

pytestmark = [pytest.mark.e2e, pytest.mark.drill]

#: 1,000 requests: TTS_TEST_REQUESTS=1000 python -m pytest tests/e2e/test_pools.py
REQUESTS = int(os.environ.get("TTS_TEST_REQUESTS", "120"))
#: A load of 40 s: TTS_TEST_LOAD_S=40 python -m pytest tests/e2e/test_pools.py
LOAD_S = float(os.environ.get("TTS_TEST_LOAD_S", "4"))

PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.01"}
ZH = PACED | {
    "TTS_POOL": "zh",
    "TTS_PACED_LANGUAGES": "zh",
    "TTS_PACED_SAMPLE_RATE_HZ": "24000",
    "TTS_PACED_CLONE": "1",
}
EN = PACED | {
    "TTS_POOL": "en",
    "TTS_PACED_LANGUAGES": "en",
    "TTS_PACED_SAMPLE_RATE_HZ": "32000",
}
RATES_HZ = {"zh": 24000, "en": 32000}


def two_pools(cluster: Cluster) -> None:
    """Start two workers each, all at once: they load beside each other."""
    starting = [
        threading.Thread(target=cluster.start, args=names, kwargs=environment)
        for names, environment in ((("z1", "z2"), ZH), (("e1", "e2"), EN))
    ]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join(120)
    for worker in cluster.workers:
        assert (worker.record or {}).get("ready"), worker.tail()


def mixed(number: int, reference: str) -> tuple[str, str, dict[str, Any]]:
    """Return a pool, and a request that only this pool can serve."""
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("zh", f"请{number}号到窗口。", {"requires": {"language": "zh"}}),
        ("en", f"Number {number}.", {"requires": {"language": "en"}}),
        ("zh", f"请{number}号。", {"voice": "alice:happy"}),
        ("en", f"Number {number}, please.", {"requires": {"sample_rate_hz": 32000}}),
        ("zh", f"{number}号。", {"prompt_audio": reference, "prompt_text": "你好"}),
        ("en", f"Mind number {number}.", {"requires": {"pool": "en"}, "sample_rate": 32000}),
    ]
    return kinds[number % len(kinds)]


def primary_of(cluster: Cluster, pool: str) -> Worker:
    def found() -> Worker | None:
        holder = next((x["primary"] for x in cluster_status()["lanes"] if x["pool"] == pool), None)
        return next((w for w in cluster.workers if (w.record or {}).get("id") == holder), None)

    worker: Worker = eventually(found, what=f"{pool} has a primary")
    return worker


@pytest.mark.timeout(120 + REQUESTS)
def test_mixed_requests_land_where_they_can_be_served(cluster: Cluster) -> None:
    """Online jobs and lines of batches, through kill -9 of one worker of each pool."""
    two_pools(cluster)
    forget_recent()
    client.voice_add("alice:happy", recording(), text="你好")
    reference = client.upload_reference(recording(seed=2))
    calls, expected = [], []
    for number in range(REQUESTS):
        pool, text, fields = mixed(number, reference)
        calls.append(synthesize.delay(text, **fields))
        expected.append(pool)
        if number == REQUESTS // 4:
            for wanted in ("zh", "en"):
                lines = [
                    {"id": str(n), "text": f"{n}号 number", "requires": {"language": wanted}}
                    for n in range(1, 1 + REQUESTS // 6)
                ]
                client.submit_batch(lines, id=f"b-{wanted}")
        if number == REQUESTS // 3:
            primary_of(cluster, "zh").kill()
        if number == REQUESTS // 2:
            primary_of(cluster, "en").kill()
    records = [call.get(timeout=60 + REQUESTS) for call in calls]
    for pool, record in zip(expected, records, strict=True):
        assert (record["sample_rate_hz"], record["worker"][0]) == (RATES_HZ[pool], pool[0])
    assert len({record["uri"] for record in records}) == REQUESTS
    for pool in ("zh", "en"):
        results = list(client.follow(f"b-{pool}", timeout_s=60 + REQUESTS))
        assert Counter(result.state for result in results) == {"succeeded": REQUESTS // 6}
        assert {str(result.worker)[0] for result in results} == {pool[0]}
    assert not [e for e in events() if e["event"] == "job.failed"]


def test_who_joins_leaves_and_changes_is_seen_at_once(cluster: Cluster) -> None:
    """Without a restart elsewhere; the command line says what is there when nothing fits."""
    cluster.start("z1", **ZH)
    with pytest.raises(NoPoolError, match="zh speaks zh"):
        synthesize.delay("Hello.", requires={"language": "en"})
    (joined,) = cluster.start("e1", **EN)
    ready_s = time.monotonic()
    assert synthesize.delay("Hello.", requires={"language": "en"}).get(timeout=60)
    assert time.monotonic() - ready_s < 60
    command = [sys.executable, "-m", "ttsctl", "say", "nuqneH", "--language", "tlh"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 8
    assert "en speaks en; zh speaks zh" in said.stderr
    status = subprocess.run(
        [sys.executable, "-m", "ttsctl", "status", "-o", "json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    pools = {pool["pool"]: pool for pool in json.loads(status.stdout)["pools"]}
    assert (pools["en"]["languages"], pools["zh"]["features"]) == (
        ["en"],
        ["clone", "phoneme", "speed", "stream"],
    )
    joined.kill(signal.SIGTERM)
    joined.process.wait(60)
    left_s = time.monotonic()

    def is_refused() -> bool:
        try:
            synthesize.delay("Hello.", requires={"language": "en"})
        except NoPoolError:
            return True
        return False

    eventually(is_refused, within_s=1.0, every_s=0.02, what="it is out of the registry")
    assert time.monotonic() - left_s < 1.0


# -- readiness ------------------------------------------------------------------------------------

SLOW = PACED | {"TTS_PACED_LOAD_S": str(LOAD_S)}
SLOW_TIMEOUT_S = 120 + 10 * LOAD_S


class Callers:
    """Somebody calls all the time."""

    def __init__(self) -> None:
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
        while not self._stop.wait(0.1):
            self.calls.append(synthesize.delay(f"请{len(self.calls) + 1}号到窗口。"))

    def go_on(self) -> None:
        """Wait until some more are answered."""
        first = len(self.calls)
        eventually(
            lambda: len(self.calls) > first + 5 and self.calls[first + 5].ready(),
            within_s=60 + 2 * LOAD_S,
            what="callers are answered",
        )


def spoken_before_ready(spans: Path) -> list[dict[str, Any]]:
    """Return the segments of jobs that an engine spoke before its process was ready."""
    ready_at_s: dict[str, list[float]] = {}
    for event in events():
        if event["event"] == "worker.ready":
            ready_at_s.setdefault(event["worker"], []).append(event["at_s"])
    began: dict[int, list[dict[str, Any]]] = {}
    for line in spans.read_text().splitlines():
        span = json.loads(line)
        began.setdefault(span["pid"], []).append(span)
    # each process has spoken its probe, which is its first job, and then was ready
    early = []
    moments = sorted(at_s for times in ready_at_s.values() for at_s in times)
    for spans_of_child in began.values():
        probed_s = max(s["ended_s"] for s in spans_of_child if s["job"] == 1)
        ready_s = next((at_s for at_s in moments if at_s >= probed_s), float("inf"))
        early += [s for s in spans_of_child if s["job"] > 1 and s["began_s"] < ready_s]
    return early


@pytest.mark.timeout(SLOW_TIMEOUT_S)
def test_a_worker_that_loads_is_given_no_job(cluster: Cluster, tmp_path: Path) -> None:
    """At its start, and when its engine has to load again; who waits is served when it is ready."""
    spans = tmp_path / "spans"
    began_s = time.monotonic()
    first = synthesize.delay("谁先到")
    client.submit_batch([{"text": "一号"}, {"text": "二号"}], id="b")
    (worker,) = cluster.start("w1", **SLOW, TTS_PACED_SPANS=str(spans))
    assert first.get(timeout=60)["attempt"] == 1
    assert time.monotonic() - began_s >= LOAD_S
    list(client.follow("b", timeout_s=60))

    child = worker.child_pid
    killed_s = time.monotonic()
    os.kill(child, signal.SIGKILL)
    eventually(lambda: not (worker.record or {"ready": True})["ready"], what="it is not ready")
    second = synthesize.delay("谁再到")
    assert second.get(timeout=60 + 2 * LOAD_S)["attempt"] == 1
    assert time.monotonic() - killed_s >= LOAD_S
    assert len({json.loads(line)["pid"] for line in spans.read_text().splitlines()}) == 2
    assert spoken_before_ready(spans) == []


@pytest.mark.timeout(SLOW_TIMEOUT_S)
def test_two_workers_restarted_one_after_the_other_lose_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Under load; each is given work only when it has loaded, and nobody's call fails."""
    spans = tmp_path / "spans"
    environment = SLOW | {"TTS_PACED_SPANS": str(spans)}
    old = cluster.start("w1", "w2", **environment)
    client.submit_batch([{"text": f"{n}号到窗口"} for n in range(1, 101)], id="b")
    with Callers() as callers:
        for number, worker in enumerate(old, start=1):
            worker.kill(signal.SIGTERM)
            worker.process.wait(60)
            cluster.start(f"n{number}", **environment)
            callers.go_on()
    records = [call.get(timeout=60 + LOAD_S) for call in callers.calls]
    assert {record["attempt"] for record in records} == {1}
    assert len({record["uri"] for record in records}) == len(records)
    results = list(client.follow("b", timeout_s=60 + LOAD_S))
    assert Counter(result.state for result in results) == {"succeeded": 100}
    assert spoken_before_ready(spans) == []
