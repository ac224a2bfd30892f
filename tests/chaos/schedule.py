"""Which faults come in which order: a pure function of the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos import faults, outages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.chaos.faults import Fault

KINDS: tuple[type[Fault], ...] = (
    faults.KillParent,
    faults.KillGroup,
    faults.KillAtPublish,
    faults.KillChild,
    faults.Terminate,
    faults.PauseParentShortly,
    faults.PauseChildShortly,
    faults.PauseBothShortly,
    faults.PauseParentLong,
    faults.PauseChildLong,
    faults.PauseBothLong,
    faults.PauseAtPublish,
    faults.Hang,
    outages.PartitionToStore,
    outages.PartitionFromStore,
    outages.PartitionBoth,
    outages.PartitionRefused,
    outages.HalfOpen,
    outages.Reset,
    outages.PauseStore,
    outages.KillStore,
    outages.ClockForward,
    outages.ClockBack,
    outages.DiskFull,
)

_PRIMARY_SHARE = 0.75
#: From the second round on, a fault may begin while others are held.
_OVERLAP_SHARE = 0.35
_GAP_S = (0.2, 1.5)
_LONG_GAP_S = (0.0, 6.0)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault to come."""

    kind: type[Fault]
    round: int  #: the first holds every kind once
    hold_s: float
    gap_s: float  #: between the last fault and this one
    on_primary: bool
    may_overlap: bool


def steps(seed: int, kinds: Sequence[type[Fault]] = KINDS) -> Iterator[Step]:
    """Yield steps without end; each round is every kind once, in another order."""
    rng = random.Random(f"{seed} schedule")
    number = 0
    while True:
        for kind in rng.sample(kinds, len(kinds)):
            yield Step(
                kind=kind,
                round=number,
                hold_s=round(rng.uniform(*kind.hold_s), 2),
                gap_s=round(rng.uniform(*(_LONG_GAP_S if number else _GAP_S)), 2),
                on_primary=rng.random() < _PRIMARY_SHARE,
                may_overlap=number > 0 and rng.random() < _OVERLAP_SHARE,
            )
        number += 1
