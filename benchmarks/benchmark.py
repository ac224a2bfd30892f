"""What all benchmarks share: options, interleaved repetitions, the record and the plot."""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import record
from benchmarks.figures import Case, Plan, Run, summarise
from benchmarks.table import render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark. ``measure`` does one case once; it also gets the repetition's number."""

    plan: Plan
    options: Mapping[str, Option]
    cases: Callable[[argparse.Namespace], Sequence[Case]]
    measure: Callable[[argparse.Namespace, Case, int], tuple[Run, str]]  #: and the server's version


@dataclass(frozen=True, slots=True)
class Option:
    """An option with its default and what ``--quick`` makes of it."""

    default: Any
    quick: Any
    help: str
    read: Callable[[str], Any] = int


def run(benchmark: Benchmark, arguments: Sequence[str]) -> int:
    """Measure, print the table, write record and plot."""
    options = parse(benchmark, arguments)
    cases = list(benchmark.cases(options))
    runs: list[Run] = []
    began_s = time.monotonic()
    measured_on = record.environment()
    for repeat in range(options.repeats):
        for case in cases:
            measured, server = benchmark.measure(options, case, repeat)
            measured_on["versions"]["redis-server"] = server
            runs.append(measured)
            _tell(time.monotonic() - began_s, measured)
    rows = summarise(benchmark.plan, runs)
    print(render(benchmark.plan, rows))
    folder = options.results or record.RESULTS / ("quick" if options.quick else "")
    path = folder / f"{benchmark.plan.name}.json"
    parameters = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    parameters.pop("results")
    told = record.document(
        benchmark.plan, runs, rows, parameters=parameters, measured_on=measured_on
    )
    record.write(path, told)
    print(f"{path}, {(time.monotonic() - began_s) / 60:.1f} min")
    _draw(benchmark.plan, runs, rows, path, told)
    return 0


def parse(benchmark: Benchmark, arguments: Sequence[str]) -> argparse.Namespace:
    """Read options; ``--quick`` changes defaults, not what is given."""
    name = benchmark.plan.name
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=benchmark.plan.title,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run: its figures are noise")
    parser.add_argument("--repeats", type=int, default=5, help="of all cases, in turns")
    parser.add_argument("--seed", type=int, default=None, help="of random moments; default: any")
    parser.add_argument(
        "--results", type=Path, default=None, help="folder of the record and the plot"
    )
    for word, option in benchmark.options.items():
        said = option.help.replace("%", "%%")
        parser.add_argument(f"--{word}", type=option.read, default=option.default, help=said)
    quick, _ = parser.parse_known_args(arguments)
    if quick.quick:
        changed = {w.replace("-", "_"): option.quick for w, option in benchmark.options.items()}
        parser.set_defaults(repeats=1, **changed)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    return options


def numbers(text: str) -> list[float]:
    """Read a list like ``0,5,20``."""
    return [float(word) for word in text.split(",")]


def counts(text: str) -> list[int]:
    """Read a list like ``1000,1e5``; raises ValueError for what is no whole number above 0."""
    found = numbers(text)
    if any(value < 1 or value != int(value) for value in found):
        raise ValueError(text)
    return [int(value) for value in found]


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what reads a list of known names, separated by commas."""

    def read(text: str) -> list[str]:
        given = text.split(",")
        if unknown := [word for word in given if word not in known]:
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r}; there are: {', '.join(known)}")
        return given

    return read


def _tell(elapsed_s: float, measured: Run) -> None:
    seen = ", ".join(
        f"{name} {value:.6g}" for name, value in measured.values.items() if value is not None
    )
    print(
        f"[{elapsed_s / 60:5.1f} min] {measured.repeat} {measured.case}: {seen} {measured.note}",
        file=sys.stderr,
        flush=True,
    )


def _draw(
    plan: Plan, runs: Sequence[Run], rows: Sequence[Any], path: Path, told: Mapping[str, Any]
) -> None:
    try:
        from benchmarks.plots import draw
    except ModuleNotFoundError as error:
        print(f"no plot without matplotlib ({error}): make bench installs it", file=sys.stderr)
        return
    commit = str(told["commit"] or "unknown")[:10]
    caption = f"{told['date']}, commit {commit}, {told['cores']} cores, {len(runs)} runs"
    draw(plan, runs, rows, path.with_suffix(".svg"), caption)
