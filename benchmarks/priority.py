"""``python -m benchmarks priority``: how soon online jobs are heard, with and without a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark, Option, names
from benchmarks.failover.figures import percentile
from benchmarks.figures import Case, Metric, Plan, Run
from benchmarks.ours import Cluster, text_of, write_batch
from tts_tasks.clock import boottime_s

if TYPE_CHECKING:
    from argparse import Namespace


@dataclass(frozen=True, slots=True)
class Situation:
    """What else the cluster has to do."""

    workers: int
    busy: int  #: so many of them have a batch to work on, which does not run out


SITUATIONS = {
    "idle on 2": Situation(2, busy=0),
    "batch on 2": Situation(2, busy=2),
    "batch on 1 of 2": Situation(2, busy=1),
    "idle on 1": Situation(1, busy=0),
    "batch on 1": Situation(1, busy=1),
}
CHARS = 10
#: Of an online job.
SENTENCES = 3

PLAN = Plan(
    name="priority",
    title="Time to the audio of an online job",
    metrics=(
        Metric("heard_p50_s", "first audio p50", "ms", 1000),
        Metric("heard_p99_s", "first audio p99", "ms", 1000),
        Metric("done_p50_s", "whole artifact p50", "ms", 1000),
        Metric("done_p99_s", "whole artifact p99", "ms", 1000),
        Metric("batch_per_s", "batch meanwhile", "jobs/s", ratio=False),
    ),
    baseline=lambda case: Case(f"idle on {SITUATIONS[case.series].workers}"),
)

OPTIONS = {
    "jobs": Option(50, 5, "online jobs of each run, one after the other"),
    "pause-ms": Option(300.0, 150.0, "between two of them, on average", float),
    "speak-ms": Option(200.0, 60.0, "what the engine takes for a sentence", float),
    "batch-sentences": Option(1, 1, "sentences of a line of the batch"),
    "within-s": Option(60.0, 30.0, "an online job that takes longer fails the benchmark", float),
    "situations": Option(list(SITUATIONS), list(SITUATIONS), "what is measured",
                         names(list(SITUATIONS))),
}  # fmt: skip


def _cases(options: Namespace) -> list[Case]:
    return [Case(name) for name in options.situations]


def _measure(options: Namespace, case: Case, repeat: int) -> tuple[Run, str]:
    situation = SITUATIONS[case.series]
    with Cluster("priority", speak_s=options.speak_ms / 1000, chars=CHARS) as cluster:
        cluster.start_workers(situation.workers)
        if situation.busy:
            _fill(cluster, options, situation)
        before, began_s = _succeeded(cluster, situation), boottime_s()
        told = cluster.client.ask(
            "online",
            jobs=options.jobs,
            pause_s=options.pause_ms / 1000,
            seed=options.seed + repeat,
            text=text_of(CHARS, SENTENCES),
            timeout_s=options.within_s,
        )
        batch_per_s = (_succeeded(cluster, situation) - before) / (boottime_s() - began_s)
        server = cluster.room.server_version()
    samples = {
        name: [round(one[name], 6) for one in told if one[name] is not None]
        for name in ("heard_s", "done_s")
    }
    return Run(case, repeat, values_of(samples, batch_per_s or None), samples), server


def _fill(cluster: Cluster, options: Namespace, situation: Situation) -> None:
    """Submit a batch that lasts longer than the online jobs, and wait until it is worked on.

    One that leaves workers free has a line for each of the others: a text as long as all of that.
    """
    sentences, lines = options.batch_sentences, lines_that_last(options, situation.busy)
    if situation.busy < situation.workers:
        sentences, lines = sentences * lines, situation.busy
    path = cluster.room.directory / "batch.jsonl"
    cluster.client.ask(
        "submit", path=str(write_batch(path, lines, text_of(CHARS, sentences))), id="batch"
    )
    cluster.room.wait(
        lambda: len({span.pid for span in cluster.spans()}) >= situation.busy,
        options.within_s,
        f"{situation.busy} workers work on the batch",
    )


def lines_that_last(options: Namespace, busy: int) -> int:
    """Return how many lines a batch must have so that it never runs out.

    Each online job waits for at most a line and then takes its own sentences; twice of that.
    """
    speak_s = options.speak_ms / 1000
    online_s = options.pause_ms / 1000 + (options.batch_sentences + SENTENCES) * speak_s
    at_most: float = busy * options.jobs * online_s / (options.batch_sentences * speak_s)
    return 20 + 2 * math.ceil(at_most)


def _succeeded(cluster: Cluster, situation: Situation) -> int:
    """Return how many lines of the batch are done; raises ValueError when all are."""
    if not situation.busy:
        return 0
    status = cluster.client.ask("status", id="batch")
    if status["state"] == "done":
        raise ValueError("the batch ran out before the online jobs did")
    return int(status["succeeded"])


def values_of(
    samples: dict[str, list[float]], batch_per_s: float | None
) -> dict[str, float | None]:
    """Return the values of the metrics; what was not seen is None."""
    values: dict[str, float | None] = {"batch_per_s": batch_per_s}
    for name, word in (("heard_s", "heard"), ("done_s", "done")):
        for share, suffix in ((0.5, "p50"), (0.99, "p99")):
            times_s = samples[name]
            values[f"{word}_{suffix}_s"] = percentile(times_s, share) if times_s else None
    return values


BENCHMARK = Benchmark(PLAN, OPTIONS, _cases, _measure)
