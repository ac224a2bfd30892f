"""What an agent tells of itself with its heartbeat, and what it tells at once."""

from __future__ import annotations

from functools import partial

from tests.agents import CHILD_PID, World, ready
from tts_tasks.testing import MemoryCoordinator


def test_what_a_child_shows_is_told_with_the_heartbeat(world: World) -> None:
    """The registry says which job a worker has in hand, and no longer when it is done."""
    a = ready(world.agent("a"))
    for job in ("b:1", ""):
        world.shown.append(partial(a.child_said, CHILD_PID, {"event": "job", "job": job}))
        world.run(1.5, a)
        record = world.coordinator.workers()["a"]
        assert record is not None
        assert record.job == job


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
