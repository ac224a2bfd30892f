"""``python -m benchmarks scale``: throughput on more workers, and of online work on more lanes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark, Option, counts
from benchmarks.figures import Case, Metric, Plan, Run
from benchmarks.ours import Cluster, text_of, write_batch
from benchmarks.spans import rate_per_s, speaking_s

if TYPE_CHECKING:
    from argparse import Namespace

    from benchmarks.spans import Span

BATCH, ONLINE = "batch, workers", "online, lanes"
CHARS = 10

PLAN = Plan(
    name="scale",
    title="Throughput by the number of workers; the engine sleeps",
    metrics=(
        Metric("jobs_per_s", "throughput", "jobs/s"),
        Metric("busy", "engines speak", "%", 100, ratio=False),
    ),
    baseline=lambda case: Case(case.series, 1.0),
    x_title="workers",
    per_x=True,
)

OPTIONS = {
    "workers": Option([1, 2, 4, 8, 16], [1, 2], "workers that share a batch", counts),
    "lanes": Option([1, 2, 4], [1, 2], "lanes of one worker each, with online jobs", counts),
    "speak-ms": Option(200.0, 50.0, "what the engine takes for a job", float),
    "run-s": Option(15.0, 1.0, "what each worker is given to speak", float),
    "within-s": Option(600.0, 60.0, "a run that takes longer fails the benchmark", float),
}


def _cases(options: Namespace) -> list[Case]:
    return [Case(BATCH, float(n)) for n in options.workers] + [
        Case(ONLINE, float(n)) for n in options.lanes
    ]


def _measure(options: Namespace, case: Case, repeat: int) -> tuple[Run, str]:
    count = int(case.x or 1)
    speak_s = options.speak_ms / 1000
    each = math.ceil(options.run_s / speak_s)
    with Cluster("scale", speak_s=speak_s, chars=CHARS) as cluster:
        if case.series == BATCH:
            _give_batch(cluster, count, each)
        else:
            _give_online(cluster, count, each)
        spans = cluster.wait_for_spans(count * each, options.within_s)
        return Run(case, repeat, values_of(spans, count)), cluster.room.server_version()


def _give_batch(cluster: Cluster, workers: int, each: int) -> None:
    cluster.start_workers(workers)
    path = write_batch(cluster.room.directory / "jobs.jsonl", workers * each, text_of(CHARS))
    cluster.client.ask("submit", path=str(path), id="jobs")


def _give_online(cluster: Cluster, lanes: int, each: int) -> None:
    """Give each lane its own backlog: a client sends to the lane that its setting names."""
    names = [str(number) for number in range(lanes)]
    for name in names:
        cluster.start_worker(f"lane{name}", TTS_LANE=name)
    cluster.wait_until_ready(lanes)
    clients = [cluster.new_client(TTS_LANE=name) for name in names]
    for client in clients:
        client.say("backlog", jobs=each, text=text_of(CHARS))
    for client in clients:
        client.hear()


def values_of(spans: list[Span], workers: int) -> dict[str, float | None]:
    """Return the values of the metrics."""
    began_s = min(span.began_s for span in spans)
    lasted_s = max(span.ended_s for span in spans) - began_s
    return {
        "jobs_per_s": rate_per_s(spans),
        "busy": speaking_s(spans) / (lasted_s * workers),
    }


BENCHMARK = Benchmark(PLAN, OPTIONS, _cases, _measure)
