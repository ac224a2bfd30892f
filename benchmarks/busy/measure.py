"""``python -m benchmarks busy``."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark, Option, names, numbers
from benchmarks.figures import Case, Metric, Plan, Run
from benchmarks.ours import Cluster, text_of, write_batch
from benchmarks.spans import busy_share, rate_per_s
from benchmarks.talk import Peer

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from benchmarks.spans import Span

OURS, CELERY = "ours batch", "celery"
CHARS = 10
_READY_S = 120.0

PLAN = Plan(
    name="busy",
    title="Share of time in which the engine speaks: one worker, a backlog",
    metrics=(
        Metric("busy", "engine speaks", "%", 100),
        Metric("idle_s", "pause between two jobs p50", "ms", 1000),
        Metric("jobs_per_s", "throughput", "jobs/s"),
        Metric("one_by_one", "at most, one by one", "%", 100, ratio=False),
    ),
    baseline=lambda case: Case(CELERY, case.x),
    x_title="encode + store, %",
)

OPTIONS = {
    "jobs": Option(150, 15, "backlog of each run"),
    "speak-ms": Option(200.0, 50.0, "what the engine takes for a job", float),
    "costs": Option([0.0, 5.0, 20.0], [20.0], "encode + store, % of that", numbers),
    "systems": Option([CELERY, OURS], [CELERY, OURS], "what is measured", names([CELERY, OURS])),
    "within-s": Option(600.0, 60.0, "a run that takes longer fails the benchmark", float),
}


def _cases(options: Namespace) -> list[Case]:
    return [Case(system, cost) for cost in options.costs for system in options.systems]


def _measure(options: Namespace, case: Case, repeat: int) -> tuple[Run, str]:
    share = (case.x or 0.0) / 100
    speak_s = options.speak_ms / 1000
    environment = {}
    if share:
        # half of it each
        environment = dict.fromkeys(("BENCH_ENCODE_S", "BENCH_STORE_S"), repr(speak_s * share / 2))
    with Cluster("busy", speak_s=speak_s, chars=CHARS, **environment) as cluster:
        if case.series == OURS:
            path = write_batch(cluster.room.directory / "jobs.jsonl", options.jobs, text_of(CHARS))
            cluster.client.ask("submit", path=str(path), id="jobs")
            cluster.start_worker("worker")
        else:
            _send_to_celery(cluster, options.jobs)
        spans = cluster.wait_for_spans(options.jobs, _READY_S + options.within_s)
        if case.series == OURS:
            cluster.wait_until_done("jobs", options.within_s)
        if share:
            _check_that_it_was_paid(cluster.room.directory / "costs", options.jobs)
        return Run(case, repeat, values_of(spans, share)), cluster.room.server_version()


def _send_to_celery(cluster: Cluster, jobs: int) -> None:
    app = "benchmarks.busy.celery_app"
    room = cluster.room
    with Peer(
        "benchmarks.dispatch.sender",
        app,
        environment=room.full_environment(),
        log_path=room.directory / "sender.log",
    ) as sender:
        sender.ask("backlog", jobs=jobs, text=text_of(CHARS))
    room.start("worker", "celery", "-A", app, "worker", "--loglevel", "WARNING")


def values_of(spans: list[Span], share: float) -> dict[str, float | None]:
    """Return the values of the metrics."""
    ordered = sorted(spans, key=lambda span: span.began_s)
    pauses_s = sorted(after.began_s - before.ended_s for before, after in pairwise(ordered))
    return {
        "busy": busy_share(spans),
        "idle_s": pauses_s[len(pauses_s) // 2] if pauses_s else None,
        "jobs_per_s": rate_per_s(spans),
        "one_by_one": 1 / (1 + share),
    }


def _check_that_it_was_paid(path: Path, jobs: int) -> None:
    """Raise ValueError unless each job's encoding and storing was made to cost.

    The last one's may still be on the way.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    paid = Counter(json.loads(line)["kind"] for line in lines)
    if any(paid[kind] < jobs - 1 for kind in ("encode", "store")):
        raise ValueError(f"the cost was not paid by {jobs} jobs: {dict(paid)}")


BENCHMARK = Benchmark(PLAN, OPTIONS, _cases, _measure)
