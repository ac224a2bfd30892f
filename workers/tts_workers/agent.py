"""The HA loop of a worker: reads the world, asks `decide`, carries the answer out.

It runs in threads of the worker's parent process, never in Celery's event loop, which stands
still while the broker does. Four threads: one that beats, reads and decides; one that renews in
time, and one that does no I/O and ends a leadership whose deadline has passed (rule 6) and an
engine that is stuck, whatever the first is waiting for; and one for the `Chores`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tts_tasks.clock import Clock, boottime_s
from tts_tasks.coordination.base import (
    Lease,
    Orders,
    WorkerRecord,
    record_ttl_s,
)
from tts_tasks.errors import EpochsUnknownError, TTSError, UnavailableError
from tts_workers.child_watch import ChildWatch, Stuck
from tts_workers.chores import Chores, Rescue, survive
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
from tts_workers.evidence import Witness
from tts_workers.gpu_health import Verdict
from tts_workers.lease_keeper import LeaseKeeper
from tts_workers.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.coordination import Coordinator
    from tts_tasks.events import EventLog
    from tts_tasks.ledger.records import Evidence
    from tts_tasks.settings import Settings
    from tts_workers.notices import Notices
    from tts_workers.watchdog import Silence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Role:
    """What the consumer and the child must know: whether this worker serves, and leads."""

    serving: bool  #: ready and not draining
    leadership: Leadership | None
    others_ready: int = 0  #: workers of the pool that could take what this one failed over


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
        notices: Notices | None = None,
        clock: Clock = boottime_s,
        kill: Callable[[int, int], None] = os.kill,
        traces: Callable[[int], Evidence] = lambda _: {},
        look_at_child: Callable[[], None] = lambda: None,
    ) -> None:
        """``look_at_child``: has `child_said` called with what the child shows by now."""
        self._settings = settings
        self._lane_key = settings.lane_key
        self._record = record
        self._coordinator = coordinator
        self._rescue = rescue
        self._events = events
        self._on_role = on_role
        self._notices = notices
        self._clock = clock
        self._kill = kill
        self._witness = Witness(traces)
        self._look_at_child = look_at_child
        self._observer = Observer(coordinator, settings, clock)
        self._child = ChildWatch(
            clock, pulse_limit_s=settings.silence_s, max_step_s=2 * self._observer.tick_s
        )
        self._chores = Chores(
            record.id,
            rescue,
            clock=clock,
            reconcile_s=settings.lost_message_grace_s / 2,
            on_epochs=self._epochs_known,
        )
        self._mutex = threading.RLock()
        self._guarded = threading.Condition(self._mutex)
        self._keeper = LeaseKeeper(
            coordinator,
            settings,
            events,
            record.id,
            clock=clock,
            mutex=self._mutex,
            on_change=self._leadership_changed,
        )
        self._last_role: Role | None = None
        self._engine_ready = False  #: it has spoken since it was loaded
        self._verdict = Verdict()  #: on its device
        self._shutting_down = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._next_beat_s = 0.0
        self._store_answered = True
        self.store_failures = 0  #: requests that the store did not answer
        bodies: dict[str, Callable[[], None]] = {
            "tts-agent": self._run,
            "tts-renewal": partial(
                self._keeper.keep,
                self._stopping,
                self._guarded,
                retry_s=self._observer.tick_s,
                on_failure=self._note_store_failure,
            ),
            "tts-deadline": self._guard,
            "tts-chores": partial(self._chores.run, self._stopping, self._observer.tick_s),
        }
        self._threads = [
            threading.Thread(target=body, name=name, daemon=True) for name, body in bodies.items()
        ]

    # -- what the worker tells the agent ------------------------------------------------------

    def start(self) -> None:
        """Join the cluster."""
        self._coordinator.listen(self._lane_key, self._wake.set)
        if self._notices is not None:
            self._notices.start()
        for thread in self._threads:
            thread.start()

    def drain(self) -> None:
        """Take no new work and hand the lane over at once; what is running goes on."""
        self._shutting_down = True
        self._change(draining=True)

    def leave(self) -> None:
        """Leave the cluster: last heartbeat, no record left behind."""
        self._stopping.set()
        self._wake.set()
        self._chores.hurry()
        with self._mutex:
            self._guarded.notify_all()
        self._threads[0].join(timeout=5 * self._settings.request_timeout_s + self._observer.tick_s)
        self._coordinator.close()
        if self._notices is not None:
            self._notices.close()

    def child_said(self, pid: int, message: dict[str, Any]) -> None:
        """Hear from the child: it is ready, works on a job, gets on, or does not load."""
        with self._mutex:
            if self._witness.heard(pid, message):
                return
            guarded = self._child.left_s is not None
            self._child.heard(pid, message)
            if not guarded:  # else it is looked at every tick, and nothing has become more urgent
                self._guarded.notify_all()
        match message.get("event"):
            case "job":
                with self._mutex:  # told with the next heartbeat
                    if self._record.job != message["job"]:
                        self._record = replace(self._record, job=message["job"])
            case "ready":
                self._engine_ready = True
                self._change(
                    ready=self._may_serve(),
                    engine=message["engine"],
                    fingerprint=message["fingerprint"],
                    capabilities=message["capabilities"],
                )
                self._events.emit("worker.ready", worker=self.id, engine=message["engine"])
            case "load_failed":
                reason = message["reason"]
                self._events.emit("engine.load_failed", worker=self.id, reason=reason)
                logger.error("the engine does not load: %s", reason)

    def child_lost(self, pid: int) -> None:
        """Learn that the child died: its job goes back, and the lane to somebody else."""
        with self._mutex:
            self._look_at_child()  # what it had in hand when it died
            watched = self._child.lost(pid)
            evidence = self._witness.of_dead(pid)
        if not watched or self._stopping.is_set():
            return
        if not self._record.draining:
            logger.warning("the engine's process %d is gone", pid)
        self._without_child(pid, evidence)

    def _without_child(self, pid: int, evidence: Callable[[], Evidence]) -> None:
        self._chores.child_died(pid, evidence)
        self._engine_ready = False
        self._change(ready=False, job="")

    def device_said(self, verdict: Verdict, shown: dict[str, Any]) -> None:
        """Learn how the device is; what is shown of it is told with the next heartbeat.

        An engine on a broken device is ended: what it has in hand goes to another worker at once,
        and it must load and speak anew before it serves again (rule 7).
        """
        with self._mutex:
            before, self._verdict = self._verdict, verdict
            hot = {"hot": True} if verdict.hot else {}
            self._record = replace(self._record, gpu=shown | hot)
            pid = self._child.pid
            if verdict.broken and verdict.faults > before.faults and pid:
                with contextlib.suppress(ProcessLookupError):
                    self._kill(pid, signal.SIGKILL)
                self._without_child(pid, self._witness.of_broken_device(pid, verdict.broken))
        self._heed_device()

    def _heed_device(self) -> None:
        """Serve, or no longer, as the verdict on the device says."""
        if not self._verdict.broken and not self._verdict.hot and not self._record.fault:
            return
        with self._mutex:
            ready = self._engine_ready and self._may_serve()
            fault, before = self._fault(), self._record
            if (ready, fault) == (before.ready, before.fault):
                return
            self._change(ready=ready, fault=fault)
        if bool(fault) != bool(before.fault):
            event = "worker.device_fault" if fault else "worker.device_well"
            self._events.note(event, worker=self.id, device=before.device, reason=fault)

    def _may_serve(self) -> bool:
        return not self._fault()

    def _fault(self) -> str:
        """Return why the device is not to be used; a hot one is, where no cooler one is ready."""
        me = self._record
        relieved = self._observer.others_ready(me.pool, me.id, cool=True)
        return self._verdict.broken or (self._verdict.hot if relieved else "")

    @property
    def id(self) -> str:
        """This worker's id."""
        return self._record.id

    @property
    def leadership(self) -> Leadership | None:
        """What this worker believes now."""
        return self._keeper.leadership

    def _change(self, **fields: Any) -> None:
        with self._mutex:
            self._record = replace(self._record, **fields)
            self._next_beat_s = 0.0
            self._publish_role()
        self._wake.set()

    # -- the loop that talks to the store -----------------------------------------------------

    def _run(self) -> None:
        self._events.emit("worker.joined", worker=self.id, device=self._record.device)
        while not self._stopping.is_set():
            self._wake.clear()
            survive(self.tick, self._note_store_failure)
            self._observer.rest(self._wake)
        self._depart()

    def tick(self) -> None:
        """Beat, read, decide, act: once."""
        try:
            self._beat_if_due()
            lease = self._coordinator.read(self._lane_key)
            orders = self._coordinator.orders(self._lane_key, self.id)
            silences = self._observer.look([lease])
        except UnavailableError as error:
            self._note_store_failure(error)
            self._carry_out(self._decide(None, Orders(), {}, reachable=False))
            self._keeper.log()
            return
        self._store_answered = True
        self._obey(orders)
        self._heed_device()  # it hangs on who else is ready
        self._take_in(lease)
        with self._mutex:
            self._publish_role()  # others may have become ready
        self._carry_out(self._decide(lease, orders, silences, reachable=True))
        self._keeper.log()
        self._events.flush()

    def _note_store_failure(self, error: TTSError) -> None:
        self.store_failures += 1
        if self._store_answered:
            logger.warning("the store does not answer: %s", error)
            if (leads := self.leadership) is not None:
                self._keeper.renewal_failed(leads.lease, "the store does not answer")
        self._store_answered = False

    def _beat_if_due(self) -> None:
        presence = self._coordinator.presence()
        now_s = self._clock()
        with self._mutex:
            self._look_at_child()
            presence = presence or self._record.presence  # until there is a new one
            if now_s < self._next_beat_s and presence == self._record.presence:
                return
            self._record = replace(
                self._record,
                beat=self._record.beat + 1,
                presence=presence,
                epoch=self._keeper.highest_epoch,
            )
            record = self._record
        self._coordinator.beat(record, record_ttl_s(self._settings.heartbeat_s))
        with self._mutex:
            if self._record is record:  # else it changed meanwhile, and is to be said at once
                self._next_beat_s = now_s + self._settings.heartbeat_s

    def _obey(self, orders: Orders) -> None:
        draining = orders.drained or self._shutting_down
        if draining != self._record.draining:
            logger.info("draining" if draining else "no longer draining")
            self._change(draining=draining)

    def _take_in(self, lease: Lease | None) -> None:
        self._keeper.saw(self._observer.highest_epoch(self._lane_key))
        if lease is not None:
            self._keeper.saw_lease(lease)
        self._chores.saw(self._observer.jobs, self._record.queues)
        if self._notices is not None:
            self._notices.observe(self._lane_key, lease)

    def _decide(
        self, lease: Lease | None, orders: Orders, silences: dict[str, Silence], *, reachable: bool
    ) -> list[Action]:
        with self._mutex:
            view = View(
                me=self.id,
                ready=self._record.ready,
                draining=self._record.draining,
                leadership=self._keeper.leadership,
                lease=lease,
                successor=orders.successor,
                store_reachable=reachable,
                silences=silences,
                silence_limit_s=self._settings.silence_s,
                presence_grace_s=self._settings.presence_grace_s,
            )
        return decide(view, self._clock())

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Demote(lease, reason):
                    self._keeper.demote(lease, reason)
                case Renew(lease):
                    self._keeper.renew(lease)
                case Acquire():
                    self._acquire()
                case Remove(lease, reason):
                    self._keeper.remove(lease, reason)
                case Recover(worker, silent_s):
                    self._chores.worker_died(worker, silent_s)

    def _acquire(self) -> None:
        try:
            lease = self._keeper.acquire()
        except EpochsUnknownError:
            self._chores.read_epochs()
            return
        if lease is not None and self._notices is not None:
            self._notices.acquired(self._lane_key, lease)

    def _epochs_known(self, highest: int) -> None:
        self._keeper.saw(highest, is_all=True)
        self._wake.set()

    def _depart(self) -> None:
        leads = self.leadership
        try:
            if leads is not None:
                self._keeper.demote(leads.lease, "leaving")
                self._keeper.remove(leads.lease, "leaving")
            self._rescue.give_back_claims(self.id)
            self._coordinator.forget(self.id)
        except UnavailableError as error:
            logger.warning("left without saying so: %s", error)
        self._events.emit("worker.left", worker=self.id)

    def do_chores(self) -> None:
        """Do what the chores' thread does, once."""
        self._chores.do()

    # -- the thread that does no I/O ----------------------------------------------------------

    def _guard(self) -> None:
        with self._mutex:
            # to the end of the last belief: a worker that leaves may have to wait for the store
            while not self._stopping.is_set() or self._keeper.leadership is not None:
                self._guarded.wait(self.end_what_is_overdue())

    def end_what_is_overdue(self) -> float | None:
        """End a leadership past its deadline (rule 6), and an engine that is stuck; no I/O.

        Returns when to look again, in seconds; None: when something has changed.
        """
        with self._mutex:
            self._look_at_child()
            if (stuck := self._child.look()) is not None:
                self._end_stuck_child(stuck)
            left_s = self._keeper.demote_if_overdue()
            waits_s = [] if left_s is None else [left_s]
            if self._child.left_s is not None:
                waits_s.append(min(self._observer.tick_s, self._child.left_s))
            return min(waits_s, default=None)

    def _end_stuck_child(self, stuck: Stuck) -> None:
        self._events.note(
            "worker.stuck",
            worker=self.id,
            job=stuck.job,
            silent_s=round(stuck.silent_s, 3),
            budget_s=round(stuck.budget_s, 3),
        )
        with contextlib.suppress(ProcessLookupError):
            self._kill(stuck.pid, signal.SIGKILL)
        # not waiting for its end: a process that hangs in a driver may not die for a long time
        self._without_child(stuck.pid, self._witness.of_stuck(stuck))

    def _leadership_changed(self) -> None:
        self._publish_role()
        self._guarded.notify_all()
        if self._keeper.leadership is None:
            self._wake.set()

    def _publish_role(self) -> None:
        me = self._record
        others = self._observer.others_ready(me.pool, me.id)
        role = Role(me.ready and not me.draining, self._keeper.leadership, others)
        if role != self._last_role:
            self._last_role = role
            self._on_role(role)
