"""A record as an SVG: bars where cases have names only, lines where they lie on an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "tts-tasks"  # the same figures make the same file
mpl.rcParams["svg.fonttype"] = "none"

from matplotlib import pyplot as plt  # noqa: E402 - after the backend was chosen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.figures import Metric, Plan, Row, Run

_COLOUR, _DOTS = "#4c72b0", "#222222"


def draw(plan: Plan, runs: Sequence[Run], rows: Sequence[Row], path: Path, caption: str) -> None:
    """Write the plot: medians, and every single run as a dot."""
    metrics = [m for m in plan.metrics if any(row.spreads[m.name] for row in rows)]
    on_an_axis = any(row.case.x is not None for row in rows)
    lines, height = -(-len(metrics) // 2), 2.6 if on_an_axis else 0.8 + 0.28 * len(rows)
    figure, axes = plt.subplots(
        lines, 2, figsize=(11, 0.6 + height * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(metrics) :]:
        axis.remove()
    for metric, axis in zip(metrics, axes.flat, strict=False):
        if on_an_axis:
            _lines(axis, plan, metric, rows, runs)
        else:
            _bars(axis, metric, rows, runs)
    figure.suptitle(plan.title, fontsize="medium")
    figure.supxlabel(caption, fontsize="x-small", color="#666666")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _title(metric: Metric) -> str:
    return f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def _bars(axis: Any, metric: Metric, rows: Sequence[Row], runs: Sequence[Run]) -> None:
    names = [str(row.case) for row in rows]
    medians = [spread.median * metric.scale if (spread := row.spreads[metric.name]) else 0.0
               for row in rows]  # fmt: skip
    axis.barh(names, medians, color=_COLOUR)
    dots = [
        (value * metric.scale, str(run.case))
        for run in runs
        if (value := run.values.get(metric.name)) is not None
    ]
    axis.plot([x for x, _ in dots], [y for _, y in dots], ".", color=_DOTS, markersize=4)
    axis.invert_yaxis()
    axis.set_title(_title(metric), fontsize="small", loc="left")
    axis.tick_params(labelsize="small")


def _lines(axis: Any, plan: Plan, metric: Metric, rows: Sequence[Row], runs: Sequence[Run]) -> None:
    shown = [
        (row.case.series, row.case.x, spread.median * metric.scale)
        for row in rows
        if (spread := row.spreads[metric.name])
    ]
    for number, series in enumerate(dict.fromkeys(row.case.series for row in rows)):
        points = [(x, value) for name, x, value in shown if name == series]
        if not points:
            continue
        axis.plot([x for x, _ in points], [y for _, y in points], label=series, color=f"C{number}")
        dots = [
            (run.case.x, value * metric.scale)
            for run in runs
            if run.case.series == series and (value := run.values.get(metric.name)) is not None
        ]
        axis.plot([x for x, _ in dots], [y for _, y in dots], ".", color=f"C{number}")
    xs = sorted({x for _, x, _ in shown if x is not None})
    if _spans_decades(xs):
        axis.set_xscale("log")
    axis.set_xticks(xs, [f"{x:,.0f}" for x in xs])
    if _spans_decades([value for *_, value in shown]):
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.minorticks_off()
    axis.set_xlabel(plan.x_title, fontsize="small")
    axis.set_title(_title(metric), fontsize="small", loc="left")
    axis.tick_params(labelsize="small")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="x-small")


def _spans_decades(values: Sequence[float]) -> bool:
    return bool(values) and 0 < 8 * min(values) <= max(values)
