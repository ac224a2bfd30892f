"""The supervisor: starts Redis, workers and Flower, keeps them alive, ends them in order.

It starts every child from the main thread and outlives them all; the kernel ends the children of
a supervisor that is killed (`ttsctl.supervisor.launcher`). Nothing is left running after `run`
(`test_nothing_is_left_running_after_down`, `test_kill_9_of_up_leaves_no_orphan`).
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tts_tasks.errors import UnavailableError
from ttsctl.supervisor.logs import tail
from ttsctl.supervisor.plan import FlowerPlan, children_environment, worker_specs
from ttsctl.supervisor.processes import Child, ChildSpec, StopStep, signal_group
from ttsctl.supervisor.readiness import workers_are_ready
from ttsctl.supervisor.redis_server import EmbeddedRedis
from ttsctl.supervisor.state import UP_ID_VARIABLE, UpState, WorkerState, write_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tts_tasks.settings import Settings
    from ttsctl.supervisor.journal import Journal
    from ttsctl.supervisor.plan import UpOptions
    from ttsctl.supervisor.procfs import ProcessIdentity
    from ttsctl.supervisor.signals import SignalInbox

#: So often may an essential process end before everything is ready: then `up` has failed.
ENDINGS_BEFORE_FAILURE = 3
_READY_POLL_S = 0.25
_IDLE_POLL_S = 60.0
_RETRY_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a supervisor is made of; tests put in other workers than Celery's."""

    workers: Callable[[Settings, UpOptions, Mapping[str, str]], Sequence[ChildSpec]] = worker_specs
    #: Told ``{node name: pid}`` of every worker, says whether all of them are ready.
    ready: Callable[[Settings, Mapping[str, int]], bool] = workers_are_ready


class Supervisor:
    """Runs one cluster until it is told to stop; see `run`."""

    def __init__(
        self,
        settings: Settings,
        options: UpOptions,
        *,
        up_id: str,
        identity: ProcessIdentity,
        redis_url: str,
        signals: SignalInbox,
        journal: Journal,
        parts: Parts,
    ) -> None:
        self._settings = settings
        self._options = options
        self._redis_url = redis_url
        self._signals = signals
        self._journal = journal
        self._parts = parts
        self._redis: Child | None = None
        self._flower: Child | None = None
        self._flower_plan: FlowerPlan | None = None
        self._workers: list[Child] = []
        self._signals_heeded = 0
        self._state = UpState(
            id=up_id,
            pid=identity.pid,
            start_time_ticks=identity.start_time_ticks,
            boot_id=identity.boot_id,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def state(self) -> UpState:
        """What runs now."""
        return self._state

    def run(self, announce: Callable[[UpState], None]) -> signal.Signals:
        """Start everything, call ``announce`` once it is ready, keep it alive; stop it at a signal.

        Returns the signal. Raises `UnavailableError` when it does not become ready in time, after
        everything is stopped again.
        """
        try:
            self._record()
            self._start_all()
            self._wait_until_ready()
            if not self._signals.received:
                words = "everything is ready" if self._options.wait_s else "everything is started"
                nodes = [child.spec.node for child in self._workers]
                self._journal.event("up.ready", words, workers=nodes)
                announce(self._state)
            while not self._signals.received:
                self._turn(_IDLE_POLL_S)
            return self._signals.received[0]
        except UnavailableError:
            if self._signals.received:  # it was told to stop before it was up
                return self._signals.received[0]
            raise
        finally:
            self._stop_all()

    # -- start ---------------------------------------------------------------------------------

    def _start_all(self) -> None:
        if not self._redis_url:
            self._start_redis()
        self._journal.connect(self._redis_url)
        environment = children_environment(
            self._settings, self._options, up_id=self._state.id, redis_url=self._redis_url
        )
        specs = self._parts.workers(self._settings, self._options, environment)
        self._workers = [Child(spec) for spec in specs]
        if self._options.flower and FlowerPlan.is_installed():
            self._flower_plan = FlowerPlan(self._settings, self._options, environment)
            self._flower = Child(self._flower_plan.spec())
        elif self._options.flower:
            self._journal.say(
                "Flower is not installed and is left out: pip install 'tts-tasks[flower]'"
            )
        for child in self._children():
            if child is not self._redis:
                child.start()
                self._journal.say(f"started {child.spec.name} (pid {child.pid})")
        self._record()

    def _start_redis(self) -> None:
        log_path = self._settings.home / "logs" / "redis.log"
        server = EmbeddedRedis(
            self._settings.home / "run" / "redis",
            log_path=log_path,
            environment={**os.environ, UP_ID_VARIABLE: self._state.id},
            start_timeout_s=max(self._options.wait_s, 10.0),
        )
        steps = (
            StopStep(signal.SIGTERM, 10.0),  # it writes what it still has in memory
            StopStep(signal.SIGKILL, 5.0, whole_group=True),
        )
        process = server.start(cancelled=lambda: bool(self._signals.received))
        self._redis = Child(ChildSpec("redis", server.spawn, log_path, steps))
        self._redis.adopt(process)
        self._redis_url = server.url
        self._journal.say(f"started redis (pid {process.pid})")
        self._record()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._options.wait_s
        while self._options.wait_s > 0 and not self._signals.received:
            late = time.monotonic() >= deadline
            if self._workers_are_ready():
                if self._flower_is_settled():
                    return
                if late:  # the work goes on without it
                    self._journal.say("Flower does not answer yet; see logs/flower.log")
                    return
            if late:
                raise UnavailableError(self._not_ready_words())
            self._fail_if_one_keeps_ending()
            self._turn(_READY_POLL_S)

    def _fail_if_one_keeps_ending(self) -> None:
        for child in self._children():
            if child.spec.essential and child.endings >= ENDINGS_BEFORE_FAILURE:
                raise UnavailableError(
                    f"{child.spec.name} {child.last_ending}, {child.endings} times: "
                    + _log_words(child.spec)
                )

    def _workers_are_ready(self) -> bool:
        pids = {child.spec.node: child.pid for child in self._workers}
        running = {node: pid for node, pid in pids.items() if pid is not None}
        if len(running) < len(pids) or (self._redis is not None and self._redis.pid is None):
            return False
        settings = self._settings.model_copy(update={"redis_url": self._redis_url})
        return self._parts.ready(settings, running)

    def _flower_is_settled(self) -> bool:
        """Whether Flower answers, or there is none to wait for."""
        if self._flower_plan is None or self._flower is None:
            return True
        return self._flower.endings >= ENDINGS_BEFORE_FAILURE or self._flower_plan.answers()

    def _not_ready_words(self) -> str:
        words = [
            f"not ready after {self._options.wait_s:g} s; a slow model needs a longer --wait-s"
        ]
        words += [f"{child.spec.name}: {_log_words(child.spec)}" for child in self._workers]
        return "\n".join(words)

    # -- keep alive ----------------------------------------------------------------------------

    def _turn(self, timeout_s: float) -> None:
        """Wait for a death, a signal, a due restart or the timeout, and see to the children."""
        self._wait(self._children(), min(timeout_s, self._next_due_s()))
        changed = False
        for child in self._children():
            if child.reap():
                changed = True
                self._tell_ending(child)
            if child.due_at is not None and child.due_at <= time.monotonic():
                child.start()
                changed = True
                if child.pid is None:
                    self._tell_ending(child)
                else:
                    self._journal.say(f"started {child.spec.name} again (pid {child.pid})")
        if changed:
            try:
                self._record()
            except OSError as error:  # a full disk must not end what still speaks
                self._journal.say(f"cannot write {self._settings.up_state_path}: {error}")
        self._journal.flush()

    def _tell_ending(self, child: Child) -> None:
        delay_s = max(0.0, (child.due_at or 0.0) - time.monotonic())
        self._journal.event(
            "up.process_ended",
            f"{child.spec.name} {child.last_ending}; it starts again in {delay_s:.1f} s "
            f"(its log: {child.spec.log_path})",
            process=child.spec.name,
            node=child.spec.node,
            reason=child.last_ending,
            restart_in_s=round(delay_s, 3),
        )

    def _next_due_s(self) -> float:
        due = [child.due_at for child in self._children() if child.due_at is not None]
        next_s = max(0.0, min(due) - time.monotonic()) if due else _IDLE_POLL_S
        return min(next_s, _RETRY_POLL_S) if self._journal.has_pending else next_s

    def _wait(self, children: Sequence[Child], timeout_s: float) -> None:
        """Sleep until one of the children ends, a signal arrives, or the time is over."""
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        for child in children:
            if child.process is not None:
                poll.register(child.pidfd, select.POLLIN)
        poll.poll(max(0.0, timeout_s) * 1000)
        self._signals.drain()

    # -- stop ----------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """Workers first, they still need Redis; Flower; Redis last. Another signal hurries."""
        if any(child.pid is not None for child in self._children()):
            self._journal.event("up.stopping", "stopping; another Ctrl-C hurries")
        self._journal.close()
        self._signals_heeded = min(len(self._signals.received), 1)
        for group in (self._workers, [self._flower], [self._redis]):
            self._stop_group([child for child in group if child is not None])

    def _stop_group(self, children: Sequence[Child]) -> None:
        rungs = max((len(child.spec.stop_steps) for child in children), default=0)
        for rung in range(rungs):
            alive = [child for child in children if child.process is not None]
            grace_s = 0.0
            for child in alive:
                step = child.spec.stop_steps[min(rung, len(child.spec.stop_steps) - 1)]
                grace_s = max(grace_s, step.grace_s)
                _send(child, step)
            self._await_endings(alive, grace_s)

    def _await_endings(self, children: Sequence[Child], grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        while True:
            for child in children:
                if child.reap():
                    self._journal.say(f"stopped {child.spec.name} ({child.last_ending})")
            alive = [child for child in children if child.process is not None]
            left_s = deadline - time.monotonic()
            if not alive or left_s <= 0:
                return
            if len(self._signals.received) > self._signals_heeded:
                self._signals_heeded += 1  # each one more is one rung further
                return
            self._wait(alive, left_s)

    # -- what runs -----------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        return [c for c in (self._redis, *self._workers, self._flower) if c is not None]

    def _record(self) -> None:
        """Write down what runs now, for `down` and for clients that look for Redis."""
        self._state = self._state.with_changes(
            redis_url=self._redis_url,
            redis_pid=self._redis.pid if self._redis else None,
            flower_url=self._flower_plan.url if self._flower_plan else None,
            flower_pid=self._flower.pid if self._flower else None,
            workers=tuple(
                WorkerState(child.spec.name, child.spec.node, child.pid) for child in self._workers
            ),
        )
        write_state(self._settings.up_state_path, self._state)


def _send(child: Child, step: StopStep) -> None:
    if child.process is None:
        return
    if step.whole_group:
        signal_group(child.process, step.signal)
    else:
        child.process.send_signal(step.signal)


def _log_words(spec: ChildSpec) -> str:
    return f"{spec.log_path} ends with:\n{tail(spec.log_path)}"
