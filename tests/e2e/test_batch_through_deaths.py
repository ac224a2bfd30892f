"""A batch goes through to its end, whoever is killed: its client, its workers, their engines."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tts_tasks import client
from tts_tasks.errors import NotFoundError
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage
from tts_workers.pipeline import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster, Worker

pytestmark = [pytest.mark.e2e, pytest.mark.drill]

#: 20,000 lines: TTS_TEST_BATCH_LINES=20000 python -m pytest tests/e2e/test_batch_through_deaths.py
LINES = int(os.environ.get("TTS_TEST_BATCH_LINES", "300"))
SEED = int(os.environ.get("TTS_TEST_SEED", "7"))
#: Spoken in a hundredth of a second: what dispatches, stores and reports is what is tried.
PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.005"}
#: A death comes after so many seconds, at the least and at the most.
EVERY_S = (0.3, 3.0)
#: So many lines of one child may be redone: what it had spoken, and the one in its mouth.
IN_FLIGHT = Limits().storing_lines + 1


class Submitter:
    """Somebody who submits the file, and submits it again when that was interrupted."""

    def __init__(self, path: Path) -> None:
        self._command = [sys.executable, "-m", "ttsctl", "submit", str(path)]
        self._command += ["--id", "b", "--no-wait"]
        self._process = self._begin()
        self.kills = 0

    def _begin(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def is_done(self) -> bool:
        return self._process.poll() == 0

    def kill(self) -> None:
        if not self.is_done:
            self._process.kill()
            self._process.wait(15)
            self._process = self._begin()
            self.kills += 1


def test_nothing_is_lost_or_doubled_whoever_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    """Each line is published once, reported in its place, and only what was in hand is redone."""
    rng = random.Random(SEED)
    spans = tmp_path / "spans"
    environment = PACED | {"TTS_PACED_SPANS": str(spans)}
    workers: list[Worker] = cluster.start("w0", "w1", **environment)
    path = tmp_path / "big.jsonl"
    with path.open("w") as file:
        for number in range(1, LINES + 1):
            file.write(json.dumps({"id": f"n{number}", "text": f"请{number}号到窗口。"}) + "\n")
    submitter = Submitter(path)
    deaths: Counter[str] = Counter()
    give_up_s = time.monotonic() + 120 + LINES / 10
    while not (submitter.is_done and _is_done()):
        assert time.monotonic() < give_up_s, f"{client.batch_status('b')} after {deaths}"
        time.sleep(rng.uniform(*EVERY_S))  # the moments are the test's own
        victim = rng.choice(("client", "worker", "child"))
        place = rng.randrange(len(workers))
        if victim == "client":
            submitter.kill()
        elif victim == "worker":
            workers[place].kill()
            (workers[place],) = cluster.start(f"w{len(cluster.workers)}", **environment)
        elif pid := workers[place].child_pid:
            os.kill(pid, signal.SIGKILL)
        deaths[victim] += 1

    report = list(client.report("b"))
    assert [line["line"] for line in report] == list(range(1, LINES + 1))
    assert Counter(line["state"] for line in report) == {"succeeded": LINES}
    storage = open_storage(get_settings().storage_url)
    names = [line["name"] for line in report]
    assert sorted(n for n in storage.list("b") if n.endswith(".wav")) == sorted(names)
    for line in report:
        assert hashlib.sha256(storage.read(line["name"])).hexdigest() == line["sha256"]
    spoken = len([1 for span in spans.open() if json.loads(span)["job"] > 1])  # 1: the probe
    sys.stdout.write(f"deaths: {dict(deaths)}; redone: {spoken - LINES} of {LINES} lines\n")
    assert LINES <= spoken <= LINES + IN_FLIGHT * (deaths["worker"] + deaths["child"])


def _is_done() -> bool:
    try:
        return bool(client.batch_status("b").report)
    except NotFoundError:
        return False
