"""An agent's child: one that dies or hangs costs it the lane, and its job goes to others."""

from __future__ import annotations

from tests.agents import CHILD_PID, World, pulse, ready

# -- a child that dies ----------------------------------------------------------------------------


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


# -- a child that hangs ---------------------------------------------------------------------------


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
