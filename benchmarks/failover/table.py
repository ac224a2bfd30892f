"""The figures as a table for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.table import columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.failover.figures import Spread, Summary

_HEADS = (
    "system",
    "fault",
    "n",
    "detection p50/p99",
    "takeover p50/p99",
    "begun p50/p99/max",
    "finished p50",
    "in hand p50/max",
    "jobs",
    "lost",
    "waiting",
    "doubled",
    "redone",
    "target (begun)",
)


def render(summaries: Sequence[Summary]) -> str:
    """Return one line a system and fault, all times in seconds after the fault."""
    lines = columns([_HEADS, *(_row(summary) for summary in summaries)])
    notes = {f"{summary.system}: {note}" for summary in summaries for note in summary.notes}
    return "\n".join([*lines, *sorted(notes)])


def _row(summary: Summary) -> tuple[str, ...]:
    watched_s, times = summary.watched_s, summary.times
    return (
        summary.system,
        str(summary.fault),
        str(summary.rounds),
        _times(times.get("detection"), watched_s, "p50_s", "p99_s"),
        _times(times.get("takeover"), watched_s, "p50_s", "p99_s"),
        _times(times.get("begun"), watched_s, "p50_s", "p99_s", "max_s"),
        _times(times.get("finished"), watched_s, "p50_s"),
        _times(times.get("in_hand"), watched_s, "p50_s", "max_s"),
        *(str(count) for count in summary.counts.values()),
        _verdict(summary),
    )


def _times(spread: Spread | None, watched_s: float, *names: str) -> str:
    """Return percentiles; what was not seen is longer than the round was watched."""
    if spread is None:
        return "-"
    values = [getattr(spread, name) for name in names]
    return " / ".join(f"> {watched_s:.0f}" if v is None else f"{v:.3f}" for v in values)


def _verdict(summary: Summary) -> str:
    if summary.target is None:
        return "-"
    words = "met" if summary.met else "MISSED"
    return f"{words}: p50 <= {summary.target.p50_s:g}, p99 <= {summary.target.p99_s:g}"
