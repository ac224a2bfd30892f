"""A cluster to be hurt on purpose: its own Redis, workers, a proxy, and books kept of the jobs.

For programs that print figures (``tests/e2e/connection_rounds.py``); tests that need no figures use
the fixture ``cluster``.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import redis

from tests.e2e.cluster import Cluster, Worker
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually
from tts_tasks import client, keys, synthesize
from tts_tasks.app import app
from tts_tasks.celeryconfig import celery_configuration
from tts_tasks.cluster import events
from tts_tasks.ledger import BatchBook, JobLedger, JobMeta, JobRecord
from tts_tasks.settings import get_settings
from ttsctl.supervisor.redis_server import EmbeddedRedis

if TYPE_CHECKING:
    from collections.abc import Iterator

PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.1"}
LONG = "这是一段比较长的通知，请大家注意听。"
#: A job must have begun within this time after any fault; longer counts as a failure of the test.
PATIENCE_S = 120.0

Figures = dict[str, Any]


@dataclass
class Bench:
    """One Redis, its workers, the jobs that were given to them."""

    directory: Path
    server: EmbeddedRedis
    cluster: Cluster
    proxy: TcpProxy
    batches: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    online: list[Call] = field(default_factory=list)

    # -- work -------------------------------------------------------------------------------

    def load(self, count: int) -> None:
        """Give the workers ``count`` more jobs of about half a second."""
        batch = f"b{len(self.batches)}"
        jobs = [{"id": f"n{n}", "text": f"请{n}号到窗口。{LONG}"} for n in range(1, count + 1)]
        client.submit_batch(jobs, id=batch)
        self.batches.append(batch)
        self.jobs += [keys.batch_job_id(batch, line) for line in range(1, count + 1)]

    def top_up(self, at_least: int) -> None:
        """See to it that so many jobs wait or run."""
        waiting = sum(1 for record in self.records() if not record.ended)
        if waiting < at_least:
            self.load(at_least)

    def call(self, sentences: int = 1) -> Call:
        """Send an online job, with a client that waits for it."""
        call = Call(LONG * sentences)
        self.online.append(call)
        self.jobs.append(call.job)
        return call

    def records(self) -> list[JobRecord]:
        """What is known of every job given so far, in the ledger or in a report."""
        online = [call.job for call in self.online]
        found = JobLedger(self.server.url).get_many(online)
        lines = [line for batch in self.batches for line in self._lines(batch)]
        return [record for record in found if record is not None] + lines

    def _lines(self, batch: str) -> Iterator[JobRecord]:
        """Yield the jobs of a batch; of one that is flushed it is not known when it was begun."""
        lines = list(client.report(batch))
        held = BatchBook(self.server.url).results(batch, [line["line"] for line in lines])
        for line in lines:
            meta = JobMeta("", line.get("name") or "", batch=batch, line=line["line"])
            record = held.get(line["line"])
            yield (
                replace(record, meta=meta)
                if record
                else JobRecord(
                    id=keys.batch_job_id(batch, line["line"]),
                    state=line["state"],
                    attempt=line["attempt"],
                    worker=line["worker"] or "",
                    request={},
                    meta=meta,
                    result={},
                    accepted_ms=0,
                    claimed_ms=0,
                    finished_ms=None,
                    segments_done=0,
                    segments=0,
                )
            )

    def next_claim_s(self, since_s: float, worker: Worker | None = None) -> float:
        """Wait until a worker begins a job after a moment; returns how long after it that was."""

        def claimed() -> float | None:
            times = [
                record.claimed_ms / 1000 - since_s
                for record in self.records()
                if (worker is None or is_of(record, worker)) and record.claimed_ms / 1000 > since_s
            ]
            return min(times, default=None)

        return float(eventually(claimed, within_s=PATIENCE_S, what="somebody works again"))

    def outcome(self) -> Figures:
        """Wait for every job; say what was lost, failed, redone, and how callers fared."""
        eventually(
            lambda: all(record.ended for record in self.records()),
            within_s=PATIENCE_S,
            what="all jobs have ended",
        )
        for call in self.online:
            call.thread.join(30)
        records = self.records()
        names = {record.result.get("name") or record.meta.name for record in records}
        root = Path(get_settings().storage_url.removeprefix("file://"))
        sounds = {str(path.relative_to(root)) for path in root.rglob("*.wav")}
        happened = list(events())
        return {
            "jobs": len(self.jobs),
            "lost": len(self.jobs) - sum(record.state == "succeeded" for record in records),
            "published_twice": len(sounds - names),
            "missing": len(names - sounds),
            # a line that made way for online work goes on later, and redoes nothing
            "redone": sum(record.attempt - 1 for record in records)
            - sum(event["event"] == "job.yielded" for event in happened),
            "refused": sum(event["event"] == "job.stale_refused" for event in happened),
            "dead": sum(event["event"] == "worker.dead" for event in happened),
            "held": self.held(),
            "calls_unanswered": sum(call.answer is None for call in self.online),
        }

    def held(self) -> int:
        """Messages that idle workers hold, although there is nothing to hold."""
        with redis.Redis.from_url(self.server.url, decode_responses=True) as admin:

            def left() -> int:
                return sum(admin.hlen(key) for key in admin.scan_iter("tts:unacked:*"))

            deadline_s = time.monotonic() + 15.0
            while (count := left()) and time.monotonic() < deadline_s:
                time.sleep(0.1)
            return count

    # -- workers ----------------------------------------------------------------------------

    def start(self, *names: str, proxied: bool = False, **environment: str) -> list[Worker]:
        """Start workers that speak at a tenth of real time, directly or through the proxy."""
        url = self.proxy.url(self.server.url) if proxied else self.server.url
        return self.cluster.start(*names, **{**PACED, "TTS_REDIS_URL": url, **environment})

    def primary(self) -> Worker:
        """The primary, once there is one."""
        worker: Worker = eventually(self.cluster.primary, what="there is a primary")
        return worker

    def busy(self, worker: Worker) -> None:
        """Wait until a worker speaks."""

        def speaks() -> bool:
            return any(
                record.state == "running" and is_of(record, worker) for record in self.records()
            )

        eventually(speaks, what=f"{worker.name} is busy")

    # -- Redis ------------------------------------------------------------------------------

    def kill_redis(self) -> None:
        """End Redis as a crash does."""
        assert self.server.pid is not None
        psutil.Process(self.server.pid).kill()
        eventually(lambda: self.server.pid is None)

    def restart_redis(self) -> float:
        """Start it again where it was; returns when it answered (wall-clock seconds)."""
        url = self.server.url
        self.server.start()
        assert self.server.url == url, "its port was taken meanwhile"
        return time.time()

    def kill_connections(self, worker: Worker) -> int:
        """CLIENT KILL every connection of a worker, its child's too; returns how many."""
        ports = set()
        for process in family(worker):
            with suppress(psutil.NoSuchProcess):  # the engine's helpers live for one utterance
                for connection in process.net_connections("tcp4"):
                    if connection.raddr and f":{connection.raddr.port}/" in self.server.url:
                        ports.add(connection.laddr.port)
        with redis.Redis.from_url(self.server.url) as admin:
            pipe = admin.pipeline(transaction=False)
            for port in ports:
                pipe.execute_command("CLIENT", "KILL", "ADDR", f"127.0.0.1:{port}")
            return len(pipe.execute(raise_on_error=False))


class Call:
    """A client that waits for its job."""

    def __init__(self, text: str) -> None:
        self.sent_s = time.time()
        self._result = synthesize.delay(text)
        self.job = str(self._result.id)
        self.answer: dict[str, Any] | None = None
        self.error = ""
        self.answered_s = 0.0
        self.thread = threading.Thread(target=self._wait, daemon=True)
        self.thread.start()

    def _wait(self) -> None:
        try:
            self.answer = self._result.get(timeout=PATIENCE_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            self.error = repr(error)
        self.answered_s = time.time()

    def done(self) -> bool:
        """Whether `.get()` has returned or raised."""
        return not self.thread.is_alive()


def is_of(record: JobRecord, worker: Worker) -> bool:
    """Whether a job is, or was last, a worker's."""
    return record.worker.startswith(f"{worker.name}@")


def family(worker: Worker) -> list[psutil.Process]:
    """The processes of a worker: parent, child, helpers."""
    parent = psutil.Process(worker.process.pid)
    return [parent, *parent.children(recursive=True)]


@contextmanager
def bench(*, client_proxied: bool = False) -> Iterator[Bench]:
    """A cluster without workers, on a Redis of its own, which this process uses too."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tts-rounds-")))
        server = stack.enter_context(EmbeddedRedis(directory / "redis"))
        os.environ["TTS_HOME"] = str(directory / "home")
        proxy = stack.enter_context(TcpProxy.to(server.url))
        os.environ["TTS_REDIS_URL"] = proxy.url(server.url) if client_proxied else server.url
        get_settings.cache_clear()
        app.conf.update(celery_configuration(get_settings()))
        cluster = Cluster(directory)
        stack.callback(lambda: keep_logs(directory))
        stack.callback(cluster.stop)
        yield Bench(directory, server, cluster, proxy)


def keep_logs(directory: Path) -> None:
    """Copy the workers' logs to $TTS_ROUNDS_LOGS, if it is set."""
    target = os.environ.get("TTS_ROUNDS_LOGS")
    for log in directory.glob("*.log") if target else ():
        (Path(target or "") / log.name).write_bytes(log.read_bytes())


def spread(times_s: list[float]) -> Figures:
    """The figures that count of a list of durations."""
    return {
        "median": round(statistics.median(times_s), 2),
        "max": round(max(times_s), 2),
        "of": len(times_s),
    }
