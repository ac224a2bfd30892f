"""Who believed when to lead a lane, and which overlaps of beliefs are excused.

A belief begins at ``lease.acquired``. It ends at ``lease.demoted`` of the same holder and epoch, or
when its process was reaped, whichever is first. Where neither is known, the end is unknown: it lies
at most ``renew_deadline_s`` after the last possible renewal, that is, after the lease was removed
or taken by somebody else. An unknown end is never counted as a failure.

What a known end may overlap with the next belief, and why (D is ``renew_deadline_s``, S the slack
of a busy machine):

parent-paused     until S after the pause: a stopped process acts on nothing, and the first thing
                  that runs in it when it wakes ends the belief
cut               until begin + D + S: nothing renews after the cut; a rival may come at once where
                  Redis saw the connection close
connections-lost  until end + D + S: Redis saw the connection close, and the rival was faster than
                  the holder's next reading
store-away        until end + D + S: the lease lapsed, or all connections were closed at once, and
                  the holder hears of it with its next reading, at the latest at its deadline
ttl-moved         until end + D + S: the lease vanished; the holder hears of it as above

Whatever the excuse, without a pause no belief outlives the loss of its lease by more than D + S.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos.history import FaultSpan, History, node_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Threads of a busy machine of two cores run that late.
SLACK_S = 0.5
#: Of two clocks readings in two processes, one after the other by the order of Redis.
_ORDER_S = 0.02


@dataclass(frozen=True, slots=True)
class Belief:
    """A worker's belief that it leads a lane."""

    lane: str
    holder: str
    epoch: int
    begin_s: float
    end_s: float
    end_known: bool

    def __str__(self) -> str:
        end = f"{self.end_s:.3f}" if self.end_known else f"unknown, at most {self.end_s:.3f}"
        return f"epoch {self.epoch} of {self.holder} [{self.begin_s:.3f}, {end}]"


def beliefs(history: History) -> list[Belief]:
    """Return all beliefs, by lane and begin."""
    acquired = [
        (e["fields"]["lane"], float(e["at_s"]), e["fields"]["holder"], int(e["fields"]["epoch"]))
        for e in history.events("lease.acquired")
    ]
    return [
        _belief(history, lane, holder, epoch, begin_s, acquired)
        for lane, begin_s, holder, epoch in sorted(acquired)
    ]


def _belief(
    history: History,
    lane: str,
    holder: str,
    epoch: int,
    begin_s: float,
    acquired: list[tuple[str, float, str, int]],
) -> Belief:
    def ends_of(name: str) -> list[float]:
        return [
            float(e["at_s"])
            for e in history.events(name)
            if e["fields"]["holder"] == holder and int(e["fields"]["epoch"]) == epoch
        ]

    known = ends_of("lease.demoted")
    reaped_s = history.ended_nodes.get(node_of(holder))
    if reaped_s is not None:
        known.append(reaped_s)
    if known:
        return Belief(lane, holder, epoch, begin_s, min(known), end_known=True)
    lost = ends_of("lease.deposed") + ends_of("lease.released")
    lost += [at_s for other, at_s, _, later in acquired if other == lane and later > epoch]
    bound_s = min(lost, default=history.end_s) + float(history.run["renew_deadline_s"])
    return Belief(lane, holder, epoch, begin_s, bound_s, end_known=False)


def unexcused_overlaps(history: History) -> Iterator[str]:
    """Describe each overlap of two beliefs in a lane that nothing recorded excuses."""
    found = beliefs(history)
    for first in found:
        for second in found:
            if second.lane != first.lane or second.epoch <= first.epoch or not first.end_known:
                continue
            if second.holder == first.holder:
                continue
            overlap_s = min(first.end_s, second.end_s) - second.begin_s
            if overlap_s <= _ORDER_S or _is_excused(history, first, second):
                continue
            yield f"{first} overlaps {second} by {overlap_s:.3f} s, and no fault excuses it"


def _is_excused(history: History, first: Belief, second: Belief) -> bool:
    """Whether a fault on the earlier holder covers the overlap from its first to its last moment.

    An excuse may begin after the rival's belief by no more than the order of clocks.
    """
    until_s = min(first.end_s, second.end_s)
    return any(
        fault.hurts(node_of(first.holder))
        and fault.begin_s <= second.begin_s + _ORDER_S
        and until_s <= _excused_until_s(history, fault)
        for fault in history.faults
    )


def _excused_until_s(history: History, fault: FaultSpan) -> float:
    deadline_s = float(history.run["renew_deadline_s"])
    until_s = [fault.begin_s]
    if "parent-paused" in fault.effects:
        until_s.append(fault.end_s + SLACK_S)
    if "cut" in fault.effects:
        until_s.append(fault.begin_s + deadline_s + SLACK_S)
    if fault.effects & {"connections-lost", "store-away", "ttl-moved"}:
        until_s.append(fault.end_s + deadline_s + SLACK_S)
    return max(until_s)


def overdue(history: History) -> Iterator[str]:
    """Describe each belief that outlived its lease, or a cut, by more than D (rule 6)."""
    deadline_s = float(history.run["renew_deadline_s"])
    found = beliefs(history)
    for belief in found:
        if not belief.end_known:
            continue
        starts = [
            (later.begin_s, f"epoch {later.epoch} began")
            for later in found
            if later.lane == belief.lane and later.epoch > belief.epoch
        ]
        # Of these, nothing that the holder sends is heard, or nothing that it is told arrives.
        starts += [
            (fault.begin_s, f"{fault.name} began")
            for fault in history.faults_with("cut", "store-away")
            if fault.hurts(node_of(belief.holder))
            and belief.begin_s <= fault.begin_s
            and fault.end_s >= fault.begin_s + deadline_s + SLACK_S
        ]
        for start_s, what in starts:
            late_s = belief.end_s - (start_s + deadline_s)
            if late_s > SLACK_S and not _was_paused(history, belief, start_s):
                yield f"{belief} ended {late_s:.3f} s after its deadline, counted from when {what}"


def _was_paused(history: History, belief: Belief, since_s: float) -> bool:
    """Whether the holder was stopped between a moment and its belief's end: its end may be late."""
    return any(
        fault.node == node_of(belief.holder)
        and fault.begin_s <= belief.end_s
        and fault.end_s >= since_s
        and belief.end_s <= fault.end_s + SLACK_S
        for fault in history.faults_with("parent-paused")
    )
