"""Workers live through the fate of their connections: short forms of `connection_rounds`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.drill]

ROOT = Path(__file__).parents[2]
#: The longest that a worker may be stuck, in seconds.
STUCK_S = 20.0


def figures(scenario: str, rounds: int, outage_s: float = 6.0) -> dict[str, Any]:
    """Run a scenario as its own program, on a Redis of its own; nothing may get lost in it."""
    program = [sys.executable, "-m", "tests.e2e.connection_rounds", scenario]
    program += ["--rounds", str(rounds), "--outage-s", str(outage_s)]
    done = subprocess.run(
        program, check=False, cwd=ROOT, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    unwanted = ("lost", "published_twice", "missing", "held", "calls_unanswered")
    assert {name: found[name] for name in unwanted} == dict.fromkeys(unwanted, 0), found
    return found


def test_an_outage_under_load_is_over_when_redis_is_back() -> None:
    """Workers live, nobody led on, callers who waited have their answers."""
    found = figures("outage", rounds=1)
    assert found["alive"] == 2
    assert found["led_on_s"] < 3.0
    assert found["first_job_begun_s"] < 3.0
    assert found["last_worker_begun_s"] < 5.0
    assert found["caller_errors"] == []
    assert found["redone"] == 0


def test_a_restarted_redis_finds_idle_and_busy_workers_again() -> None:
    """Killed and started on the same port, with its data."""
    found = figures("restarts", rounds=2)
    assert found["idle_begun_s"]["max"] < 3.0
    assert found["busy_begun_s"]["max"] < 3.0


def test_a_busy_worker_whose_connections_are_killed_goes_on() -> None:
    """CLIENT KILL of every connection of parent and child; the job in hand is not redone."""
    found = figures("killed-connections", rounds=3)
    assert found["begun_again_s"]["max"] < STUCK_S
    assert (found["redone"], found["dead"]) == (0, 0)


def test_half_open_connections_hold_up_neither_idle_nor_busy_workers() -> None:
    """The other end is gone and nothing says so."""
    found = figures("half-open", rounds=2)
    assert found["idle_begun_s"]["max"] < STUCK_S
    assert found["busy_begun_s"]["max"] < STUCK_S


def test_a_dead_child_is_replaced_at_once() -> None:
    """The worker does not wait for the pool's timer; what it takes is the load of the engine."""
    found = figures("dead-child", rounds=1)
    assert found["begun_again_s"]["max"] < STUCK_S
    assert found["redone"] == 1


def test_a_caller_whose_connection_is_half_open_gets_its_answer() -> None:
    """It looks the result up when it has heard nothing for a while."""
    found = figures("deaf-client", rounds=1)
    assert found["caller_errors"] == []
    assert found["answered_late_s"]["max"] < STUCK_S
