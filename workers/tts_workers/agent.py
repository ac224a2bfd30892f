"""The HA loop of a worker: reads the world, asks `decide`, carries the answer out.

It runs in threads of the worker's parent process, never in Celery's event loop, which stands
still while the broker does. Three threads: one that beats, reads and decides; one that does no
I/O and ends a leadership whose deadline has passed (rule 6), whatever the first is waiting for;
and one for the chores, so that giving back a dead worker's jobs delays no renewal.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Protocol

from tts_tasks.clock import Clock, boottime_s
from tts_tasks.coordination.base import Lease, WorkerRecord, record_ttl_s
from tts_tasks.errors import UnavailableError
from tts_workers.decision import (
    Acquire,
    Action,
    Demote,
    Leadership,
    Recover,
    Remove,
    Renew,
    View,
    decide,
)
from tts_workers.watchdog import Silence, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tts_tasks.coordination import Coordinator
    from tts_tasks.events import EventLog
    from tts_tasks.settings import Settings

logger = logging.getLogger(__name__)

#: Readings of the world in one heartbeat.
TICKS_PER_HEARTBEAT = 4


class Rescue(Protocol):
    """What the agent needs done for the dead (see `tts_workers.recovery`)."""

    def recover(self, worker_id: str, *, silent_s: float) -> None:
        """Give back everything a dead worker held."""
        ...

    def give_back_claims(self, worker_id: str) -> list[str]:
        """Release and ring for the jobs of this worker's dead child."""
        ...

    def reconcile(self, queue: str, working_on: Mapping[str, str]) -> int:
        """Ring for what nobody holds; ``working_on``: each living worker's job."""
        ...

    def complete_batches(self) -> None:
        """Write missing reports."""
        ...


@dataclass(frozen=True, slots=True)
class Role:
    """What the consumer and the child must know: whether this worker serves, and leads."""

    serving: bool  #: ready and not draining
    leadership: Leadership | None


class Agent:
    """One worker's part in the cluster."""

    def __init__(
        self,
        settings: Settings,
        record: WorkerRecord,
        *,
        coordinator: Coordinator,
        rescue: Rescue,
        events: EventLog,
        on_role: Callable[[Role], None],
        clock: Clock = boottime_s,
    ) -> None:
        self._settings = settings
        self._record = record
        self._coordinator = coordinator
        self._rescue = rescue
        self._events = events
        self._on_role = on_role
        self._clock = clock
        self._tick_s = settings.heartbeat_s / TICKS_PER_HEARTBEAT
        self._watchdog = Watchdog(max_step_s=2 * self._tick_s + settings.request_timeout_s)
        self._mutex = threading.RLock()
        self._leadership: Leadership | None = None
        self._leadership_changed = threading.Condition(self._mutex)
        self._last_role: Role | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._next_beat_s = 0.0
        self._next_reconcile_s = 0.0
        self._child_died = False
        self._dead: dict[str, float] = {}  #: workers to recover, by their silence in seconds
        self._members: dict[str, str] = {}  #: registered workers and what each works on
        self._chores_due = threading.Event()
        self._store_answered = True
        self.store_failures = 0  #: requests that the store did not answer
        self._threads = [
            threading.Thread(target=self._run, name="tts-agent", daemon=True),
            threading.Thread(target=self._guard_deadline, name="tts-deadline", daemon=True),
            threading.Thread(target=self._run_chores, name="tts-chores", daemon=True),
        ]

    # -- what the worker tells the agent ------------------------------------------------------

    def start(self) -> None:
        """Join the cluster."""
        for thread in self._threads:
            thread.start()

    def drain(self) -> None:
        """Take no new work and hand the lane over at once; what is running goes on."""
        self._change(draining=True)

    def leave(self) -> None:
        """Leave the cluster: last heartbeat, no record left behind."""
        self._stopping.set()
        self._wake.set()
        self._chores_due.set()
        with self._mutex:
            self._leadership_changed.notify_all()
        self._threads[0].join(timeout=5 * self._settings.request_timeout_s + self._tick_s)

    def child_said(self, message: dict[str, Any]) -> None:
        """Hear from the child: it is ready, or its engine does not load."""
        if message.get("event") == "job":
            with self._mutex:  # told with the next heartbeat
                self._record = replace(self._record, job=message["job"])
        elif message.get("event") == "ready":
            self._change(
                ready=True,
                engine=message["engine"],
                fingerprint=message["fingerprint"],
                capabilities=message["capabilities"],
            )
            self._events.emit("worker.ready", worker=self.id, engine=message["engine"])
        elif message.get("event") == "load_failed":
            self._events.emit("engine.load_failed", worker=self.id, reason=message["reason"])
            logger.error("the engine does not load: %s", message["reason"])

    def child_lost(self, pid: int) -> None:
        """Learn that the child died: its job goes back, and the lane to somebody else."""
        if not self._stopping.is_set():
            if not self._record.draining:
                logger.warning("the engine's process %d is gone", pid)
            self._child_died = True
            self._chores_due.set()
            self._change(ready=False, job="")

    @property
    def id(self) -> str:
        """This worker's id."""
        return self._record.id

    @property
    def leadership(self) -> Leadership | None:
        """What this worker believes now."""
        with self._mutex:
            return self._leadership

    def _change(self, **fields: Any) -> None:
        with self._mutex:
            self._record = replace(self._record, **fields)
            self._next_beat_s = 0.0
            self._publish_role()
        self._wake.set()

    # -- the loop that talks to the store -----------------------------------------------------

    def _run(self) -> None:
        rng = SystemRandom()  # engines reseed `random`
        self._events.emit("worker.joined", worker=self.id, device=self._record.device)
        while not self._stopping.is_set():
            self._wake.clear()
            self._survive(self.tick)
            self._wake.wait(self._tick_s * rng.uniform(0.9, 1.1))
        self._depart()

    def tick(self) -> None:
        """Beat, read, decide, act: once."""
        try:
            self._beat_if_due()
            lease, silences = self._read()
        except UnavailableError as error:
            self._note_store_failure(error)
            self._carry_out(self._decide(None, {}, reachable=False))
            return
        self._store_answered = True
        self._carry_out(self._decide(lease, silences, reachable=True))

    def _note_store_failure(self, error: UnavailableError) -> None:
        self.store_failures += 1
        if self._store_answered:
            logger.warning("the store does not answer: %s", error)
        self._store_answered = False

    def _beat_if_due(self) -> None:
        presence = self._coordinator.presence()
        now_s = self._clock()
        with self._mutex:
            if now_s < self._next_beat_s and presence == self._record.presence:
                return
            self._record = replace(self._record, beat=self._record.beat + 1, presence=presence)
            record = self._record
        self._coordinator.beat(record, record_ttl_s(self._settings.heartbeat_s))
        with self._mutex:
            if self._record is record:  # else it changed meanwhile, and is to be said at once
                self._next_beat_s = now_s + self._settings.heartbeat_s

    def _read(self) -> tuple[Lease | None, dict[str, Silence]]:
        lease = self._coordinator.read(self._settings.lane_key)
        workers = self._coordinator.workers()
        self._members = {id_: record.job if record else "" for id_, record in workers.items()}
        if lease is not None:
            workers.setdefault(lease.holder, None)  # a holder that nobody registered is watched too
        absent = self._coordinator.absent(workers)
        return lease, self._watchdog.observe(workers, self._clock(), absent=absent)

    def _decide(
        self, lease: Lease | None, silences: dict[str, Silence], *, reachable: bool
    ) -> list[Action]:
        with self._mutex:
            view = View(
                me=self.id,
                ready=self._record.ready,
                draining=self._record.draining,
                leadership=self._leadership,
                lease=lease,
                store_reachable=reachable,
                silences=silences,
                silence_limit_s=self._settings.silence_s,
                presence_grace_s=self._settings.presence_grace_s,
            )
        return decide(view, self._clock())

    def _carry_out(self, actions: list[Action]) -> None:
        lane = self._settings.lane_key
        for action in actions:
            match action:
                case Demote(lease, reason):
                    self._demote(lease, reason)
                case Renew(lease):
                    self._renew(lane, lease)
                case Acquire():
                    self._acquire(lane)
                case Remove(lease, reason):
                    if self._coordinator.remove(lane, lease):
                        name = "lease.released" if lease.holder == self.id else "lease.deposed"
                        self._events.emit(
                            name,
                            lane=lane,
                            holder=lease.holder,
                            epoch=lease.epoch,
                            by=self.id,
                            reason=reason,
                        )
                case Recover(worker, silent_s):
                    self._dead[worker] = silent_s
                    self._chores_due.set()

    def _acquire(self, lane: str) -> None:
        asked_s = self._clock()  # before the request is sent: a slow answer shortens our time
        lease = self._coordinator.acquire(lane, self.id, self._settings.lease_ttl_s)
        if lease is not None:
            self._lead(lease, asked_s)
            self._events.emit("lease.acquired", lane=lane, holder=self.id, epoch=lease.epoch)
            logger.info("primary of lane %s, epoch %d", lane, lease.epoch)

    def _renew(self, lane: str, lease: Lease) -> None:
        asked_s = self._clock()
        if self._coordinator.renew(lane, lease, self._settings.lease_ttl_s):
            self._lead(lease, asked_s)
        else:
            self._demote(lease, "the renewal was refused")

    def _lead(self, lease: Lease, asked_s: float) -> None:
        leadership = Leadership(
            lease,
            deadline_s=asked_s + self._settings.renew_deadline_s,
            renew_at_s=asked_s + self._settings.heartbeat_s,
        )
        with self._mutex:
            if self._clock() >= leadership.deadline_s:
                return  # the answer came too late to be believed
            self._leadership = leadership
            self._leadership_changed.notify_all()
            self._publish_role()

    def _demote(self, lease: Lease, reason: str) -> None:
        with self._mutex:
            if self._leadership is None or self._leadership.lease != lease:
                return
            self._leadership = None
            self._publish_role()
        logger.warning("no longer primary of lane %s: %s", self._settings.lane_key, reason)
        self._events.emit(
            "lease.demoted",
            lane=self._settings.lane_key,
            holder=self.id,
            epoch=lease.epoch,
            reason=reason,
        )

    def _depart(self) -> None:
        with self._mutex:
            leadership = self._leadership
        try:
            if leadership is not None:
                self._demote(leadership.lease, "leaving")
                self._coordinator.remove(self._settings.lane_key, leadership.lease)
            self._rescue.give_back_claims(self.id)
            self._coordinator.forget(self.id)
        except UnavailableError as error:
            logger.warning("left without saying so: %s", error)
        self._events.emit("worker.left", worker=self.id)

    # -- the thread for the chores ------------------------------------------------------------

    def _run_chores(self) -> None:
        while not self._stopping.is_set():
            self._chores_due.wait(self._tick_s)
            self._chores_due.clear()
            self.do_chores()

    def do_chores(self) -> None:
        """Give back what the dead held, ring for what nobody holds.

        Each chore stands for itself: one that fails is done again and keeps none of the others.
        """
        if self._child_died:
            self._child_died = False
            if not self._survive(partial(self._rescue.give_back_claims, self.id)):
                self._child_died = True
        for worker, silent_s in list(self._dead.items()):
            self._dead.pop(worker, None)  # while it is dead, the next decision names it again
            self._survive(partial(self._rescue.recover, worker, silent_s=silent_s))
        now_s = self._clock()
        if now_s < self._next_reconcile_s or not self._members:
            return
        self._next_reconcile_s = now_s + self._settings.lost_message_grace_s / 2
        for queue in self._record.queues:
            self._survive(partial(self._rescue.reconcile, queue, self._members))
        self._survive(self._rescue.complete_batches)

    def _survive(self, chore: Callable[[], object]) -> bool:
        """Do something that may fail; a thread that others rely on must not end with it."""
        try:
            chore()
        except UnavailableError as error:
            self._note_store_failure(error)
        except Exception:
            logger.exception("a chore failed and will be done again")
        else:
            return True
        return False

    # -- the thread that does no I/O ----------------------------------------------------------

    def _guard_deadline(self) -> None:
        """End a leadership by itself when its deadline passes (rule 6)."""
        with self._mutex:
            while not self._stopping.is_set():
                leads = self._leadership
                if leads is None:
                    self._leadership_changed.wait()
                    continue
                remaining_s = leads.deadline_s - self._clock()
                if remaining_s > 0:
                    self._leadership_changed.wait(remaining_s)
                    continue
                self._leadership = None
                self._publish_role()
                logger.warning("no longer primary: the renew deadline passed")
                self._wake.set()

    def _publish_role(self) -> None:
        role = Role(self._record.ready and not self._record.draining, self._leadership)
        if role != self._last_role:
            self._last_role = role
            self._on_role(role)
