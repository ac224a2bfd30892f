"""The standalone watchdog: which lanes it looks after, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks.coordination.base import Lease, WorkerRecord
from tts_tasks.settings import Settings
from tts_tasks.testing import ALL_KNOWN, FakeClock, MemoryCoordinator
from tts_workers.watch import StandaloneWatchdog

if TYPE_CHECKING:
    from collections.abc import Mapping

SIGNALLED_IN_A_LOCK = """
import os, signal, sys
from tts_workers import watch

def rest(observer, wake):
    with wake._cond:  # as `Event.wait` and `Event.clear` hold it for a moment
        os.kill(os.getpid(), signal.SIGTERM)

watch.Observer.rest = rest
sys.exit(watch.main())
"""


class World:
    """A watchdog of lane 0, its store, and what it told and did."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryCoordinator(self.clock)
        self.noted: list[tuple[str, dict[str, Any]]] = []
        self.observed: dict[str, Lease | None] = {}
        notices: Any = SimpleNamespace(observe=self.observed.__setitem__)
        self.watchdog = StandaloneWatchdog(
            Settings(),
            "watchdog1@h/1",
            coordinator=self.store,
            rescue=self,
            events=self,  # type: ignore[arg-type]
            notices=notices,
            clock=self.clock,
        )

    def note(self, event: str, **fields: Any) -> None:
        self.noted.append((event, fields))

    def flush(self) -> None:
        return

    def recover(self, worker_id: str, *, silent_s: float) -> None:
        self.store.forget(worker_id)

    def give_back_claims(self, worker_id: str, *, child: int | None = None) -> list[str]:
        return []

    def reconcile(self, queue: str, working_on: Mapping[str, str], *, at_once: bool = False) -> int:
        return 0

    def settle_batches(self) -> None:
        return

    def highest_epoch(self) -> int:
        return 0

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.25)):
            self.clock.advance(0.25)
            self.observed.clear()
            self.watchdog.tick()
            self.watchdog.do_chores()


@pytest.fixture
def world() -> World:
    """No worker is registered."""
    return World()


def test_a_lane_whose_last_worker_was_recovered_is_still_looked_after(world: World) -> None:
    """Nobody else is left to tell that it has no primary."""
    record = WorkerRecord(id="w@h/1", host="h", pid=1, pool="default", lane="1", beat=1)
    world.store.beat(record, 60)
    lease = world.store.acquire("default.1", record.id, 60, ALL_KNOWN)
    world.run(1)
    assert world.observed == {"default.0": None, "default.1": lease}
    world.run(4)
    assert world.store.workers() == {}
    assert world.observed == {"default.0": None, "default.1": None}
    ((event, fields),) = world.noted
    assert (event, fields["lane"], fields["by"]) == ("lease.deposed", "default.1", "watchdog1@h/1")


def test_a_signal_ends_the_watchdog_whatever_it_does_at_that_moment(redis_url: str) -> None:
    """Also while it holds the lock that the handler would wait for."""
    finished = subprocess.run(
        [sys.executable, "-c", SIGNALLED_IN_A_LOCK],
        env={**os.environ, "TTS_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


def test_a_wrong_setting_is_one_line(tmp_path: Any) -> None:
    """Whatever part of the set-up finds it."""
    for wrong in ({"TTS_REDIS_URL": "redis://x:abc/0"}, {"TTS_NOTIFY_COMMAND": f"{tmp_path}/no"}):
        finished = subprocess.run(
            [sys.executable, "-m", "tts_workers.watch"],
            env={**os.environ, **wrong},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert finished.returncode == 2
        assert finished.stderr.startswith("Error: ")
        assert len(finished.stderr.splitlines()) == 1
