"""Agents of one lane on a store in memory, which tick when told to, under a clock moved by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.recorded_events import RecordedEvents
from tts_tasks.coordination.base import WorkerRecord
from tts_tasks.errors import UnavailableError
from tts_tasks.settings import Settings
from tts_tasks.testing import FakeClock, MemoryCoordinator
from tts_workers.agent import Agent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tts_tasks.ledger.records import Evidence
    from tts_workers.leadership import Role

CHILD_PID = 4_000_000
READY = {"event": "ready", "engine": "e", "fingerprint": "f", "capabilities": {}}


@dataclass
class RecordingRescue:
    """Notes what was asked of it."""

    recovered: list[str] = field(default_factory=list)
    given_back: list[str] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    coordinator: MemoryCoordinator | None = None
    fails: bool = False  #: the broker, or the storage, is away
    marked: int = 0  #: the highest epoch that the storage tells of

    def recover(self, worker_id: str, *, silent_s: float) -> None:
        self.recovered.append(worker_id)
        if self.coordinator is not None:
            self.coordinator.forget(worker_id)

    def give_back_claims(
        self, worker_id: str, evidence: Evidence | None = None, *, child: int | None = None
    ) -> list[str]:
        self.given_back.append(worker_id)
        self.evidence.append(evidence or {})
        return []

    def reconcile(self, queue: str, working_on: Mapping[str, str], *, at_once: bool = False) -> int:
        if self.fails:
            raise UnavailableError("the broker is away")
        return 0

    def sweep(self) -> None:
        return

    def settle_batches(self) -> None:
        return

    def highest_epoch(self) -> int:
        return self.marked


class World:
    """A store, a clock, and agents that tick when told to."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.coordinator = MemoryCoordinator(self.clock)
        self.events = RecordedEvents()
        self.roles: dict[str, Role] = {}
        self.killed: list[int] = []
        self.pulses = True  #: the children live
        self.traces: Evidence = {}  #: what is found of a dead one
        self.shown: list[Callable[[], None]] = []  #: what is seen when a child is looked at
        self.rescues: dict[str, RecordingRescue] = {}

    def agent(self, name: str, coordinator: Any = None) -> Agent:
        record = WorkerRecord(id=name, host="h", pid=1, pool="default", lane="0", beat=0)
        self.rescues[name] = RecordingRescue(coordinator=self.coordinator)
        return Agent(
            Settings(),
            record,
            coordinator=coordinator or self.coordinator,
            rescue=self.rescues[name],
            events=self.events,  # type: ignore[arg-type]
            on_role=lambda role: self.roles.__setitem__(name, role),
            clock=self.clock,
            kill=lambda pid, _: self.killed.append(pid),
            traces=lambda _: self.traces,
            look_at_child=self._look,
        )

    def _look(self) -> None:
        while self.shown:
            self.shown.pop(0)()

    def run(self, seconds: float, *agents: Agent) -> None:
        for _ in range(round(seconds / 0.25)):
            self.clock.advance(0.25)
            for agent in agents:
                if self.pulses:
                    pulse(agent)
                agent.end_what_is_overdue()
                agent.tick()
                agent.do_chores()

    def primary(self) -> str | None:
        lease = self.coordinator.read("default.0")
        return lease.holder if lease else None


def pulse(*agents: Agent) -> None:
    for agent in agents:
        agent.child_said(CHILD_PID, {"event": "pulse"})


def ready(agent: Agent) -> Agent:
    agent.child_said(CHILD_PID, READY)
    return agent
