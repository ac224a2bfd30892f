"""``python -m benchmarks memory``: what a batch takes of Redis, client and worker, by its size."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from benchmarks.benchmark import Benchmark, Option, counts, names
from benchmarks.failover.clocks import until
from benchmarks.figures import Case, Metric, Plan, Run
from benchmarks.ours import Cluster, text_of, write_batch
from benchmarks.talk import Peer
from tts_tasks.clock import boottime_s

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    import redis

OURS, CELERY = "ours batch", "celery"
_MB = 1e-6
_LOOK_S = 0.02

PLAN = Plan(
    name="memory",
    title="What a batch takes, by its size",
    metrics=(
        Metric("redis_bytes", "Redis above idle, peak", "MB", _MB),
        Metric("accept_s", "accepted", "s"),
        Metric("first_s", "first artifact", "s"),
        Metric("client_bytes", "client RSS peak", "MB", _MB),
        Metric("client_grew_bytes", "grew by", "MB", _MB, ratio=False),
        Metric("worker_bytes", "worker RSS peak", "MB", _MB, ratio=False),
        Metric("worked_share", "worked off meanwhile", "%", 100, ratio=False),
    ),
    baseline=lambda case: Case(CELERY, case.x),
    x_title="jobs",
)

OPTIONS = {
    "sizes": Option([1000, 10_000, 100_000], [100, 1000], "jobs, such as 1e3,1e4,1e5,1e6", counts),
    "chars": Option(30, 30, "characters of a text"),
    "watch-s": Option(
        60.0, 5.0, "so long after the acceptance the batch is worked on and looked at", float
    ),
    "within-s": Option(3600.0, 60.0, "an acceptance that takes longer fails it", float),
    "systems": Option([CELERY, OURS], [CELERY, OURS], "what is measured", names([CELERY, OURS])),
}


def _cases(options: Namespace) -> list[Case]:
    return [Case(system, float(size)) for size in options.sizes for system in options.systems]


def _measure(options: Namespace, case: Case, repeat: int) -> tuple[Run, str]:
    size = int(case.x or 0)
    with Cluster("memory") as cluster:
        measure = _measure_ours if case.series == OURS else _measure_celery
        values = measure(cluster, size, options)
        return Run(case, repeat, values), cluster.room.server_version()


def _measure_ours(cluster: Cluster, size: int, options: Namespace) -> dict[str, float | None]:
    """Submit to one worker that is there, and watch it work for a while."""
    (worker,) = cluster.start_workers(1)
    path = write_batch(cluster.room.directory / "jobs.jsonl", size, text_of(options.chars))
    submitter = cluster.new_client()
    with peak_of(cluster.room.client) as peak:
        began_s = boottime_s()
        submitter.say("submit", path=str(path), id="jobs")
        status: dict[str, Any] = {}

        def succeeded(at_least: int) -> bool:
            status.update(cluster.client.ask("status", id="jobs") or {})
            return bool(status.get("succeeded", 0) >= at_least)

        cluster.room.wait(lambda: succeeded(1), options.within_s, "a job has succeeded")
        first_s = boottime_s() - began_s
        sent = submitter.hear()
        until(lambda: succeeded(size), options.watch_s)
    return {
        "redis_bytes": peak.above_idle_bytes,
        "accept_s": sent["ended_s"] - sent["began_s"],
        "first_s": first_s,
        "client_bytes": sent["rss_peak_bytes"],
        "client_grew_bytes": sent["rss_peak_bytes"] - sent["rss_before_bytes"],
        "worker_bytes": worker.peak_rss_bytes(),
        "worked_share": status["succeeded"] / size,
    }


def _measure_celery(cluster: Cluster, size: int, options: Namespace) -> dict[str, float | None]:
    """Send so many messages with the same texts; nobody works."""
    room = cluster.room
    sender = Peer(
        "benchmarks.dispatch.sender",
        "benchmarks.dispatch.celery_app",
        environment=room.full_environment(),
        log_path=room.directory / "sender.log",
    )
    with sender, peak_of(room.client) as peak:
        sent = sender.ask("backlog", jobs=size, text=text_of(options.chars))
    return {
        "redis_bytes": peak.above_idle_bytes,
        "accept_s": sent["ended_s"] - sent["began_s"],
        "client_bytes": sent["rss_peak_bytes"],
        "client_grew_bytes": sent["rss_peak_bytes"] - sent["rss_before_bytes"],
    }


class _Peak:
    """The most memory that a server used, above what it used at first."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._idle_bytes = self._peak_bytes = self.used_bytes()

    def used_bytes(self) -> int:
        return int(self._client.info("memory")["used_memory"])

    def look(self) -> None:
        self._peak_bytes = max(self._peak_bytes, self.used_bytes())

    @property
    def above_idle_bytes(self) -> int:
        return self._peak_bytes - self._idle_bytes


@contextmanager
def peak_of(client: redis.Redis) -> Iterator[_Peak]:
    """Watch the server's memory from a thread while the block runs."""
    peak, over = _Peak(client), Event()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            peak.look()

    thread = Thread(target=watch, name="redis-memory")
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        peak.look()


BENCHMARK = Benchmark(PLAN, OPTIONS, _cases, _measure)
