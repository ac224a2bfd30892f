"""Tells operators what they want to be told: a failover is done, a lane has no primary.

The agent says what it sees (`Notices.observe`, `Notices.acquired`); both return at once and do no
I/O. Everything that may take time happens in other threads: one that completes a notice, and one
for each target.

A failover is told once for each epoch, by the worker that acquired the lease: nobody else can. It
is best effort in one way: a worker that dies before its notice is delivered takes it with it.
Proved by ``tests/unit/test_notices.py``.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import redis

from tts_tasks import keys
from tts_tasks.clock import Clock, boottime_s
from tts_tasks.events import utc_now
from tts_tasks.redis_connection import connect
from tts_workers.notice_courier import QUEUE_LIMIT, Courier, Retries
from tts_workers.notice_targets import Notice, targets_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_tasks.coordination.base import Lease
    from tts_tasks.events import EventLog
    from tts_tasks.redis_connection import RedisClient
    from tts_tasks.settings import Settings
    from tts_workers.notice_targets import Target

logger = logging.getLogger(__name__)

FAILOVER = "lane.failover"
NO_PRIMARY = "lane.no_primary"
#: A lane may be without a primary for so many times ``lease_ttl_s`` before that is told.
NO_PRIMARY_AFTER_TTLS = 2
#: How long the mark stays by which workers know that a loss has been told.
MARK_TTL_S = 24 * 3600
#: Why the old leadership ended is looked for in the events of this long, so often, this far apart:
#: whoever deposed writes that down a moment after the successor could acquire.
_ENDED_WITHIN_S, _LOOKS, _LOOK_AGAIN_S = 120.0, 5, 0.2
#: Who is told of in one of these has led.
_BELIEVED = ("lease.acquired", "lease.demoted")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a leadership ended."""

    epoch: int
    holder: str
    reason: str


class Memory(Protocol):
    """What a notice needs of the store."""

    def first_to_tell(self, lane: str, epoch: int) -> int | None:
        """Return the epoch of a loss (0: the lane's last) if it is this worker's to tell."""
        ...

    def ending_before(self, lane: str, epoch: int, successor: str) -> Ending | None:
        """Return the last known ending of a leadership of the lane before this epoch.

        A lease that the ``successor`` itself was granted and never led under was no leadership:
        the store's answer was lost, or came too late.
        """
        ...

    def leader_before(self, lane: str, epoch: int) -> str | None:
        """Return who led the lane last before this epoch, however long ago."""
        ...


class RedisMemory:
    """Marks in Redis which losses have been told, and reads endings in the stream of events."""

    def __init__(self, client: RedisClient, events: EventLog, worker: str) -> None:
        self._client = client
        self._events = events
        self._worker = worker

    def first_to_tell(self, lane: str, epoch: int) -> int | None:
        """Set the mark; None if another worker has, or if the lane never had a primary.

        A store that does not answer lets everybody tell: the id of the notice is the same.
        """
        try:
            epoch = epoch or int(self._client.get(keys.epoch(lane)) or 0)
            if epoch == 0:
                return None
            mark = keys.loss_told(lane, epoch)
            return epoch if self._client.set(mark, self._worker, nx=True, ex=MARK_TTL_S) else None
        except redis.RedisError:
            return epoch or None

    def ending_before(self, lane: str, epoch: int, successor: str) -> Ending | None:
        """Read the stream; a removal of the lease tells more than the demotion beside it.

        Where operators ordered what happened, their reason is added.
        """
        found: dict[int, Ending] = {}
        led: set[int] = set()  #: epochs that somebody has believed in
        ordered: dict[tuple[str, str], str] = {}
        try:
            for event in self._events.read(since_s=_ENDED_WITHIN_S):
                if event["event"] in _BELIEVED and event.get("lane") == lane:
                    led.add(event.get("epoch", 0))
                match event:
                    case {"event": "lane.switchover", "old": holder, "new": to, "reason": why}:
                        ordered[holder, f"switchover to {to}"] = why
                    case {"event": "worker.drained", "worker": holder, "reason": why}:
                        ordered[holder, "draining"] = why
                    case {
                        "event": "lease.deposed" | "lease.released" | "lease.demoted" as name,
                        "lane": there,
                        "epoch": ended,
                        "holder": holder,
                        "reason": why,
                    } if (
                        there == lane
                        and ended < epoch
                        and not (name == "lease.demoted" and ended in found)
                    ):
                        found[ended] = Ending(ended, holder, why)
        except redis.RedisError:
            return None
        ends = [end for end in found.values() if end.holder != successor or end.epoch in led]
        if not ends:
            return None
        last = max(ends, key=lambda end: end.epoch)
        why = ordered.get((last.holder, last.reason))
        return replace(last, reason=f"{last.reason}: {why}") if why else last

    def leader_before(self, lane: str, epoch: int) -> str | None:
        """Read all events that are kept."""
        leader = None
        try:
            for event in self._events.read():
                match event:
                    case {"event": "lease.acquired", "lane": there, "epoch": led, "holder": holder}:
                        leader = holder if there == lane and led < epoch else leader
        except redis.RedisError:
            return None
        return leader


@dataclass(frozen=True, slots=True)
class _Happening:
    """What is to become a notice."""

    type: str
    lane: str
    epoch: int  #: of the new primary; for a loss, of the last one (0: not known)
    old: Lease | None
    gap_s: float
    new_holder: str | None = None
    time: str = field(default_factory=utc_now)


@dataclass
class _Lane:
    """What this worker has seen of a lane."""

    last: Lease | None = None
    looked_s: float | None = None
    gap_s: float = 0.0  #: for how long it has been seen without a lease
    told: bool = False


class Notices:
    """What the agent, or a watchdog, calls. Without targets no call has any effect."""

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        worker: str,
        events: EventLog,
        memory: Memory,
        no_primary_after_s: float,
        max_step_s: float,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        clock: Clock = boottime_s,
    ) -> None:
        """``max_step_s``: the most that one interval between two looks may count."""
        self._worker = worker
        self._memory = memory
        self._no_primary_after_s = no_primary_after_s
        self._max_step_s = max_step_s
        self._clock = clock
        self._lanes: dict[str, _Lane] = {}
        self._couriers = [Courier(t, events, retries=retries, clock=clock) for t in targets]
        self._happened: deque[_Happening] = deque(maxlen=QUEUE_LIMIT)
        self._due = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tts-notices", daemon=True)

    @classmethod
    def of(cls, settings: Settings, *, worker: str, events: EventLog) -> Notices:
        """Return what the settings ask for; raises `ConfigurationError`."""
        client = connect(settings.redis_url, timeout_s=settings.request_timeout_s, retries=0)
        return cls(
            targets_of(settings),
            worker=worker,
            events=events,
            memory=RedisMemory(client, events, worker),
            no_primary_after_s=NO_PRIMARY_AFTER_TTLS * settings.lease_ttl_s,
            max_step_s=settings.heartbeat_s,
        )

    def start(self) -> None:
        """Begin to deliver."""
        if self._couriers:
            for courier in self._couriers:
                courier.start()
            self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Deliver what can be delivered at once, and end; waits at most ``timeout_s``."""
        deadline_s = self._clock() + timeout_s
        self._closing.set()
        self._due.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        for courier in self._couriers:
            courier.close()
        for courier in self._couriers:
            courier.join(max(0.0, deadline_s - self._clock()))

    def observe(self, lane: str, lease: Lease | None) -> None:
        """Take in one reading of a lane's lease; call it only when the store has answered."""
        if not self._couriers:
            return
        seen = self._lanes.setdefault(lane, _Lane())
        now_s = self._clock()
        step_s = 0.0 if seen.looked_s is None else now_s - seen.looked_s
        seen.looked_s = now_s
        if lease is not None and lease.holder == self._worker and lease != seen.last:
            lease = None  # granted and never led under: its answer was lost, or came too late
        if lease is not None:
            seen.last, seen.gap_s, seen.told = lease, 0.0, False
            return
        # one who was suspended, or cut off, must not hold its own absence against the lane
        seen.gap_s += min(step_s, self._max_step_s)
        if seen.gap_s > self._no_primary_after_s and not seen.told:
            seen.told = True
            epoch = seen.last.epoch if seen.last else 0
            self._take(_Happening(NO_PRIMARY, lane, epoch, seen.last, seen.gap_s))

    def acquired(self, lane: str, lease: Lease) -> None:
        """Take in that this worker has just become the primary."""
        if not self._couriers:
            return
        seen = self._lanes.setdefault(lane, _Lane())
        old, gap_s = seen.last, seen.gap_s
        seen.last, seen.gap_s, seen.told = lease, 0.0, False
        if lease.epoch > 1:  # the very first leadership of a lane follows no other
            self._take(_Happening(FAILOVER, lane, lease.epoch, old, gap_s, lease.holder))

    def _take(self, happening: _Happening) -> None:
        self._happened.append(happening)
        self._due.set()

    # -- the thread that completes notices ----------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            self._due.wait()
            self._due.clear()
            while self._happened:
                self._hand_over(self._happened.popleft())

    def _hand_over(self, happening: _Happening) -> None:
        try:
            failover = happening.type == FAILOVER
            notice = self._of_failover(happening) if failover else self._of_loss(happening)
        except Exception:  # the thread must live on: it is the only one
            logger.exception("a notice about lane %s could not be made", happening.lane)
            return
        if notice is not None:
            for courier in self._couriers:
                courier.hand(notice)

    def _of_loss(self, loss: _Happening) -> Notice | None:
        epoch = self._memory.first_to_tell(loss.lane, loss.epoch)
        if epoch is None:
            return None
        holder = loss.old.holder if loss.old else None
        return self._notice(replace(loss, epoch=epoch), holder, "no worker has taken the lane")

    def _of_failover(self, failover: _Happening) -> Notice | None:
        holder, reason = self._end_before(failover)
        # Epochs do not begin at 1 where Redis was emptied: what counts is whether somebody led.
        holder = holder or self._memory.leader_before(failover.lane, failover.epoch)
        return self._notice(failover, holder, reason) if holder else None

    def _notice(self, what: _Happening, old_holder: str | None, reason: str) -> Notice:
        # a full stop separates what is signed
        id_ = f"{what.lane.replace('.', ':')}-{what.epoch}"
        before = old_holder or "not known"
        if what.type == FAILOVER:
            text = (
                f"Lane {what.lane} has a new primary: {what.new_holder}, epoch {what.epoch} "
                f"(before: {before}; {reason})."
            )
        else:
            id_ += "-lost"
            text = (
                f"Lane {what.lane} has had no primary for {what.gap_s:.1f} s "
                f"(the last one: {before}, epoch {what.epoch})."
            )
        data = {
            "lane": what.lane,
            "epoch": what.epoch,
            "old_holder": old_holder,
            "new_holder": what.new_holder,
            "reason": reason,
            "gap_s": round(what.gap_s, 3),
            "told_by": self._worker,
        }
        return Notice(id_, what.type, what.time, text, data)

    def _end_before(self, failover: _Happening) -> tuple[str | None, str]:
        """Return who led before, and why no longer."""
        old = failover.old
        ending = None
        for look in range(_LOOKS):
            if look and self._closing.wait(_LOOK_AGAIN_S):
                break
            successor = failover.new_holder or ""
            ending = self._memory.ending_before(failover.lane, failover.epoch, successor)
            if ending is not None and ending.epoch == failover.epoch - 1:
                return ending.holder, ending.reason
        if ending is not None and (old is None or ending.epoch >= old.epoch):
            return ending.holder, ending.reason
        return (old.holder if old else None), "its lease was gone"
