"""Run many seeds, or one with its trace: ``python -m tests.simulation --seeds 2000``."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.run import Outcome, run_seed


def main() -> int:
    """Return 0 if no run was refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, metavar="N", help="how many (2000)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first one (0)")
    parser.add_argument("--seed", type=int, metavar="N", help="only this one")
    parser.add_argument("--trace", action="store_true", help="print what happened, with --seed")
    parser.add_argument("--forgetful", action="store_true", help="a store that loses its data")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="at once (2)")
    options = parser.parse_args()
    if options.seed is not None:
        return _one(options.seed, trace=options.trace, forgetful=options.forgetful)
    seeds = range(options.first, options.first + options.seeds)
    began_s = time.perf_counter()
    run = partial(run_seed, forgetful=options.forgetful)
    with ProcessPoolExecutor(options.processes) as pool:
        outcomes = list(pool.map(run, seeds, chunksize=25))
    print(summary(outcomes, time.perf_counter() - began_s))  # noqa: T201 - what it is for
    for outcome in outcomes:
        if outcome.violation:
            print(f"seed {outcome.seed}: {outcome.violation}")  # noqa: T201
    return int(any(outcome.violation for outcome in outcomes))


def _one(seed: int, *, trace: bool, forgetful: bool) -> int:
    lines: list[str] = []
    outcome = run_seed(seed, trace=lines if trace else None, forgetful=forgetful)
    for line in lines:
        print(line)  # noqa: T201
    print(outcome)  # noqa: T201
    return int(bool(outcome.violation))


def summary(outcomes: list[Outcome], seconds: float) -> str:
    """Return the one line that says it all."""

    def total(name: str) -> int:
        return sum(getattr(outcome, name) for outcome in outcomes)

    violations = [outcome.violation for outcome in outcomes if outcome.violation]
    lost = sum("lost:" in violation for violation in violations)
    doubled = sum("twice" in v or "was changed" in v for v in violations)
    overlap_s = max((outcome.longest_overlap_s for outcome in outcomes), default=0.0)
    return (
        f"{len(outcomes)} seeds, {total('steps')} steps, {total('faults')} faults, "
        f"{total('takeovers')} takeovers, {total('refused')} stale effects refused, "
        f"{total('not_leader')} claims refused, {total('overlaps')} excused overlaps of belief "
        f"(longest {overlap_s:.2f} s), {total('epochs_again')} epochs again, "
        f"{total('published')} published, {lost} lost, {doubled} doubled, "
        f"{len(violations)} violations, {seconds:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
