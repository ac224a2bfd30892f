"""What an agent does for others: each chore stands for itself and is done until it succeeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tts_tasks.errors import StorageError, UnavailableError
from tts_tasks.testing import FakeClock
from tts_workers.chores import Chores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tts_tasks.ledger.records import Evidence


class World:
    """Chores, their clock, and a rescue that notes what it did and fails when told to."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fails: dict[str, Exception] = {}
        self.done: list[str] = []
        self.evidence: list[Evidence | None] = []
        self.epochs: list[int] = []
        self.chores = Chores(
            "me",
            self,
            clock=self.clock,
            reconcile_s=2.5,
            on_epochs=self.epochs.append,
        )
        self.chores.saw({"me": ""}, ["online", "batch"])

    def _do(self, what: str) -> None:
        if what in self.fails:
            raise self.fails[what]
        self.done.append(what)

    def recover(self, worker_id: str, *, silent_s: float) -> None:
        self._do(f"recover {worker_id}")

    def give_back_claims(
        self, worker_id: str, evidence: Evidence | None = None, *, child: int | None = None
    ) -> list[str]:
        self._do(f"give back {child} of {worker_id}")
        self.evidence.append(evidence)
        return []

    def reconcile(self, queue: str, working_on: Mapping[str, str], *, at_once: bool = False) -> int:
        self._do(f"reconcile {queue}" + " at once" * at_once)
        return 0

    def sweep(self) -> None:
        self._do("sweep")

    def settle_batches(self) -> None:
        self._do("complete batches")

    def highest_epoch(self) -> int:
        self._do("read epochs")
        return 3000

    def do(self) -> list[str]:
        self.done.clear()
        self.chores.do()
        return list(self.done)


RECONCILIATION = ["reconcile online", "reconcile batch", "complete batches"]


@pytest.fixture
def world() -> World:
    """Nothing is due but the first reconciliation."""
    return World()


def test_lost_messages_are_looked_for_every_so_often(world: World) -> None:
    """Not at each call."""
    assert world.do() == RECONCILIATION
    assert world.do() == []
    world.clock.advance(2.5)
    assert world.do() == RECONCILIATION


def test_the_storage_is_swept_now_and_then(world: World) -> None:
    """Not at once: all workers may have been started together."""
    world.clock.advance(599)
    assert world.do() == RECONCILIATION
    world.clock.advance(2.5)
    assert world.do() == [*RECONCILIATION, "sweep"]
    world.clock.advance(2.5)
    assert world.do() == RECONCILIATION


def test_nothing_is_taken_for_lost_before_anybody_was_seen(world: World) -> None:
    """Without a reading of the registry every running job would look forsaken."""
    world.chores.saw({}, ["online", "batch"])
    assert world.do() == []


@pytest.mark.parametrize("error", [UnavailableError("away"), StorageError("odd"), ValueError("?")])
def test_a_dead_childs_jobs_are_given_back_until_it_succeeds(
    world: World, error: Exception
) -> None:
    """Nobody else does it: this worker lives on."""
    world.do()
    world.chores.child_died(7, lambda: {"reason": "test"})
    world.fails = {"give back 7 of me": error}
    assert world.do() == []
    world.chores.child_died(8, lambda: {"reason": "another"})
    assert world.do() == ["give back 8 of me"]
    world.fails = {}
    assert world.do() == ["give back 7 of me"]
    assert world.do() == []
    assert world.evidence == [{"reason": "another"}, {"reason": "test"}]


def test_a_child_that_was_ended_as_stuck_is_told_of_as_stuck(world: World) -> None:
    """That it was killed is heard of a moment later, and explains nothing."""
    world.do()
    world.chores.child_died(7, lambda: {"reason": "stuck"})
    world.chores.child_died(7, lambda: {"reason": "killed"})
    assert world.do() == ["give back 7 of me"]
    assert world.evidence == [{"reason": "stuck"}]


@pytest.mark.parametrize("error", [UnavailableError("S3 is away"), StorageError("no rights")])
def test_a_failure_is_told_once_an_outage_with_its_reason(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at each try, of which there are four a second; and as no failure of anything else."""
    world.do()
    for _ in range(2):
        for fails in ({"read epochs": error}, {}):
            world.fails = fails
            for _ in range(3):
                world.chores.read_epochs()
                world.do()
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"epochs: {error}; it is tried again"] * 2


def test_a_chore_that_fails_keeps_none_of_the_others(world: World) -> None:
    """One worker that cannot be recovered must not cost the rest."""
    world.fails = {
        what: UnavailableError("away")
        for what in ("give back 7 of me", "recover a", "reconcile online")
    }
    world.chores.child_died(7, lambda: {"reason": "test"})
    world.chores.worker_died("a", 3.0)
    world.chores.worker_died("b", 3.0)
    assert world.do() == [
        "recover b",
        "reconcile online at once",
        "reconcile batch at once",
        "reconcile batch",
        "complete batches",
    ]


def test_a_dead_worker_is_recovered_once_for_each_time_it_is_named(world: World) -> None:
    """While it is registered and silent, the next decision names it again."""
    world.do()
    world.chores.worker_died("a", 3.0)
    assert world.do() == ["recover a", "reconcile online at once", "reconcile batch at once"]
    assert world.do() == []


def test_the_storage_is_asked_for_epochs_when_it_is_wanted(world: World) -> None:
    """In this thread, as it may hang; where it fails, whoever wants to know asks again."""
    world.do()
    world.fails = {"read epochs": UnavailableError("away")}
    world.chores.read_epochs()
    assert world.do() == []
    world.fails = {}
    assert world.do() == []
    world.chores.read_epochs()
    assert world.do() == ["read epochs"]
    assert world.epochs == [3000]
