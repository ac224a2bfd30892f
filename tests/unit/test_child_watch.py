"""The engine's process watched from its parent."""

from __future__ import annotations

from tts_tasks.testing import FakeClock
from tts_workers.child_watch import ChildWatch, Stuck

PID = 4_000_000


class World:
    """A watch and its clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.watch = ChildWatch(self.clock, pulse_limit_s=3.0, max_step_s=0.5)

    def say(self, event: str, pid: int = PID, **fields: object) -> None:
        self.watch.heard(pid, {"event": event, **fields})

    def stuck_after(self, seconds: float, *, pulse: bool = False) -> Stuck | None:
        for _ in range(round(seconds / 0.25)):
            self.clock.advance(0.25)
            if pulse:
                self.say("pulse")
            if stuck := self.watch.look():
                return stuck
        return None


def ready() -> World:
    world = World()
    world.say("ready")
    return world


def test_nobody_is_watched_before_a_child_is_ready() -> None:
    """It loads; that takes as long as it takes."""
    world = World()
    assert world.stuck_after(60) is None
    world.say("pulse")
    assert world.stuck_after(60) is None


def test_an_idle_child_must_pulse() -> None:
    """Three heartbeats without a word are a hang."""
    world = ready()
    assert world.stuck_after(60, pulse=True) is None
    assert world.stuck_after(2.5) is None
    assert world.stuck_after(1.0) == Stuck(PID, "", 3.0, 3.0)


def test_a_pulse_is_no_progress() -> None:
    """The process runs, but its step has lasted longer than it may."""
    world = ready()
    world.say("job", job="b:1")
    world.say("budget", budget_s=8.0)
    assert world.stuck_after(7.5, pulse=True) is None
    assert world.stuck_after(1.0, pulse=True) == Stuck(PID, "b:1", 8.0, 8.0)


def test_within_its_budget_a_step_need_not_say_a_word() -> None:
    """An engine may hold the interpreter while it speaks."""
    world = ready()
    world.say("budget", budget_s=30.0)
    assert world.stuck_after(29.5) is None
    world.say("budget", budget_s=0.0)
    assert world.stuck_after(2.5) is None


def test_a_stuck_child_is_told_once() -> None:
    """Its end is on the way."""
    world = ready()
    assert world.stuck_after(4)
    assert world.stuck_after(60) is None


def test_a_suspended_parent_counts_one_step_of_its_own_absence() -> None:
    """It does not hold against the child that it was not there itself."""
    world = ready()
    world.clock.advance(3600)
    assert world.watch.look() is None


def test_the_end_of_an_earlier_child_says_nothing_of_this_one() -> None:
    """Two children may overlap when one is replaced."""
    world = ready()
    world.say("ready", pid=PID + 1)
    assert not world.watch.lost(PID)
    assert world.stuck_after(4) == Stuck(PID + 1, "", 3.0, 3.0)
    assert world.watch.lost(PID + 1)
