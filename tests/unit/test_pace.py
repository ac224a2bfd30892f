"""Budgets of an engine's steps: learned, never below the floor, told before each step."""

from __future__ import annotations

import pytest

from tts_tasks.testing import FakeClock
from tts_workers.pace import Pace


class World:
    """A pace, its clock, and what it told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.told: list[float] = []
        self.pace = Pace(
            self.told.append, floor_s=3.0, factor=5.0, unknown_s=60.0, clock=self.clock
        )

    def speak(self, size: int, took_s: float) -> None:
        with self.pace.step("speak", size):
            self.clock.advance(took_s)


def test_an_unknown_step_gets_the_time_for_a_first_one() -> None:
    """A first step may build caches."""
    assert World().pace.budget_s("speak", 10) == 60.0


def test_a_budget_is_proportional_to_the_size() -> None:
    """Ten times the text, ten times the time."""
    world = World()
    world.speak(10, 1.0)
    assert world.pace.budget_s("speak", 40) == pytest.approx(20.0)
    assert world.pace.budget_s("reference", 1) == 60.0


def test_a_budget_is_never_below_the_floor() -> None:
    """A fast engine gets its three heartbeats too."""
    world = World()
    world.speak(10, 0.001)
    assert world.pace.budget_s("speak", 40) == 3.0


def test_the_mean_follows_an_engine_that_becomes_slower() -> None:
    """New measurements weigh, old ones fade."""
    world = World()
    world.speak(10, 1.0)
    for _ in range(20):
        world.speak(10, 3.0)
    assert world.pace.budget_s("speak", 10) == pytest.approx(15.0, rel=0.01)


def test_a_voice_is_expected_to_load_as_slowly_as_it_did_once() -> None:
    """Found in the cache a hundred times, it may have to be loaded anew; as may any other."""
    world = World()
    for took_s in (4.0, *[0.001] * 100):
        with world.pace.step("voice anna"):
            world.clock.advance(took_s)
    assert world.pace.budget_s("voice anna") == pytest.approx(20.0)
    assert world.pace.budget_s("voice bert") == 60.0


def test_each_step_tells_its_budget_and_its_end() -> None:
    """Also a step that fails; from that one nothing is learned."""
    world = World()
    with pytest.raises(RuntimeError), world.pace.step("speak", 10):
        raise RuntimeError
    assert world.told == [60.0, 0.0]
    assert world.pace.budget_s("speak", 10) == 60.0


def test_what_was_begun_earlier_is_learned_by_how_long_it_took() -> None:
    """An answer that was asked for ahead comes at once; the next one may not."""
    world = World()
    with world.pace.step("speak", 10) as step:
        world.clock.advance(0.1)
        step.took_s = 20.0
    assert world.pace.budget_s("speak", 10) == pytest.approx(100.0)
