"""The systems that are compared, and one run of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.dispatch import starts
from benchmarks.failover.figures import percentile
from benchmarks.ours import Cluster, text_of, write_batch
from benchmarks.rooms import Room
from benchmarks.spans import rate_per_s
from benchmarks.talk import Peer
from tts_tasks.clock import boottime_s

if TYPE_CHECKING:
    from collections.abc import Sequence

_READY_S = 120.0
CHARS = 2


@dataclass(frozen=True, slots=True)
class Load:
    """What every system is given."""

    jobs: int  #: sent while no worker runs, and then drained
    samples: int  #: sent one by one to the idle worker
    every_s: float
    seed: int
    within_s: float  #: the drain must end in this time


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run of a system gave."""

    submit_per_s: float
    drained_per_s: float
    latencies_s: list[float]  #: from the call that sends a job to its start
    server_version: str

    def values(self) -> dict[str, float | None]:
        """Return the values of the metrics."""
        return {
            "drained_per_s": self.drained_per_s,
            "submit_per_s": self.submit_per_s,
            "latency_p50_s": percentile(self.latencies_s, 0.5),
            "latency_p99_s": percentile(self.latencies_s, 0.99),
        }


@dataclass(frozen=True, slots=True)
class Baseline:
    """A task queue: the module of its application, and how its worker is started."""

    name: str
    module: str
    worker: tuple[str, ...]

    def measure(self, load: Load) -> Measured:
        """Send a backlog, let a worker drain it, then send jobs one by one."""
        with Room(self.name) as room:
            sender = Peer(
                "benchmarks.dispatch.sender",
                self.module,
                environment=room.full_environment(),
                log_path=room.directory / "sender.log",
            )
            with sender:
                sent = sender.ask("backlog", jobs=load.jobs, text=text_of(CHARS))
                room.start("worker", *(word.format(url=room.server.url) for word in self.worker))
                self._wait(room, load.jobs, _READY_S + load.within_s)
                drained_s = starts.read(room.directory)
                sent_s = sender.ask(
                    "stream",
                    jobs=load.samples,
                    every_s=load.every_s,
                    seed=load.seed,
                    text=text_of(CHARS),
                )
                self._wait(room, load.jobs + load.samples, load.within_s)
            started_s = starts.read(room.directory)[load.jobs :]
            return Measured(
                submit_per_s=load.jobs / (sent["ended_s"] - sent["began_s"]),
                drained_per_s=(load.jobs - 1) / (drained_s[-1] - drained_s[0]),
                latencies_s=latencies_s(sent_s, started_s),
                server_version=room.server_version(),
            )

    def _wait(self, room: Room, jobs: int, within_s: float) -> None:
        room.wait(
            lambda: starts.count(room.directory) >= jobs, within_s, f"{self.name}: {jobs} started"
        )


@dataclass(frozen=True, slots=True)
class Ours:
    """A worker of ours, artifacts included. ``batch``: the backlog is a file, else online jobs."""

    name: str
    batch: bool

    def measure(self, load: Load) -> Measured:
        """Do the same as `Baseline.measure`; a batch is drained when its report is written."""
        with Cluster(self.name) as cluster:
            room, client = cluster.room, cluster.client
            if self.batch:
                path = write_batch(room.directory / "jobs.jsonl", load.jobs, text_of(CHARS))
                sent = client.ask("submit", path=str(path), id="jobs")
            else:
                sent = client.ask("backlog", jobs=load.jobs, text=text_of(CHARS))
            cluster.start_worker("worker")
            spans = list(cluster.wait_for_spans(load.jobs, _READY_S + load.within_s))
            drained_per_s = rate_per_s(spans)
            if self.batch:
                cluster.wait_until_done("jobs", load.within_s)
                drained_per_s = load.jobs / (boottime_s() - min(s.began_s for s in spans))
            sent_s = self._stream(cluster, load)
            spans = cluster.wait_for_spans(load.jobs + load.samples, load.within_s)
            return Measured(
                submit_per_s=load.jobs / (sent["ended_s"] - sent["began_s"]),
                drained_per_s=drained_per_s or 0.0,
                latencies_s=latencies_s(sent_s, sorted(s.began_s for s in spans)[load.jobs :]),
                server_version=room.server_version(),
            )

    def _stream(self, cluster: Cluster, load: Load) -> list[float]:
        asked = {
            "jobs": load.samples,
            "every_s": load.every_s,
            "seed": load.seed,
            "text": text_of(CHARS),
        }
        if self.batch:
            asked["directory"] = str(cluster.room.directory / "ones")
        sent: list[float] = cluster.client.ask(
            "stream_batches" if self.batch else "stream", **asked
        )
        return sent


def latencies_s(sent_s: Sequence[float], started_s: Sequence[float]) -> list[float]:
    """Return for each job how long it took to start; they start in the order of sending."""
    return [started - sent for sent, started in zip(sent_s, sorted(started_s), strict=True)]


def _celery(module: str) -> tuple[str, ...]:
    return ("celery", "-A", module, "worker", "--loglevel", "WARNING")


_APPS = "benchmarks.dispatch"
_RQ = ("worker", "--quiet", "--url", "{url}")
SYSTEMS: tuple[Baseline | Ours, ...] = (
    Baseline("celery", f"{_APPS}.celery_app", _celery(f"{_APPS}.celery_app")),
    Baseline("rq", f"{_APPS}.rq_app", ("rq.cli", *_RQ, "bench")),
    Baseline(
        "rq simple",
        f"{_APPS}.rq_app",
        ("rq.cli", *_RQ, "--worker-class", "rq.SimpleWorker", "bench"),
    ),
    Baseline(
        "dramatiq",
        f"{_APPS}.dramatiq_app",
        ("dramatiq", "--processes", "1", "--threads", "1", f"{_APPS}.dramatiq_app"),
    ),
    Baseline("arq", f"{_APPS}.arq_app", ("arq", f"{_APPS}.arq_app.WorkerSettings")),
    Baseline(
        "taskiq",
        f"{_APPS}.taskiq_app",
        (
            *("taskiq", "worker", "--workers", "1", "--max-async-tasks", "1"),
            *("--log-level", "WARNING", f"{_APPS}.taskiq_app:broker"),
        ),
    ),
    Ours("ours online", batch=False),
    Ours("ours batch", batch=True),
)
