"""``python -m benchmarks.failover --rounds N``: ours, bare Celery, the health-check script."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.failover import ours, trials
from benchmarks.failover.figures import summarise
from benchmarks.failover.rounds import Fault, Round
from benchmarks.failover.table import render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_SYSTEMS = {
    "ours": (ours.NAME,),
    "celery": (trials.CELERY_LOWERED, trials.CELERY_DEFAULT),
    "script": (trials.SCRIPT,),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table (or JSON); returns 1 when a target was missed or a job was lost."""
    options = _options(arguments)
    faults = [Fault(name) for name in options.faults]
    began_s = time.monotonic()

    def tell(measured: Round) -> None:
        seen = "nobody" if measured.begun_s is None else f"begun {measured.begun_s:.3f} s"
        minutes = (time.monotonic() - began_s) / 60
        print(
            f"[{minutes:5.1f} min] {measured.system:10} {measured.fault:10} {seen} {measured.note}",
            file=sys.stderr,
            flush=True,
        )

    rounds, silence_s = _measure(options, faults, tell)
    summaries = summarise(rounds, ours=ours.NAME, silence_s=silence_s)
    if options.output == "json":
        told = {
            "seed": options.seed,
            "summaries": [summary.to_json() for summary in summaries],
            "rounds": [asdict(measured) for measured in rounds],
        }
        print(json.dumps(told, indent=2))
    else:
        print(render(summaries))
        print(f"seed {options.seed}, {(time.monotonic() - began_s) / 60:.1f} min")
    mine = [summary for summary in summaries if summary.system == ours.NAME]
    return int(any(not s.met or s.counts["lost"] or s.counts["doubled"] for s in mine))


def _measure(
    options: argparse.Namespace, faults: list[Fault], tell: Callable[[Round], None]
) -> tuple[list[Round], float]:
    """Do all rounds, ours first and alone; returns them, and our silence limit in seconds."""
    rounds: list[Round] = []
    silence_s = 0.0
    every_s = options.every_ms / 1000
    with tempfile.TemporaryDirectory(prefix="tts-failover-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        if "ours" in options.systems:
            rounds += ours.measure(
                faults,
                options.rounds,
                directory=directory,
                seed=options.seed,
                every_s=every_s,
                tell=tell,
            )
            silence_s = ours.silence_s()
        names = [system for kind in options.systems for system in _SYSTEMS[kind]]
        plan = trials.planned(
            [system for system in names if system != ours.NAME],
            faults,
            options.baseline_rounds,
            seed=options.seed,
            cap_s=options.cap_s,
            every_s=every_s,
        )
        rounds += trials.measure(plan, directory=directory, at_once=options.at_once, tell=tell)
    return rounds, silence_s


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each fault, on ours")
    parser.add_argument("--baseline-rounds", type=int, default=2, help="on everything else")
    parser.add_argument("--systems", type=_names(_SYSTEMS), default=list(_SYSTEMS))
    parser.add_argument("--faults", type=_names(Fault), default=list(Fault))
    parser.add_argument(
        "--cap-s", type=float, default=120.0, help="how long a baseline is waited for"
    )
    parser.add_argument("--at-once", type=int, default=4, help="baseline rounds side by side")
    parser.add_argument("--every-ms", type=float, default=40.0, help="a job is given so often")
    parser.add_argument("--seed", type=int, default=None, help="of moments and order; default: any")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    return options


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what reads a list like ``kill,child`` of known names."""
    words = [str(word) for word in known]

    def read(text: str) -> list[str]:
        given = text.split(",")
        if unknown := [word for word in given if word not in words]:
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r}; there are: {', '.join(words)}")
        return given

    return read


if __name__ == "__main__":
    sys.exit(main())
