"""The HA loop under a clock moved by hand: takeover, deadline, readiness, departure."""

from __future__ import annotations

import pytest

from tests.agents import RecordingRescue, World, ready
from tests.recorded_events import RecordedEvents
from tts_tasks.coordination.base import Lease, WorkerRecord
from tts_tasks.errors import UnavailableError
from tts_tasks.settings import Settings
from tts_tasks.testing import MemoryCoordinator
from tts_workers.agent import Agent
from tts_workers.leadership import Role

# -- taking over ----------------------------------------------------------------------------------


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


# -- without a store ------------------------------------------------------------------------------


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
        events=RecordedEvents(),  # type: ignore[arg-type]
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


def test_a_broker_that_is_away_is_no_failure_of_the_leases_store(world: World) -> None:
    """No renewal has failed: nobody is to look for what is wrong with Redis."""
    a = ready(world.agent("a"))
    world.rescues["a"].fails = True
    world.run(10, a)
    assert world.primary() == "a"
    assert world.events.named("lease.renewal_failed") == []


# -- orders and departure -------------------------------------------------------------------------


def test_draining_hands_the_lane_over_and_serves_nothing(world: World) -> None:
    """A worker that shuts down leaves the lane first."""
    a, b = ready(world.agent("a")), ready(world.agent("b"))
    world.run(1, a, b)
    a.drain()
    world.run(0.25, a, b)
    assert world.primary() == "b"
    assert world.roles["a"] == Role(serving=False, leadership=None, others_ready=1)


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


# -- epochs ---------------------------------------------------------------------------------------


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
