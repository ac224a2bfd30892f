"""The pure core of high availability: what is seen goes in, what to do comes out.

`decide` performs no I/O, reads no clock and logs nothing. The agent reads the world into a `View`,
asks, and carries the actions out; tests and the simulation ask the same function.

Invariant (rule 6 of the design): no view in which ``leadership`` is past its deadline leads to
anything but `Demote`, and none in which the lease is somebody else's leads to `Renew`.
Proved by ``tests/unit/test_decision.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tts_tasks.coordination.base import Lease
    from tts_workers.watchdog import Silence


@dataclass(frozen=True, slots=True)
class Leadership:
    """What a worker believes: it leads under this lease until the deadline on its own clock."""

    lease: Lease
    deadline_s: float
    renew_at_s: float


@dataclass(frozen=True, slots=True)
class View:
    """The world as one agent sees it at one moment."""

    me: str
    ready: bool  #: my engine has spoken
    draining: bool
    leadership: Leadership | None
    lease: Lease | None  #: what the store holds for my lane
    successor: str = ""  #: who alone may lead next, if that is ordered
    store_reachable: bool = True  #: False: ``lease`` and ``silences`` are old news
    silences: Mapping[str, Silence] = field(default_factory=dict)  #: by worker
    silence_limit_s: float = 3.0
    presence_grace_s: float = 0.15


@dataclass(frozen=True, slots=True)
class Acquire:
    """Try to become the primary of the lane."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Prolong the lease that is held."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Demote:
    """Stop leading at once, whatever the store says."""

    lease: Lease
    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove exactly this lease record from the store."""

    lease: Lease
    reason: str


@dataclass(frozen=True, slots=True)
class Recover:
    """Give a dead worker's jobs and messages back, and strike it off."""

    worker: str
    silent_s: float


Action = Acquire | Renew | Demote | Remove | Recover


def decide(view: View, now_s: float) -> list[Action]:
    """Return what the agent is to do now, in this order."""
    actions: list[Action] = []
    leads = view.leadership
    if leads is not None and now_s >= leads.deadline_s:
        actions.append(Demote(leads.lease, "the renew deadline passed"))
        leads = None
    if not view.store_reachable:
        return actions
    dead = {
        worker: silence
        for worker, silence in view.silences.items()
        if worker != view.me
        and silence.is_death(
            silence_limit_s=view.silence_limit_s, presence_grace_s=view.presence_grace_s
        )
    }
    actions += _about_the_lane(view, leads, dead, now_s)
    actions += [Recover(worker, dead[worker].silent_s) for worker in sorted(dead)]
    return actions


def _about_the_lane(
    view: View, leads: Leadership | None, dead: Mapping[str, Silence], now_s: float
) -> list[Action]:
    if leads is not None:
        return _as_primary(view, leads, now_s)
    candidate = view.ready and not view.draining and view.successor in ("", view.me)
    if view.lease is None:
        return [Acquire()] if candidate else []
    if view.lease.holder == view.me:
        # Ours, but not believed in: a reply that was lost, or a demotion. Never adopt it, because
        # its deadline is unknown; remove it and start under a new epoch.
        return [Remove(view.lease, "left over from an earlier leadership")]
    if view.lease.holder in dead:
        silence = dead[view.lease.holder]
        why = "its connection was closed" if silence.absent_s else "it is silent"
        removal = Remove(view.lease, f"{why}: no heartbeat for {silence.silent_s:.1f} s")
        return [removal, Acquire()] if candidate else [removal]
    return []


def _as_primary(view: View, leads: Leadership, now_s: float) -> list[Action]:
    if view.lease != leads.lease:
        return [Demote(leads.lease, "the lease is gone or somebody else's")]
    if view.draining or not view.ready:
        why = "draining" if view.draining else "the engine is not ready"
        return [Demote(leads.lease, why), Remove(leads.lease, why)]
    if view.successor not in ("", view.me):
        why = f"switchover to {view.successor}"
        return [Demote(leads.lease, why), Remove(leads.lease, why)]
    return [Renew(leads.lease)] if now_s >= leads.renew_at_s else []
