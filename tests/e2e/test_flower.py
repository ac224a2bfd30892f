"""`celery -A tts_tasks flower`, started plainly, looked at with a real browser.

Two workers have a job each that takes longer than these tests, so that the queues stand still.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.e2e.cluster import Cluster
from tests.programs import need_program
from tests.waiting import eventually
from tts_tasks import client, synthesize
from tts_tasks.cluster import cluster_status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

BATCH_LINES, ONLINE_WAITING = 6, 3
#: Minutes of sound, at two seconds of work for a second of it.
LONG_TEXT = "请各位旅客在候车室等候列车进站。" * 60
WIDTH, HEIGHT = 1280, 800
BROWSER_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    # how long the page's scripts get, in the page's own time
    "--virtual-time-budget=5000",
)  # fmt: skip


@dataclass(frozen=True)
class Flower:
    """A running Flower, and the node names of the workers it should show."""

    url: str
    nodes: tuple[str, ...]  #: the standby first

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """Return status and body of a request without any login."""
        request = urllib.request.Request(f"{self.url}{path}", method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def told(self, what: str) -> dict[str, int]:
        """Return a number of each worker that it has heard of, by node name."""
        try:
            _, body = self.get("/workers?json=1")
        except urllib.error.URLError:
            return {}  # it does not listen yet
        return {worker["hostname"]: worker.get(what, 0) for worker in json.loads(body)["data"]}


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """Flower on a cluster in which both queues hold jobs."""
    folder = tmp_path_factory.mktemp("flower")
    with redis.Redis.from_url(os.environ["TTS_REDIS_URL"]) as store:
        store.flushall()
    cluster = Cluster(folder)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        # before the workers, as `ttsctl up` does: it learns of them as they come
        url = start_flower(folder, processes)
        cluster.start("w1", "w2", TTS_ENGINE="paced", TTS_PACED_COST="2")
        flower = Flower(url, nodes_standby_first())
        eventually(lambda: len(flower.told("active")) == 2, what="Flower has heard of both workers")
        fill_the_queues()
        eventually(
            lambda: set(flower.told("active").values()) == {1},
            what="Flower has heard, in a heartbeat, of each worker's job",
        )
        yield flower
    finally:
        for process in processes:
            process.kill()
            process.wait(15)
        for worker in cluster.workers:
            worker.kill()  # they would go on with what they have
        cluster.stop()


def fill_the_queues() -> None:
    """Give each worker a job that lasts, and let others wait behind them."""
    # the primary is busy with an online job: a line of a batch would make way for the next one
    synthesize.delay(LONG_TEXT)
    eventually(lambda: [w for w in cluster_status()["workers"] if w["job"]], what="it is begun")
    lines = [{"text": LONG_TEXT, "output_name": f"n{n}"} for n in range(BATCH_LINES)]
    client.submit_batch(lines, id="flower")
    eventually(
        lambda: all(worker["job"] for worker in cluster_status()["workers"]),
        what="both workers are busy",
    )
    assert waiting("tts.batch.default") == BATCH_LINES
    for n in range(ONLINE_WAITING):
        synthesize.delay(f"请{n}号稍候。")
    assert waiting("tts.online.default.0") == ONLINE_WAITING


def nodes_standby_first() -> tuple[str, ...]:
    workers = sorted(cluster_status()["workers"], key=lambda worker: worker["role"], reverse=True)
    assert [worker["role"] for worker in workers] == ["standby", "primary"]
    return tuple(worker["id"].split("/")[0] for worker in workers)


def waiting(queue: str) -> int:
    return int(cluster_status()["queues"][queue])


def start_flower(folder: Path, processes: list[subprocess.Popen[bytes]]) -> str:
    """Start Flower as its documentation says, on a free port of the loopback; return its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "celery", "-A", "tts_tasks", "flower"]
    with (folder / "flower.log").open("wb") as log:
        processes.append(
            subprocess.Popen(
                [*command, "--address=127.0.0.1", f"--port={port}"],
                env={k: v for k, v in os.environ.items() if not k.startswith("FLOWER_")},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        )
    return f"http://127.0.0.1:{port}"


class Rows(HTMLParser):
    """The rows of a page's tables, as the texts of their cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag == "td" and self.rows:
            self.rows[-1].append("")
        self._in_cell = self._in_cell or tag == "td"

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._in_cell and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()

    def by_first_cell(self) -> dict[str, list[str]]:
        """Return the other cells of each row."""
        return {row[0]: row[1:] for row in self.rows if row}


def browse(url: str, profile: Path, *options: str) -> bytes:
    """Open a page in a real browser; return what it printed."""
    chromium = need_program("chromium", "make install-chromium")
    done = subprocess.run(
        [chromium, *BROWSER_OPTIONS, f"--user-data-dir={profile}", *options, url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def rows_of(url: str, profile: Path) -> dict[str, list[str]]:
    """Return the table rows that the browser shows, by their first cell."""
    return Rows(browse(url, profile, "--dump-dom").decode()).by_first_cell()


def screenshot(url: str, profile: Path, path: Path) -> bytes:
    """Return a picture of the page, as PNG."""
    browse(url, profile, f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={path}")
    return path.read_bytes()


@pytest.mark.chromium
def test_the_workers_page_shows_both_workers(flower: Flower, tmp_path: Path) -> None:
    """Both node names are there, online, each with the job that it has."""
    rows = rows_of(f"{flower.url}/workers", tmp_path)
    for node in flower.nodes:
        status, active, *_ = rows[node]
        assert (status, active) == ("Online", "1")


@pytest.mark.chromium
def test_the_broker_page_shows_the_queue_lengths(flower: Flower, tmp_path: Path) -> None:
    """Both queues are listed with as many messages as wait in them: of a batch those are rings."""
    with redis.Redis.from_url(os.environ["TTS_REDIS_URL"]) as store:
        rings = store.llen("tts.batch.default")  # two workers may have rung at the same moment
    assert rings >= 1
    rows = rows_of(f"{flower.url}/broker", tmp_path)
    lengths = {name: cells[0] for name, cells in rows.items()}
    assert lengths == {
        "tts.batch.default": str(rings),
        "tts.online.default.0": str(ONLINE_WAITING),
    }


@pytest.mark.chromium
@pytest.mark.parametrize("page", ["workers", "broker"])
def test_the_pages_are_drawn(flower: Flower, tmp_path: Path, page: str) -> None:
    """A screenshot of the page is a picture of the size asked for, and not an empty one."""
    empty = screenshot("about:blank", tmp_path / "profile", tmp_path / "empty.png")
    picture = screenshot(f"{flower.url}/{page}", tmp_path / "profile", tmp_path / f"{page}.png")
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == (WIDTH, HEIGHT)
    assert len(picture) > 3 * len(empty)


def test_tasks_are_counted_from_the_first_one(flower: Flower) -> None:
    """Workers tell of their tasks unasked: Flower would ask seconds after a worker has come."""
    assert flower.told("task-received") == dict.fromkeys(flower.nodes, 1)


def test_looking_at_one_worker_hides_no_queue(flower: Flower) -> None:
    """A worker's page names the task that it has; after it the broker page still lists both queues.

    The standby's page is opened first: Flower lists the queues of the workers it has asked.
    """
    for node, task in zip(flower.nodes, ("tts_tasks.work", "default.0:"), strict=True):
        assert task in flower.get(f"/worker/{node}")[1].decode()
        broker = flower.get("/broker")[1].decode()
        assert "tts.batch.default" in broker
        assert "tts.online.default.0" in broker


def test_the_api_stays_shut(flower: Flower) -> None:
    """Without a login nobody can drive the workers through Flower: 401, and they live on."""
    assert flower.get("/api/workers")[0] == 401
    for node in flower.nodes:
        assert flower.get(f"/api/worker/shutdown/{node}", method="POST")[0] == 401
        assert flower.get(f"/api/worker/pool/grow/{node}?n=1", method="POST")[0] == 401
    assert flower.get("/healthcheck") == (200, b"OK")
    assert sum(worker["ready"] for worker in cluster_status()["workers"]) == 2
