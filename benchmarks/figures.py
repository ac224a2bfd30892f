"""From runs to figures: medians, their spread, and ratios within a repetition. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is measured: a system or a situation, and where on the x axis it lies."""

    series: str
    x: float | None = None

    def __str__(self) -> str:
        return self.series if self.x is None else f"{self.series} @ {self.x:g}"


@dataclass(frozen=True, slots=True)
class Run:
    """One case, measured once. A value that there is not is None, and says so in the table."""

    case: Case
    repeat: int  #: from 0; the runs of a repetition follow each other
    values: dict[str, float | None]  #: by the names of the metrics
    samples: dict[str, list[float]] = field(default_factory=dict)  #: what values were made of
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        told = {"series": self.case.series, "x": self.case.x, "repeat": self.repeat}
        return told | {"values": self.values, "samples": self.samples, "note": self.note}


@dataclass(frozen=True, slots=True)
class Metric:
    """A column. ``scale`` turns a value (SI: s, bytes, 1/s) into ``unit``."""

    name: str
    title: str
    unit: str = ""
    scale: float = 1.0
    ratio: bool = True  #: whether a ratio against the baseline says something


@dataclass(frozen=True, slots=True)
class Plan:
    """What a benchmark measures, and what its cases are compared with."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    baseline: Callable[[Case], Case]  #: the case that a case is divided by
    x_title: str = ""
    per_x: bool = False  #: ratios are divided by x / x of the baseline too: 1.00 is linear


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repetitions, and between what they lay."""

    n: int
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """Describe the values that there are; None when there are none."""
        seen = [value for value in values if value is not None]
        if not seen:
            return None
        return cls(len(seen), statistics.median(seen), min(seen), max(seen))


@dataclass(frozen=True, slots=True)
class Row:
    """All repetitions of one case, by the names of the metrics."""

    case: Case
    spreads: dict[str, Spread | None]
    ratios: dict[str, Spread | None]  #: of the pairs of a repetition, not of the medians
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""

        def plain(spreads: dict[str, Spread | None]) -> dict[str, Any]:
            return {
                name: s and {"n": s.n, "median": s.median, "low": s.low, "high": s.high}
                for name, s in spreads.items()
            }

        told = {"series": self.case.series, "x": self.case.x, "values": plain(self.spreads)}
        return told | {"ratios": plain(self.ratios), "notes": list(self.notes)}


def summarise(plan: Plan, runs: Sequence[Run]) -> list[Row]:
    """Group runs by case, in the order in which they came first."""
    by_case: dict[Case, list[Run]] = {}
    for run in runs:
        by_case.setdefault(run.case, []).append(run)
    found = {(run.case, run.repeat): run for run in runs}
    return [
        Row(
            case,
            {m.name: Spread.of([run.values.get(m.name) for run in group]) for m in plan.metrics},
            {
                m.name: Spread.of([_ratio(plan, m.name, run, found) for run in group])
                for m in plan.metrics
                if m.ratio
            },
            tuple(dict.fromkeys(run.note for run in group if run.note)),
        )
        for case, group in by_case.items()
    ]


def _ratio(plan: Plan, name: str, run: Run, found: dict[tuple[Case, int], Run]) -> float | None:
    """Divide a run by the baseline's of the same repetition; the baseline itself is 1."""
    against = plan.baseline(run.case)
    other = found.get((against, run.repeat))
    value, base = run.values.get(name), other and other.values.get(name)
    if value is None or not base:
        return None
    ratio = value / base
    if plan.per_x and run.case.x and against.x:
        ratio /= run.case.x / against.x
    return ratio
