"""The HA loop of a worker: reads the world, asks `decide`, carries the answer out.

It runs in threads of the worker's parent process, never in Celery's event loop, which stands
still while the broker does. Four threads: one that beats, reads and decides; one that renews in
time, and one that does no I/O and ends a leadership whose deadline has passed (rule 6) and an
engine that is stuck, whatever the first is waiting for; and one for the `Chores`.
"""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from tts_tasks.clock import Clock, boottime_s
from tts_tasks.coordination.base import Lease, Orders, WorkerRecord
from tts_tasks.errors import EpochsUnknownError, TTSError, UnavailableError
from tts_workers.child_supervisor import ChildSupervisor
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
from tts_workers.fitness import Fitness
from tts_workers.heartbeat import Heartbeat
from tts_workers.leadership import Role
from tts_workers.lease_keeper import LeaseKeeper
from tts_workers.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.coordination import Coordinator
    from tts_tasks.events import EventLog
    from tts_tasks.ledger.records import Evidence
    from tts_tasks.settings import Settings
    from tts_workers.gpu_health import Verdict
    from tts_workers.notices import Notices
    from tts_workers.watchdog import Silence

logger = logging.getLogger(__name__)


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
        self._coordinator = coordinator
        self._rescue = rescue
        self._events = events
        self._on_role = on_role
        self._notices = notices
        self._clock = clock
        self._observer = Observer(coordinator, settings, clock)
        self._mutex = threading.RLock()
        self._guarded = threading.Condition(self._mutex)
        self._heartbeat = Heartbeat(
            record, coordinator, every_s=settings.heartbeat_s, clock=clock, mutex=self._mutex
        )
        self._chores = Chores(
            record.id,
            rescue,
            clock=clock,
            reconcile_s=settings.lost_message_grace_s / 2,
            on_epochs=self._epochs_known,
        )
        self._child = ChildSupervisor(
            record.id,
            self._chores,
            events,
            clock=clock,
            pulse_limit_s=settings.silence_s,
            max_step_s=2 * self._observer.tick_s,
            traces=traces,
            look=look_at_child,
            kill=kill,
        )
        self._fitness = Fitness(self._child, self._heartbeat, self._observer)
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
        self._shutting_down = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._store_answered = True
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
            guarded = self._child.left_s is not None
            if not self._child.heard(pid, message):
                return
            if not guarded:  # else it is looked at every tick, and nothing has become more urgent
                self._guarded.notify_all()
            self._take_in_child(message)
        match message.get("event"):
            case "ready":
                self._events.emit("worker.ready", worker=self.id, engine=message["engine"])
            case "load_failed":
                reason = message["reason"]
                self._events.emit("engine.load_failed", worker=self.id, reason=reason)
                logger.error("the engine does not load: %s", reason)

    def _take_in_child(self, message: dict[str, Any]) -> None:
        match message.get("event"):
            case "job" if self._record.job != message["job"]:
                self._heartbeat.note(job=message["job"])
            case "ready":
                self._change(
                    ready=not self._fitness.fault,
                    engine=message["engine"],
                    fingerprint=message["fingerprint"],
                    capabilities=message["capabilities"],
                )

    def child_lost(self, pid: int) -> None:
        """Learn that the child died: its job goes back, and the lane to somebody else."""
        with self._mutex:
            if not self._child.lost(pid, leaving=self._stopping.is_set()):
                return
            self._without_child()
        if not self._record.draining:
            logger.warning("the engine's process %d is gone", pid)

    def _without_child(self) -> None:
        self._change(ready=False, job="")

    def device_said(self, verdict: Verdict, shown: dict[str, Any]) -> None:
        """Learn how the device is; what is shown of it is told with the next heartbeat.

        An engine on a broken device is ended: what it has in hand goes to another worker at once,
        and it must load and speak anew before it serves again (rule 7).
        """
        with self._mutex:
            if self._fitness.judge(verdict, shown) and self._child.pid:
                self._child.end_on_broken_device(verdict.broken)
                self._without_child()
        self._heed_device()

    def _heed_device(self) -> None:
        """Serve, or no longer, as the verdict on the device says."""
        with self._mutex:
            before, news = self._record, self._fitness.news()
            if not news:
                return
            self._change(**news)
        fault = news["fault"]
        if bool(fault) != bool(before.fault):
            event = "worker.device_fault" if fault else "worker.device_well"
            self._events.note(event, worker=self.id, device=before.device, reason=fault)

    @property
    def id(self) -> str:
        """This worker's id."""
        return self._record.id

    @property
    def _record(self) -> WorkerRecord:
        return self._heartbeat.record

    @property
    def leadership(self) -> Leadership | None:
        """What this worker believes now."""
        return self._keeper.leadership

    def _change(self, **fields: Any) -> None:
        with self._mutex:
            self._heartbeat.change(**fields)
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
            with self._mutex:
                self._child.look()  # what it has in hand is told with the beat
            self._heartbeat.beat_if_due(self._keeper.highest_epoch)
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
        if self._store_answered:
            logger.warning("the store does not answer: %s", error)
            if (leads := self.leadership) is not None:
                self._keeper.renewal_failed(leads.lease, "the store does not answer")
        self._store_answered = False

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
            if self._child.end_if_stuck():
                self._without_child()
            left_s = self._keeper.demote_if_overdue()
            waits_s = [] if left_s is None else [left_s]
            if self._child.left_s is not None:
                waits_s.append(min(self._observer.tick_s, self._child.left_s))
            return min(waits_s, default=None)

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
