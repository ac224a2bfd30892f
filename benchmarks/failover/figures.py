"""From rounds to figures: percentiles, and whether a target was met. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.failover.rounds import target_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.failover.rounds import Fault, Round, Target

#: The times of a round, by the names that the summary gives them.
TIMES = {
    "detection": "detected_s",
    "takeover": "leased_s",
    "begun": "begun_s",
    "finished": "finished_s",
    "in_hand": "in_hand_s",
}
COUNTS = ("jobs", "lost", "waiting", "doubled", "redone")


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution. A percentile is None when it lies among the times that were not seen."""

    n: int
    seen: int
    p50_s: float | None
    p99_s: float | None
    max_s: float | None


def percentile(times_s: Sequence[float], share: float) -> float:
    """Return the smallest time that at least ``share`` (0 < share ≤ 1) of all do not exceed.

    The nearest-rank definition: always a time that was measured, so that of 50 rounds the p99 is
    the worst. Raises ValueError for no times.
    """
    if not times_s:
        raise ValueError("there is no percentile of nothing")
    return sorted(times_s)[max(0, math.ceil(share * len(times_s)) - 1)]


def spread(times_s: Sequence[float | None]) -> Spread:
    """Describe times of which some were not seen (None): those were longer than all others."""
    ordered = [math.inf if time_s is None else time_s for time_s in times_s]
    if not ordered:
        return Spread(0, 0, None, None, None)
    p50_s, p99_s, max_s = (percentile(ordered, share) for share in (0.5, 0.99, 1.0))
    seen = sum(map(math.isfinite, ordered))
    return Spread(len(ordered), seen, _seen(p50_s), _seen(p99_s), _seen(max_s))


def _seen(time_s: float) -> float | None:
    return round(time_s, 4) if math.isfinite(time_s) else None


@dataclass(frozen=True, slots=True)
class Summary:
    """All rounds of one system under one fault."""

    system: str
    fault: Fault
    rounds: int
    watched_s: float  #: for how long a round was watched, at least
    times: dict[str, Spread]  #: by the names of `TIMES`, without those that the system lacks
    counts: dict[str, int]
    target: Target | None
    notes: tuple[str, ...]

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None where there is none."""
        if self.target is None:
            return None
        begun = self.times["begun"]
        if begun.p50_s is None or begun.p99_s is None:
            return False
        return begun.p50_s <= self.target.p50_s and begun.p99_s <= self.target.p99_s

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self) | {"met": self.met}


def summarise(rounds: Sequence[Round], *, ours: str, silence_s: float) -> list[Summary]:
    """Group rounds by system and fault, in the order in which they came."""
    groups: dict[tuple[str, Fault], list[Round]] = {}
    for measured in rounds:
        groups.setdefault((measured.system, measured.fault), []).append(measured)
    return [
        Summary(
            system=system,
            fault=fault,
            rounds=len(group),
            watched_s=min(measured.watched_s for measured in group),
            times={
                name: spread([getattr(measured, field) for measured in group])
                for name, field in TIMES.items()
                if name not in group[0].lacks
            },
            counts={name: sum(getattr(measured, name) for measured in group) for name in COUNTS},
            target=target_of(fault, silence_s=silence_s) if system == ours else None,
            notes=tuple(dict.fromkeys(m.note for m in group if m.note)),
        )
        for (system, fault), group in groups.items()
    ]
