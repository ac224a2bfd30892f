"""`python -m tts_gateway` as a process of its own: health, readiness, start and end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.e2e

COMMAND = [sys.executable, "-m", "tts_gateway"]


class Gateway:
    """A running gateway."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self.port = int(eventually(self._port_it_says, what="the gateway says its port"))

    def _port_it_says(self) -> str | None:
        text = self._log.read_text(errors="replace")
        if self.process.poll() is not None:
            raise AssertionError(f"the gateway ended: {text}")
        found = re.search(r"running on http://127\.0\.0\.1:(\d+)", text)
        return found[1] if found else None

    def ask(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a GET."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Return status and report of /ready."""
        status, body = self.ask("/ready")
        return status, json.loads(body)


@contextmanager
def running(tmp_path: Path, **environment: str) -> Iterator[Gateway]:
    """Run a gateway on any free port; end it whatever happens."""
    log = tmp_path / "gateway.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            COMMAND,
            env={**os.environ, "TTS_GATEWAY_PORT": "0", **environment},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Gateway(process, log)
    finally:
        process.kill()
        process.wait(15)


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port of this machine at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@pytest.fixture
def silent_store() -> Iterator[socket.socket]:
    """A store that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


def test_health_answers_without_a_redis(tmp_path: Path, dead_port: int) -> None:
    """/health is 200 with no store at all; /ready says no, in a word that gives nothing away."""
    with running(tmp_path, TTS_REDIS_URL=f"redis://:secret@127.0.0.1:{dead_port}/0") as gateway:
        assert gateway.ask("/health") == (200, b"ok\n")
        status, report = gateway.ready()
    assert (status, report["ready"], report["reasons"]) == (503, False, ["cluster_unreachable"])
    assert "secret" not in json.dumps(report)


def test_health_answers_while_the_store_hangs(tmp_path: Path, silent_store: socket.socket) -> None:
    """A store that answers nothing holds up who asks /ready, for seconds, and nobody else."""
    url = f"redis://127.0.0.1:{silent_store.getsockname()[1]}/0"
    with running(tmp_path, TTS_REDIS_URL=url) as gateway, ThreadPoolExecutor() as threads:
        asked = threads.submit(gateway.ready)
        connection, _ = silent_store.accept()
        with connection:
            assert gateway.ask("/health") == (200, b"ok\n")
            assert not asked.done()
            status, report = asked.result(timeout=30)
    assert (status, report["ready"]) == (503, False)


def test_ready_follows_the_workers(cluster: Cluster, tmp_path: Path) -> None:
    """/ready is 503 without a worker, 200 with one that has spoken, and 503 when it has left."""
    with running(tmp_path) as gateway:
        assert gateway.ready() == (
            503,
            {"ready": False, "reasons": ["no_worker"], "workers": 0, "ready_workers": 0},
        )
        (worker,) = cluster.start("w1")
        eventually(lambda: gateway.ready()[0] == 200, within_s=10, what="/ready says yes")
        assert gateway.ready()[1] == {
            "ready": True, "reasons": [], "workers": 1, "ready_workers": 1,
        }  # fmt: skip
        worker.kill(signal.SIGTERM)
        worker.process.wait(30)
        eventually(lambda: gateway.ready()[0] == 503, within_s=10, what="/ready says no")


def test_sigterm_ends_it_in_order(tmp_path: Path, dead_port: int) -> None:
    """SIGTERM, as process supervisors send it, ends the gateway within seconds."""
    with running(tmp_path, TTS_REDIS_URL=f"redis://127.0.0.1:{dead_port}/0") as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(15) in {0, -signal.SIGTERM}


@pytest.mark.parametrize(
    "setting", [{"TTS_GATEWAY_PORT": "http"}, {"TTS_HEARTBEAT_S": "-1"}], ids=["its own", "shared"]
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, setting: dict[str, str]) -> None:
    """A setting that cannot be read ends the gateway with 2 before it listens, and is named."""
    done = subprocess.run(
        COMMAND,
        env={**os.environ, "TTS_GATEWAY_PORT": "0", **setting},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    (name,) = setting
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
