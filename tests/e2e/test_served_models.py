"""Workers that drive a speech server: it is killed and stopped under them, and so are they."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.speech_server import LETTER_S
from tests.speech_servers import Faults, SpeechServer, command
from tests.waiting import eventually
from tts_tasks import client
from tts_tasks.cluster import events

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster, Worker

pytestmark = [pytest.mark.e2e, pytest.mark.drill]

LINES = 40


def environment(url: str = "http://127.0.0.1:{port}/v1", line: str = "") -> dict[str, str]:
    return {
        "TTS_ENGINE": "openai_http",
        "TTS_OPENAI_HTTP_URL": url,
        "TTS_OPENAI_HTTP_COMMAND": line,
        "TTS_OPENAI_HTTP_TIMEOUT_S": "2",
        "TTS_FIRST_STEP_S": "10",
    }


def family(worker: Worker) -> list[psutil.Process]:
    """Return the processes of a worker's speech server."""
    for process in psutil.Process(worker.process.pid).children(recursive=True):
        with suppress(psutil.Error):
            if any("guardian" in part for part in process.cmdline()):
                return [process, *process.children(recursive=True)]
    return []


def next_family(worker: Worker, before: list[psutil.Process]) -> list[psutil.Process]:
    """Wait until all processes of a server are gone, and there is another one that is ready."""
    eventually(lambda: not any(map(alive, before)), what="nothing is left of the server")
    eventually(lambda: len(family(worker)) == len(before), what="there is another server")
    eventually(lambda: (worker.record or {}).get("ready"), what="the worker is ready again")
    return family(worker)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def done() -> int:
    return client.batch_status("b").succeeded


def submit(lines: int = LINES) -> None:
    client.submit_batch(
        [{"id": f"n{n}", "text": f"请{n}号旅客到窗口。"} for n in range(1, lines + 1)], id="b"
    )


def check_all_succeeded() -> None:
    list(client.follow("b", timeout_s=150))
    report = list(client.report("b"))
    assert Counter(line["state"] for line in report) == {"succeeded": LINES}
    for line in report:  # a mixed-up answer would have another length
        letters = round(line["duration_s"] / LETTER_S)
        assert abs(letters - len("请号旅客到窗口") - 1) <= 1 + (int(line["id"][1:]) > 10), line


def test_a_batch_outlives_its_servers_death_and_hang(cluster: Cluster, tmp_path: Path) -> None:
    """Kill -9 of the server, then SIGSTOP: every line succeeds. A killed worker leaves nothing."""
    faults = Faults(tmp_path / "faults")
    line = command(faults.folder, "--delay-s", "0.05", "--spawn")
    (worker,) = cluster.start("w1", **environment(line=line))
    first = family(worker)
    assert len(first) == 3
    submit()

    eventually(lambda: done() >= 3, what="the batch is under way")
    os.kill(first[1].pid, signal.SIGKILL)
    second = next_family(worker, first)
    before = done()
    eventually(lambda: done() >= min(before + 3, LINES - 5), what="the batch goes on")
    os.kill(second[1].pid, signal.SIGSTOP)
    third = next_family(worker, second)
    check_all_succeeded()
    lost = [e["reason"] for e in events() if e["event"] == "job.recovered"]
    assert len(lost) == 2
    assert "the engine openai_http is lost" in worker.log.read_text()

    worker.kill()
    eventually(lambda: not any(map(alive, third)), what="nothing is left of the third")


def test_two_workers_share_a_server_and_leave_no_job_to_one_that_is_gone(
    cluster: Cluster, tmp_path: Path
) -> None:
    """While it is away no worker is ready, and no line loses more than the attempt in hand."""
    with SpeechServer(tmp_path / "faults", "--delay-s", "0.1") as server:
        workers = cluster.start("w1", "w2", **environment(server.url))
        submit()
        eventually(lambda: done() >= 3, what="the batch is under way")
        server.process.kill()
        server.process.wait()
        eventually(
            lambda: not any((w.record or {}).get("ready") for w in workers), what="none is ready"
        )
        server.start()
        check_all_succeeded()
        assert server.seen()["most"] == 2
    assert all(line["attempt"] <= 3 for line in client.report("b"))
