"""Budgets of steps are told to the parent and to the watchdog, as seldom as is safe."""

from __future__ import annotations

import pytest

from tts_tasks.testing import FakeClock
from tts_workers.step_budgets import HANGS_SHARE, StepBudgets


class World:
    """Budgets, their clock, what the parent believes, and when the stacks will be written."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.told: list[float] = []
        self.armed: list[float] = []
        self.budgets = StepBudgets(self.told.append, self._arm, self.clock)
        self.written_s = 0.0

    def _arm(self, in_s: float) -> None:
        self.armed.append(in_s)
        self.written_s = self.clock() + in_s if in_s else 0.0


def test_the_first_step_is_told_at_once() -> None:
    """The parent and the watchdog hear of it before it begins."""
    world = World()
    world.budgets(10.0)
    assert world.told == [10.0]
    assert world.armed == [pytest.approx(10.0 * HANGS_SHARE)]


def test_short_steps_do_not_arm_the_watchdog_again() -> None:
    """A hundred steps between two pulses cost one arming; the parent is told of each."""
    world = World()
    for _ in range(100):
        world.budgets(3.0)
        world.clock.advance(0.001)
        world.budgets(0.0)
    assert len(world.armed) == 1
    assert world.told == [3.0] * 100


def test_a_pulse_after_the_last_step_calls_everybody_off() -> None:
    """Between steps the parent waits for pulses, and no stack is written; once is enough."""
    world = World()
    world.budgets(3.0)
    world.budgets(0.0)
    world.budgets.keep()
    world.budgets.keep()
    assert world.told == [3.0, 0.0]
    assert world.armed[1:] == [0.0]


def test_a_pulse_moves_the_watchdog_to_the_step_in_hand() -> None:
    """What was armed for an earlier step is not written while a later one has time left."""
    world = World()
    world.budgets(3.0)
    world.budgets(0.0)
    world.clock.advance(1.0)
    world.budgets(10.0)
    assert world.written_s == pytest.approx(world.clock() - 1.0 + 3.0 * HANGS_SHARE)
    world.budgets.keep()
    assert world.written_s == pytest.approx(world.clock() + 10.0 * HANGS_SHARE)
    world.budgets.keep()
    assert len(world.armed) == 2


def test_a_step_with_less_time_than_what_is_armed_arms_at_once() -> None:
    """Nobody is killed before the stacks were written, even if no pulse ever comes."""
    world = World()
    world.budgets(60.0)
    world.budgets(0.0)
    world.budgets(3.0)
    assert world.written_s == pytest.approx(world.clock() + 3.0 * HANGS_SHARE)


def test_what_was_armed_and_written_is_armed_again() -> None:
    """A watchdog that has barked does not bark for the next step by itself."""
    world = World()
    world.budgets(3.0)
    world.clock.advance(5.0)
    world.budgets(0.0)
    world.budgets(3.0)
    assert world.written_s == pytest.approx(world.clock() + 3.0 * HANGS_SHARE)
