"""Tables for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures import Metric, Plan, Row, Spread


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines of aligned cells, a rule under the first."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def render(plan: Plan, rows: Sequence[Row]) -> str:
    """Return one line a case: for each metric its median and range, and the ratio's median."""
    heads = ["", *([plan.x_title] if plan.x_title else []), "n"]
    for metric in plan.metrics:
        heads.append(f"{metric.title}, {metric.unit}" if metric.unit else metric.title)
        if metric.ratio:
            heads.append("of linear" if plan.per_x else "ratio")
    cells = [heads]
    for row in rows:
        n = max((s.n for s in row.spreads.values() if s), default=0)
        x = [] if not plan.x_title else ["-" if row.case.x is None else f"{row.case.x:g}"]
        line = [row.case.series, *x, str(n)]
        for metric in plan.metrics:
            line.append(_values(metric, row.spreads[metric.name]))
            if metric.ratio:
                line.append(_ratio(row.ratios[metric.name]))
        cells.append(line)
    notes = dict.fromkeys(f"{row.case}: {note}" for row in rows for note in row.notes)
    return "\n".join([*columns(cells), *notes])


def number(value: float) -> str:
    """Return three figures of a number, and all before its point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}" if abs(value) >= 0.1 else f"{value:.2g}"


def _values(metric: Metric, spread: Spread | None) -> str:
    if spread is None:
        return "-"
    median, low, high = (number(v * metric.scale) for v in (spread.median, spread.low, spread.high))
    return median if spread.n == 1 else f"{median} [{low}, {high}]"


def _ratio(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    median, low, high = (f"{v:.2f}" for v in (spread.median, spread.low, spread.high))
    return median if spread.n == 1 else f"{median} [{low}, {high}]"
