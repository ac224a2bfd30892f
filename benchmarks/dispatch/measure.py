"""``python -m benchmarks dispatch``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark, Option, names
from benchmarks.dispatch.systems import SYSTEMS, Load
from benchmarks.figures import Case, Metric, Plan, Run

if TYPE_CHECKING:
    from argparse import Namespace

_BY_NAME = {system.name: system for system in SYSTEMS}

PLAN = Plan(
    name="dispatch",
    title="What a job costs that does nothing: one worker, one process",
    metrics=(
        Metric("drained_per_s", "drained", "jobs/s"),
        Metric("submit_per_s", "submitted", "jobs/s"),
        Metric("latency_p50_s", "sent to started p50", "ms", 1000),
        Metric("latency_p99_s", "p99", "ms", 1000),
    ),
    baseline=lambda _: Case("celery"),
)

OPTIONS = {
    "jobs": Option(1000, 40, "backlog that is drained"),
    "samples": Option(200, 10, "jobs sent one by one to the idle worker"),
    "every-ms": Option(50.0, 50.0, "such a job is sent so often, on average", float),
    "within-s": Option(600.0, 60.0, "a drain that takes longer fails the benchmark", float),
    "systems": Option(list(_BY_NAME), list(_BY_NAME), "what is measured", names(list(_BY_NAME))),
}


def _cases(options: Namespace) -> list[Case]:
    return [Case(name) for name in options.systems]


def _measure(options: Namespace, case: Case, repeat: int) -> tuple[Run, str]:
    load = Load(
        jobs=options.jobs,
        samples=options.samples,
        every_s=options.every_ms / 1000,
        seed=options.seed + repeat,
        within_s=options.within_s,
    )
    measured = _BY_NAME[case.series].measure(load)
    samples = {"latency_s": [round(value, 6) for value in measured.latencies_s]}
    return Run(case, repeat, measured.values(), samples), measured.server_version


BENCHMARK = Benchmark(PLAN, OPTIONS, _cases, _measure)
