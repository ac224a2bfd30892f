"""An agent whose device is broken or hot: when it serves, and when its engine is ended."""

from __future__ import annotations

from tests.agents import CHILD_PID, World, ready
from tts_workers.gpu_health import Verdict


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
