"""The HA loop under a clock moved by hand: takeover, deadline, readiness, departure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks.coordination.base import Lease, WorkerRecord
from tts_tasks.errors import UnavailableError
from tts_tasks.settings import Settings
from tts_tasks.testing import FakeClock, MemoryCoordinator
from tts_workers.agent import Agent
from tts_workers.gpu_health import Verdict
from tts_workers.leadership import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tts_tasks.ledger.records import Evidence

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


class RecordingEvents:
    """Notes events."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def emit(self, event: str, **fields: Any) -> None:
        self.seen.append((event, fields))

    note = emit

    def flush(self) -> None:
        return

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.seen if name == event]


class World:
    """A store, a clock, and agents that tick when told to."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.coordinator = MemoryCoordinator(self.clock)
        self.events = RecordingEvents()
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


@pytest.fixture
def world() -> World:
    """An empty cluster."""
    return World()


def pulse(*agents: Agent) -> None:
    for agent in agents:
        agent.child_said(CHILD_PID, {"event": "pulse"})


def ready(agent: Agent) -> Agent:
    agent.child_said(CHILD_PID, READY)
    return agent


def test_a_worker_leads_only_after_its_engine_has_spoken(world: World) -> None:
    """Loading is not ready; ready is a candidate."""
    a = world.agent("a")
    world.run(5, a)
    assert world.primary() is None
    ready(a)
    world.run(0.5, a)
    assert world.primary() == "a"
    assert world.roles["a"].leadership is not None


def test_the_standby_takes_over_after_three_missed_heartbeats_and_not_before(
    world: World,
) -> None:
    """Silence of three heartbeats deposes; the dead worker's work is given back."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(3, a, b)
    assert world.primary() == "a"
    world.run(2.0, b)
    assert world.rescues["b"].recovered == []
    world.run(2.0, b)
    assert world.primary() == "b"
    assert world.rescues["b"].recovered == ["a"]


def test_a_killed_primary_is_succeeded_as_soon_as_its_connection_stayed_closed(
    world: World,
) -> None:
    """Kill -9 is known by the kernel; three heartbeats are for what is silent."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(3, a, b)
    world.coordinator.vanished.add("a")
    world.run(1.0, b)
    assert world.primary() == "b"
    assert world.rescues["b"].recovered == ["a"]


def test_the_store_clock_alone_deposes_nobody(world: World) -> None:
    """A lease that the store would keep for an hour does not keep a dead primary."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    lease = world.coordinator.read("default.0")
    assert lease is not None
    world.coordinator.renew("default.0", lease, 3600)
    world.run(4, b)
    assert world.primary() == "b"


def test_a_primary_that_comes_back_is_a_standby(world: World) -> None:
    """After a pause the old primary sees that it lost the lane, and serves on as standby."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    world.run(5, b)
    world.run(1, a, b)
    assert world.primary() == "b"
    assert a.leadership is None
    assert world.roles["a"] == Role(serving=True, leadership=None, others_ready=1)
    assert set(world.coordinator.workers()) == {"a", "b"}


class CutOff(MemoryCoordinator):
    """A store that can be cut off."""

    cut = False

    def beat(self, record: WorkerRecord, ttl_s: float) -> None:
        if self.cut:
            raise UnavailableError("cut off")
        super().beat(record, ttl_s)

    def read(self, lane_key: str) -> Lease | None:
        if self.cut:
            raise UnavailableError("cut off")
        return super().read(lane_key)


def test_a_primary_without_a_store_stops_leading_before_its_lease_lapses(world: World) -> None:
    """The belief ends at the renew deadline, the lease lives longer: no two leaders."""
    store = CutOff(world.clock)
    world.coordinator = store
    a = ready(world.agent("a", store))
    world.run(1, a)
    assert a.leadership is not None
    store.cut = True
    led_until = a.leadership.deadline_s
    for _ in range(100):
        if a.leadership is not None:
            world.run(0.25, a)
    assert a.leadership is None
    store.cut = False
    world.clock.now_s = led_until + 0.1
    assert world.primary() == "a"  # in the store the lease was still alive then


@pytest.mark.parametrize("leaving", [False, True])
def test_the_deadline_ends_leadership_without_the_store_thread(leaving: bool) -> None:
    """A thread of its own ends the belief while the other waits for a store that hangs.

    Also in a worker that leaves: it must ask the store to take its lease back.
    """
    import threading
    import time

    hangs = threading.Event()
    released = threading.Event()
    demoted = threading.Event()

    class Hanging(MemoryCoordinator):
        armed = False

        def beat(self, record: WorkerRecord, ttl_s: float) -> None:
            if self.armed:
                hangs.set()
                released.wait(30)
            super().beat(record, ttl_s)

        def renew(self, lane_key: str, lease: Lease, ttl_s: float) -> bool:
            if self.armed:
                released.wait(30)
            return super().renew(lane_key, lease, ttl_s)

    store = Hanging(time.monotonic)  # type: ignore[arg-type]
    settings = Settings(heartbeat_s=0.1, request_timeout_s=0.02, lease_ttl_s=0.6)

    def on_role(role: Role) -> None:
        if role.leadership:
            store.armed = True
        elif store.armed:
            demoted.set()

    agent = Agent(
        settings,
        WorkerRecord(id="a", host="h", pid=1, pool="default", lane="0", beat=0),
        coordinator=store,
        rescue=RecordingRescue(),
        events=RecordingEvents(),  # type: ignore[arg-type]
        on_role=on_role,
        clock=time.monotonic,
        kill=lambda *_: None,
    )
    agent.start()
    ready(agent)
    try:
        assert hangs.wait(20)
        if leaving:
            agent.leave()
        assert demoted.wait(20)
        assert agent.leadership is None
    finally:
        released.set()
        agent.leave()


def test_a_dead_child_hands_the_lane_over_at_once_and_its_job_back(world: World) -> None:
    """The parent does not wait for heartbeats to learn what the kernel told it."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    a.child_lost(CHILD_PID)
    world.run(0.25, a, b)
    assert world.primary() == "b"
    assert world.rescues["a"].given_back == ["a"]
    assert world.roles["a"].serving is False


def test_what_a_dead_child_said_last_goes_with_its_job(world: World) -> None:
    """How it ended is asked of its traces, once it is dead."""
    world.traces = {"signal": "SIGSEGV"}
    a = ready(world.agent("a"))
    a.child_said(CHILD_PID, {"event": "job", "job": "b:1"})
    a.child_said(CHILD_PID, {"event": "segment", "segment": 2, "segments": 3})
    a.child_said(CHILD_PID, {"event": "log", "lines": ["ERROR hot"]})
    a.child_lost(CHILD_PID)
    a.do_chores()
    (evidence,) = world.rescues["a"].evidence
    assert evidence["reason"] == "the engine's process was killed by SIGSEGV at segment 2 of 3"
    assert (evidence["job"], evidence["log"]) == ("b:1", ["ERROR hot"])


def test_what_a_dead_child_showed_last_goes_with_its_job(world: World) -> None:
    """Nobody had looked since it began with it."""
    a = ready(world.agent("a"))
    world.shown.append(lambda: a.child_said(CHILD_PID, {"event": "job", "job": "b:2"}))
    a.child_lost(CHILD_PID)
    a.do_chores()
    (evidence,) = world.rescues["a"].evidence
    assert evidence["job"] == "b:2"


def test_what_a_child_shows_is_told_with_the_heartbeat(world: World) -> None:
    """The registry says which job a worker has in hand, and no longer when it is done."""
    a = ready(world.agent("a"))
    for job in ("b:1", ""):
        world.shown.append(partial(a.child_said, CHILD_PID, {"event": "job", "job": job}))
        world.run(1.5, a)
        record = world.coordinator.workers()["a"]
        assert record is not None
        assert record.job == job


def test_a_log_line_is_no_progress(world: World) -> None:
    """A thread that complains does not keep a hanging engine alive."""
    a = ready(world.agent("a"))
    a.child_said(CHILD_PID, {"event": "job", "job": "b:1"})
    a.child_said(CHILD_PID, {"event": "budget", "budget_s": 6.0})
    for _ in range(26):
        world.run(0.25, a)
        a.child_said(CHILD_PID, {"event": "log", "lines": ["WARNING still here"]})
    assert world.killed == [CHILD_PID]
    (evidence,) = world.rescues["a"].evidence
    assert "no progress for 6.0 s" in evidence["reason"]
    assert evidence["log"][-1] == "WARNING still here"


def test_a_child_knows_how_many_others_could_take_a_job(world: World) -> None:
    """Ready, not draining, and of the same pool."""
    a, b, c = (world.agent(name) for name in "abc")
    ready(a)
    world.run(0.5, a, b, c)
    assert world.roles["a"].others_ready == 0
    ready(b), ready(c)
    world.run(0.5, a, b, c)
    assert world.roles["a"].others_ready == 2
    c.drain()
    world.run(0.5, a, b, c)
    assert world.roles["a"].others_ready == 1
    other = WorkerRecord(
        id="z", host="h", pid=1, pool="other", lane="0", beat=1, ready=True, draining=False
    )
    world.coordinator.beat(other, 60)
    world.run(0.5, a, b, c)
    assert world.roles["a"].others_ready == 1


def test_draining_hands_the_lane_over_and_serves_nothing(world: World) -> None:
    """A worker that shuts down leaves the lane first."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    a.drain()
    world.run(0.25, a, b)
    assert world.primary() == "b"
    assert world.roles["a"] == Role(serving=False, leadership=None, others_ready=1)


def test_at_no_moment_do_two_agents_believe_they_lead(world: World) -> None:
    """Over many pauses of random length the beliefs never overlap."""
    import random

    rng = random.Random(7)
    agents = [ready(world.agent(name)) for name in "abc"]
    paused: dict[str, float] = {}
    changes = set()
    for _ in range(4000):
        world.clock.advance(0.05)
        for agent in agents:
            if paused.get(agent.id, 0) > world.clock():
                continue
            if rng.random() < 0.002:
                paused[agent.id] = world.clock() + rng.uniform(0.5, 8)
                continue
            agent.tick()
            agent.do_chores()
        believers = [
            agent
            for agent in agents
            if paused.get(agent.id, 0) <= world.clock()
            and agent.leadership
            and agent.leadership.deadline_s > world.clock()
        ]
        assert len(believers) <= 1
        changes.add(world.primary())
    assert {"a", "b", "c"} <= changes


def test_an_engine_that_makes_no_progress_is_killed_and_the_lane_handed_over(
    world: World,
) -> None:
    """The agent beats on, the engine hangs: within its budget it is left alone, then ended."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    a.child_said(CHILD_PID, {"event": "job", "job": "b:1"})
    a.child_said(CHILD_PID, {"event": "budget", "budget_s": 6.0})
    world.run(5.75, a, b)
    assert world.killed == []
    assert world.primary() == "a"
    world.run(0.5, a, b)
    assert world.killed == [CHILD_PID]
    assert world.primary() == "b"
    assert world.rescues["a"].given_back == ["a"]
    (stuck,) = world.events.named("worker.stuck")
    assert (stuck["worker"], stuck["job"], stuck["budget_s"]) == ("a", "b:1", 6.0)


def test_an_engine_that_gets_on_is_left_alone_for_hours(world: World) -> None:
    """A long text is many steps, each within its budget."""
    a = ready(world.agent("a"))
    for _ in range(1000):
        a.child_said(CHILD_PID, {"event": "budget", "budget_s": 6.0})
        world.run(5.0, a)
        a.child_said(CHILD_PID, {"event": "budget", "budget_s": 0.0})
    assert world.killed == []
    assert world.primary() == "a"


def test_an_idle_child_that_does_not_run_is_killed(world: World) -> None:
    """A stopped child would take the next job and never begin it."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    world.pulses = False
    for _ in range(16):
        pulse(b)
        world.run(0.25, a, b)
    assert world.killed == [CHILD_PID]
    assert world.primary() == "b"


def test_a_parent_that_was_suspended_does_not_blame_its_child(world: World) -> None:
    """Parent and child stopped together and go on together."""
    a = ready(world.agent("a"))
    world.run(1, a)
    world.clock.advance(3600)
    a.end_what_is_overdue()
    assert world.killed == []


def test_a_child_that_loads_may_take_its_time(world: World) -> None:
    """Before it is ready nothing is expected of it; a new child is watched anew."""
    a = ready(world.agent("a"))
    a.child_lost(CHILD_PID)
    a.child_said(CHILD_PID + 1, {"event": "pulse"})
    world.pulses = False
    world.run(60, a)
    assert world.killed == []


def test_an_ordered_switchover_moves_the_lane_to_the_chosen_worker(world: World) -> None:
    """Only the successor takes it, though another is asked first."""
    a, b, c = (ready(world.agent(name)) for name in "abc")
    world.run(1, a, b, c)
    world.coordinator.reserve("default.0", "c", 6.0)
    world.run(0.25, a, b, c)
    assert world.primary() == "c"
    assert world.roles["a"] == Role(serving=True, leadership=None, others_ready=2)
    assert [e["reason"] for e in world.events.named("lease.released")] == ["switchover to c"]


def test_a_successor_that_dies_does_not_keep_the_lane_empty(world: World) -> None:
    """The reservation lapses, and the others may lead again."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    world.coordinator.reserve("default.0", "gone", 6.0)
    world.run(0.25, a, b)
    assert world.primary() is None
    world.run(6, a, b)
    assert world.primary() in {"a", "b"}


def test_a_drained_worker_hands_over_and_serves_again_when_told(world: World) -> None:
    """The order holds until it is taken back; a shutdown is not taken back by it."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    world.coordinator.drain("default.0", "a", "new driver")
    world.run(0.5, a, b)
    assert world.primary() == "b"
    assert world.roles["a"] == Role(serving=False, leadership=None, others_ready=1)
    world.coordinator.undrain("default.0", "a")
    world.run(0.25, a, b)
    assert world.roles["a"] == Role(serving=True, leadership=None, others_ready=1)
    a.drain()
    world.run(0.5, a, b)
    assert world.roles["a"].serving is False


def test_a_drained_worker_that_was_taken_for_dead_comes_back_drained(world: World) -> None:
    """An operator works on its machine: a pause of the process changes nothing about that."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    world.coordinator.drain("default.0", "b", "dust")
    world.run(1, a, b)
    world.run(5, a)
    assert world.rescues["a"].recovered == ["b"]
    world.run(1, a, b)
    assert world.roles["b"].serving is False


def test_a_broker_that_is_away_is_no_failure_of_the_leases_store(world: World) -> None:
    """No renewal has failed: nobody is to look for what is wrong with Redis."""
    a = ready(world.agent("a"))
    world.rescues["a"].fails = True
    world.run(10, a)
    assert world.primary() == "a"
    assert world.events.named("lease.renewal_failed") == []


def test_a_store_that_lost_its_counter_gets_no_epoch_twice(world: World) -> None:
    """What survivors have seen, and what artifacts say, is the floor of the next epoch."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.rescues["a"].marked = 3000
    world.run(1, a)
    lease = world.coordinator.read("default.0")
    assert lease == Lease(3001, "a")
    world.run(1, a, b)
    world.coordinator.store.lose_data()
    world.run(1, b)
    assert world.coordinator.read("default.0") == Lease(3002, "b")


def test_what_a_worker_has_seen_of_epochs_is_told_to_the_others(world: World) -> None:
    """A worker that comes when lease and counter are gone learns it from the records."""
    a = ready(world.agent("a"))
    world.rescues["a"].marked = 41
    world.run(2, a)
    a.drain()
    world.run(2, a)
    b = ready(world.agent("b"))
    world.coordinator.store.leases.clear()
    world.coordinator.store.epochs.clear()
    world.run(0.5, b)
    lease = world.coordinator.read("default.0")
    assert lease == Lease(43, "b")


def test_a_new_presence_connection_is_told_at_once(world: World) -> None:
    """The others wait for it no longer than their grace, which is less than a heartbeat."""

    class Reconnecting(MemoryCoordinator):
        connection = "1"

        def presence(self) -> str:
            return self.connection

    store = Reconnecting(world.clock)
    a = world.agent("a", store)
    world.run(0.25, a)
    store.connection = ""
    world.run(0.25, a)
    store.connection = "2"
    world.run(0.25, a)
    record = store.workers()["a"]
    assert record is not None
    assert (record.presence, record.beat) == ("2", 2)


# -- the device -----------------------------------------------------------------------------------


def test_a_broken_device_gives_the_lane_away_and_ends_its_engine(world: World) -> None:
    """At once; it serves again when it is well and the engine has spoken anew."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    a.child_said(CHILD_PID, {"event": "job", "job": "default.0:1"})
    a.device_said(Verdict(broken="Xid 79", faults=1), {"temperature_c": 61})
    assert world.killed == [CHILD_PID]
    assert not world.roles["a"].serving
    world.run(0.5, a, b)
    assert world.primary() == "b"
    assert world.rescues["a"].given_back == ["a"]
    assert "its device is broken: Xid 79" in world.rescues["a"].evidence[0]["reason"]
    record = world.coordinator.workers()["a"]
    assert record is not None
    assert (record.ready, record.fault, record.gpu) == (False, "Xid 79", {"temperature_c": 61})
    ready(a)  # its successor speaks, but the device is not well yet
    assert not world.roles["a"].serving
    world.run(0.5, a, b)
    assert not world.roles["a"].serving
    a.device_said(Verdict(broken="Xid 79", faults=1), {})
    assert world.killed == [CHILD_PID]
    a.device_said(Verdict(faults=1), {})
    world.run(0.5, a, b)
    assert world.roles["a"].serving
    assert [fields["reason"] for fields in world.events.named("worker.device_fault")] == ["Xid 79"]
    assert len(world.events.named("worker.device_well")) == 1


def test_a_device_that_gets_well_before_its_engine_has_spoken_does_not_serve(world: World) -> None:
    """Ready means it has spoken, since the fault."""
    a = ready(world.agent("a"))
    a.device_said(Verdict(broken="lost", faults=1), {})
    a.device_said(Verdict(faults=1), {})
    world.run(0.5, a)
    assert not world.roles["a"].serving
    ready(a)
    assert world.roles["a"].serving


def test_an_engine_that_was_there_at_another_fault_is_ended_too(world: World) -> None:
    """Its successor may have been hit by the next error."""
    a = ready(world.agent("a"))
    a.device_said(Verdict(broken="Xid 79", faults=1), {})
    ready(a)
    a.device_said(Verdict(broken="Xid 48", faults=2), {})
    assert world.killed == [CHILD_PID] * 2
    assert world.coordinator.workers() == {}  # nothing of it waits for the store


def test_a_hot_device_steps_back_while_a_cooler_one_is_ready(world: World) -> None:
    """It goes on with what it has in hand, and serves again where nobody else can."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    a.device_said(Verdict(hot="too hot"), {})
    world.run(0.5, a, b)
    assert (world.primary(), world.killed) == ("b", [])
    assert not world.roles["a"].serving
    b.child_lost(CHILD_PID)
    world.run(1.0, a, b)
    assert world.primary() == "a"
    ready(b)
    b.device_said(Verdict(hot="too hot"), {})
    world.run(1.0, a, b)
    assert world.roles["a"].serving
    assert world.roles["b"].serving, "all are hot: all serve"
    b.device_said(Verdict(), {})
    world.run(1.5, a, b)
    assert world.primary() == "b"
    assert not world.roles["a"].serving
