"""One worker: a parent process with the real agent, and a child with the real runners.

What stands in for something here: the consumer (Celery's), the Unix socket between the two
processes, and the engine. Everything else is the product's own code in virtual threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from celery.exceptions import Ignore, Reject

from tests.simulation.link import HOP_S, ChildLink, Pipe
from tests.simulation.network import Link, Reach, RecordedEvents, SimulatedCoordinator
from tests.simulation.runtime import Killed, Process
from tests.simulation.virtual_threading import Event
from tts_tasks.coordination.base import WorkerRecord
from tts_tasks.errors import EngineError, JobFailedError, UnavailableError
from tts_tasks.routing import route_of
from tts_tasks.testing import MemoryLedger
from tts_workers.agent import Agent
from tts_workers.batch_runner import BatchRunner
from tts_workers.child import _pulse, _settle
from tts_workers.engine_host import EngineHost
from tts_workers.engines.base import Capabilities, EngineVoice, Segment, Spoken
from tts_workers.job_runner import JobRunner
from tts_workers.leadership import BelievedLease
from tts_workers.pace import Pace
from tts_workers.recovery import Recovery
from tts_workers.step_budgets import StepBudgets
from tts_workers.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.simulation.world import World
    from tts_workers.leadership import Role

#: What a client of the ledger waits for an answer; shorter than in production, which changes no
#: order of events but ends runs sooner.
_CLIENT_TIMEOUT_S = 1.0


class SimulatedRecovery(Recovery):
    """The real recovery, but for the messages, which lie in the `MemoryStore`."""

    def __init__(self, world: World, wire: Link, **parts: Any) -> None:
        super().__init__(None, world.settings, **parts)  # type: ignore[arg-type]
        self._world = world
        self._wire = wire

    def _restore_messages(self, worker_id: str, *, only: Collection[str] = ()) -> set[str]:
        """Put the messages of a worker back to the heads of their queues, one by one."""
        restored = set()
        for tag, message in sorted(self._world.unacked[worker_id].items(), reverse=True):
            if only and message.task_id not in only:
                continue
            if self._wire(self._world.broker.restore, worker_id, tag) is not None:
                restored.add(message.task_id)
        return restored


class Engine:
    """Speaks by letting time pass. What it says differs each time, as a GPU's does."""

    name, version = "simulated", "1"

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def capabilities(self) -> Capabilities:
        return Capabilities(languages=("zh", "en"), sample_rate_hz=8000)

    def load(self, device: str) -> None:
        self._world.runtime.sleep(self._world.runtime.rng.uniform(0.1, 0.8))

    def encode_voice(self, reference: Any) -> EngineVoice:
        return EngineVoice(reference)

    def split(self, text: str) -> list[Segment]:
        return [Segment(part) for part in text.split("|")]

    def speak(self, segment: Segment, voice: Any, state: Any, options: Any) -> Spoken:
        runtime, faults = self._world.runtime, self._world.faults
        runtime.sleep(runtime.rng.uniform(0.02, 0.5) * max(1, len(segment.text) / 4))
        match faults.fate_of_speech(segment.text):
            case "kills":
                self._process.kill()
                raise Killed
            case "fails":
                raise EngineError("this attempt failed")
            case "hangs":
                runtime.block()
        noise = np.frombuffer(runtime.rng.randbytes(16), dtype=np.int8).astype(np.float32) / 128
        return Spoken(noise)

    def fingerprint(self) -> str:
        return "f"

    def close(self) -> None:
        return


class OnlineQueue:
    """`OnlineWork` of this world: looks into the broker's queue."""

    def __init__(self, world: World, lease: BelievedLease) -> None:
        self._world = world
        self._lease = lease

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def waits(self) -> bool:
        """Whether a message waits for the primary that this worker believes to be."""
        online, _ = self._world.queues
        return self._lease.get(0.0) is not None and bool(self._world.store.queues[online])


@dataclass
class Message:
    """What the consumer has taken from a queue."""

    tag: int
    queue: str
    task_id: str
    rung_ms: float


@dataclass
class Child:
    """The engine's process, and the parent's knowledge of its connection."""

    process: Process
    pid: int
    lease: BelievedLease
    ready: bool = False
    jobs: list[Message] = field(default_factory=list)
    outcome: str = ""
    has_job: Event | None = None
    to_child: Pipe | None = None


class Worker:
    """One incarnation of a worker, from its start to its end."""

    def __init__(self, world: World, node: str, incarnation: int) -> None:
        self.world = world
        self.node = node
        self.id = f"{node}@h/{incarnation:04x}"
        self.process = Process(world.runtime, self.id)
        self.reach = Reach()
        self.clock_offset_s = world.runtime.rng.uniform(-500, 500)
        self.role: Role | None = None
        self.child: Child | None = None
        self.leaving = False
        self._wake = Event(world.runtime)
        self._told = Event(world.runtime)
        self._child_wake = Event(world.runtime)
        self._build()

    def clock(self) -> float:
        return self.world.runtime.now_s + self.clock_offset_s

    def _build(self) -> None:
        world, settings = self.world, self.world.settings
        events = RecordedEvents(world, self.process)
        coordinator = SimulatedCoordinator(
            world, self.process, self.reach, timeout_s=settings.request_timeout_s
        )
        wire = Link(world, self.process, self.reach, timeout_s=_CLIENT_TIMEOUT_S)
        route = route_of(settings)
        record = WorkerRecord(
            id=self.id,
            host="h",
            pid=1,
            pool=settings.pool,
            lane=settings.lane,
            beat=0,
            queues=route.queues,
        )
        with world.acting_for(self.process, self.reach):
            rescue = SimulatedRecovery(
                world,
                wire,
                name=self.id,
                ledger=MemoryLedger(world.store, wire=wire),  # type: ignore[arg-type]
                coordinator=coordinator,
                events=events,  # type: ignore[arg-type]
            )
        self.agent = Agent(
            settings,
            record,
            coordinator=coordinator,
            rescue=rescue,
            events=events,  # type: ignore[arg-type]
            on_role=self._on_role,
            clock=self.clock,
            kill=self._kill_child,
        )
        self._broker = Link(world, self.process, self.reach, timeout_s=_CLIENT_TIMEOUT_S)

    # -- the parent -----------------------------------------------------------------------------

    def start(self) -> None:
        spawn = self.world.runtime.spawn
        spawn(self.process, self.agent.start, name="start")
        spawn(self.process, self._pool, name="pool")
        spawn(self.process, self._consume, name="consumer")
        spawn(self.process, self._tell, name="tell")
        self.process.at_death.append(self._died)
        self.process.at_resume.append(lambda: self.world.checker.resumed(self))

    def _died(self) -> None:
        self.world.connection_of_process_closed(self.process)
        self.world.checker.believes(self, None)
        child = self.child
        if child is not None and child.process.alive:
            # Celery ends the child with its parent, but not before it has done what it works on
            self.world.later(self.world.runtime.rng.uniform(0.0, 4.0), child.process.kill)
            if child.to_child is not None:
                child.to_child.close()

    def _on_role(self, role: Role) -> None:
        if not self.process.alive:
            raise Killed
        self.role = role
        self.world.checker.believes(self, role.leadership)
        self._told.set()
        self._wake.set()

    def _kill_child(self, pid: int, _signal: int) -> None:
        if self.child is not None and self.child.pid == pid:
            self.child.process.kill()

    def _tell(self) -> None:
        """Tell the child under which lease its parent leads; only the last word counts."""
        while True:
            self._told.wait()
            self._told.clear()
            role, child = self.role, self.child
            if role is not None and child is not None:
                child.to_child.send(role.as_message())

    def _pool(self) -> None:
        """Keep one child alive, as Celery's pool does."""
        runtime = self.world.runtime
        while not self.leaving:
            self._child_wake.clear()
            child = self._new_child()
            self._told.set()
            while child.process.alive:
                self._child_wake.wait(5.0)
            runtime.sleep(HOP_S)
            self.child = None
            self._wake.set()
            runtime.sleep(runtime.rng.uniform(0.05, 0.5))

    def _new_child(self) -> Child:
        world, settings = self.world, self.world.settings
        pid = world.next_number()
        process = Process(world.runtime, f"{self.node}/{pid}")
        child = Child(process, pid, BelievedLease(), has_job=Event(world.runtime))
        agent = self.agent
        to_parent = Pipe(
            self.process,
            lambda message: agent.child_said(pid, message),
            at_end=lambda: agent.child_lost(pid),
        )
        link = ChildLink(process, to_parent, pid)
        child.to_child = Pipe(process, child.lease.parent_said, at_end=child.lease.parent_gone)
        budgets = StepBudgets(
            lambda budget_s: link.show({"event": "budget", "budget_s": budget_s}),
            lambda _: None,
            lambda: world.runtime.now_s,
        )
        pace = Pace(
            budgets,
            floor_s=settings.silence_s,
            factor=settings.progress_factor,
            unknown_s=8.0,  # not `first_step_s`: what hangs at once is to end within the run
            clock=lambda: world.runtime.now_s,
        )
        with world.acting_for(process, self.reach):
            host = EngineHost(
                "simulated",
                "cpu",
                link,  # type: ignore[arg-type]
                pace=pace,
                storage_url="memory:",
                lane_key=settings.lane_key,
            )
            bench = Workbench.of(host, child.lease, link, settings, self.id)  # type: ignore[arg-type]
            runner, batch_runner = JobRunner(bench), BatchRunner(bench)
        process.at_death += [to_parent.close, self._child_wake.set]
        world.runtime.spawn(process, _pulse, link, budgets, settings.heartbeat_s / 2, name="pulse")
        owed = (bench.events, batch_runner, settings.heartbeat_s)
        world.runtime.spawn(process, _settle, *owed, name="settle")
        world.runtime.spawn(process, host.start, name="host")
        world.runtime.spawn(process, self._run_jobs, child, runner, batch_runner, name="jobs")
        self.child = child
        return child

    # -- the consumer ---------------------------------------------------------------------------

    def _consume(self) -> None:
        """Take one message at a time: note it, have it done, acknowledge it or give it back."""
        world, runtime = self.world, self.world.runtime
        while not self.leaving:
            queue = self._next_queue()
            if queue is None:
                self._wake.clear()
                world.consumers.append(self._wake)
                self._wake.wait(2.0)
                continue
            try:
                message = self._broker(world.broker.pop, queue)
                if message is None:
                    continue
                # taken, and in two steps: a death in between takes the message with it
                self._broker(world.broker.note, self.id, message)
            except UnavailableError:
                runtime.sleep(runtime.rng.uniform(0.1, 0.6))
                continue
            self._done(message, self._dispatch(message))

    def _next_queue(self) -> str | None:
        role, child = self.role, self.child
        if role is None or not role.serving or child is None:
            return None
        online, batch = route_of(self.world.settings).queues
        wanted = [online, batch] if role.leadership else [batch]
        return next((queue for queue in wanted if self.world.store.queues[queue]), None)

    def _dispatch(self, message: Message) -> str:
        child = self.child
        if child is None or not child.process.alive:
            return "requeue"
        child.outcome = ""
        child.jobs.append(message)
        if child.has_job is not None:
            child.has_job.set()
        while not child.outcome:
            if self.child is not child:
                return "requeue"  # task_reject_on_worker_lost
            self._wake.clear()
            if child.outcome:
                break
            self._wake.wait(1.0)
        return child.outcome

    def _done(self, message: Message, outcome: str) -> None:
        broker, runtime = self.world.broker, self.world.runtime
        effect = broker.restore if outcome == "requeue" else broker.acknowledge
        try:
            self._broker(effect, self.id, message.tag)
        except UnavailableError:
            runtime.sleep(0.2)  # the message stays where it is noted until this worker is gone
        if outcome == "requeue":
            runtime.sleep(runtime.rng.uniform(0.01, 0.1))

    # -- the child ------------------------------------------------------------------------------

    def _run_jobs(self, child: Child, runner: JobRunner, batch_runner: BatchRunner) -> None:
        while True:
            while not child.jobs:
                child.has_job.clear()  # type: ignore[union-attr]
                child.has_job.wait()  # type: ignore[union-attr]
            message = child.jobs.pop(0)
            child.outcome = self._run(message, runner, batch_runner)
            self.world.runtime.sleep(HOP_S)
            self._wake.set()

    def _run(self, message: Message, runner: JobRunner, batch_runner: BatchRunner) -> str:
        task: Any = SimpleNamespace(request=SimpleNamespace(id=message.task_id))
        try:
            if message.queue == self.world.queues[1]:
                batch_runner()
            else:
                runner(task, message.task_id, None)
        except Reject:
            return "requeue"
        except (Ignore, JobFailedError):
            return "acknowledge"
        return "acknowledge"

    # -- endings --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop as on SIGTERM: hand over, finish what is in hand, leave."""
        self.world.runtime.spawn(self.process, self._stop, name="stop")

    def _stop(self) -> None:
        runtime = self.world.runtime
        self.agent.drain()
        self.leaving = True
        give_up_s = runtime.now_s + 30.0
        while self.child is not None and self.child.jobs and runtime.now_s < give_up_s:
            runtime.sleep(0.1)
        while self.child is not None and self._is_busy() and runtime.now_s < give_up_s:
            runtime.sleep(0.1)
        self.agent.leave()
        runtime.sleep(0.01)
        child = self.child
        self.process.kill()
        if child is not None:
            child.process.kill()

    def _is_busy(self) -> bool:
        return bool(self.world.unacked[self.id])
