"""What a worker believes about its lease: no longer than is safe, whatever the store answers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pytest

from tts_tasks.errors import EpochsUnknownError
from tts_tasks.settings import Settings
from tts_tasks.testing import ALL_KNOWN, FakeClock, MemoryCoordinator, MemoryStore
from tts_workers.lease_keeper import LeaseKeeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.coordination.base import Lease

P = ParamSpec("P")
T = TypeVar("T")
LANE = "default.0"
SETTINGS = Settings()


class World:
    """A keeper, its clock, its store, the way to it, and what the keeper told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.way_there_s = self.way_back_s = 0.0
        self.asked_s = 0.0  #: when the last request was sent
        self.meanwhile: Callable[[], object] = lambda: None  #: while a request is on its way
        self.told: list[tuple[str, str]] = []
        self.coordinator = MemoryCoordinator(store=self.store, wire=self.wire)
        self.keeper = LeaseKeeper(
            self.coordinator,
            SETTINGS,
            self,  # type: ignore[arg-type]  # takes events down
            "a",
            clock=self.clock,
            mutex=threading.RLock(),
            on_change=lambda: None,
        )
        self.keeper.saw(0, is_all=True)

    def wire(self, effect: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Carry a request to the store and its answer back; both take their time."""
        self.asked_s = self.clock()
        self.clock.advance(self.way_there_s)
        self.meanwhile()
        answer = effect(*args, **kwargs)
        self.clock.advance(self.way_back_s)
        return answer

    def note(self, event: str, **fields: Any) -> None:
        self.told.append((event, fields.get("reason", "")))

    def leads(self) -> bool:
        return self.keeper.leadership is not None

    def acquire(self) -> Lease:
        lease = self.keeper.acquire()
        assert lease is not None
        return lease


@pytest.fixture
def world() -> World:
    """A free lane."""
    return World()


@pytest.mark.parametrize(("way_there_s", "way_back_s"), [(0.3, 0.0), (0.0, 0.3), (0.2, 0.2)])
def test_the_deadline_counts_from_before_the_request_was_sent(
    world: World, way_there_s: float, way_back_s: float
) -> None:
    """Nobody knows when the store did it: not before it was asked, so a belief ends by then."""
    world.way_there_s, world.way_back_s = way_there_s, way_back_s
    lease = world.acquire()
    for _ in range(2):
        leads = world.keeper.leadership
        assert leads is not None
        assert leads.deadline_s == world.asked_s + SETTINGS.renew_deadline_s
        world.clock.advance(1.0)
        world.keeper.renew(lease)


@pytest.mark.parametrize("late_s", [SETTINGS.renew_deadline_s, 3600.0])
def test_an_answer_that_comes_after_the_deadline_is_not_believed(
    world: World, late_s: float
) -> None:
    """The lease may be somebody else's by then."""
    world.way_back_s = late_s
    assert world.keeper.acquire() is None
    assert not world.leads()
    assert world.told == []


@pytest.mark.parametrize("guarded", [False, True])
def test_a_late_answer_does_not_bring_an_ended_belief_back(world: World, guarded: bool) -> None:
    """A renewal is in flight when the deadline passes: who was demoted may not lead again."""
    lease = world.acquire()
    world.clock.advance(1.5)
    world.meanwhile = world.keeper.demote_if_overdue if guarded else lambda: None
    world.way_there_s = 0.6
    world.keeper.renew(lease)
    world.keeper.demote_if_overdue()
    assert not world.leads()
    assert [event for event, _ in world.told] == ["lease.acquired", "lease.demoted"]


def test_a_renewal_in_flight_does_not_undo_a_release(world: World) -> None:
    """Nor is it a failure that the lease is gone when it comes to the store."""
    lease = world.acquire()

    def release() -> None:
        world.meanwhile = lambda: None
        world.keeper.demote(lease, "draining")
        world.keeper.remove(lease, "draining")

    world.meanwhile = release
    world.keeper.renew(lease)
    assert not world.leads()
    told = [event for event, _ in world.told]
    assert told == ["lease.acquired", "lease.demoted", "lease.released"]


def test_a_refused_renewal_ends_the_belief_at_once(world: World) -> None:
    """The lease is gone or somebody else's: the deadline is not waited for."""
    lease = world.acquire()
    world.store.leases.clear()
    world.keeper.renew(lease)
    assert not world.leads()
    assert [event for event, _ in world.told] == [
        "lease.acquired",
        "lease.renewal_failed",
        "lease.demoted",
    ]


def test_a_belief_ends_at_its_deadline_without_asking_anybody(world: World) -> None:
    """Rule 6; what is left until then is told."""
    lease = world.acquire()
    world.clock.advance(SETTINGS.renew_deadline_s - 0.5)
    assert world.keeper.demote_if_overdue() == pytest.approx(0.5)
    assert world.leads()
    world.clock.advance(0.5)
    assert world.keeper.demote_if_overdue() is None
    assert not world.leads()
    assert world.told[-1] == ("lease.demoted", "the renew deadline passed")
    assert world.coordinator.read(LANE) == lease  # it lives on in the store: no two leaders


def test_a_late_word_about_an_earlier_lease_changes_nothing(world: World) -> None:
    """A demotion is of one lease, not of whatever is held now."""
    earlier = world.acquire()
    world.keeper.demote(earlier, "draining")
    world.keeper.remove(earlier, "draining")
    lease = world.acquire()
    assert lease.epoch > earlier.epoch
    world.keeper.demote(earlier, "the renewal was refused")
    leads = world.keeper.leadership
    assert leads is not None
    assert leads.lease == lease


def test_what_the_storage_said_of_epochs_is_used_once(world: World) -> None:
    """A store that loses its counter again may have given epochs out since: it is asked anew."""
    first = world.acquire()
    world.keeper.demote(first, "draining")
    world.store.lose_data()
    with pytest.raises(EpochsUnknownError):
        world.keeper.acquire()
    world.keeper.saw(7, is_all=True)
    assert world.acquire().epoch == 8


def test_a_new_epoch_is_greater_than_any_that_was_seen(world: World) -> None:
    """Whoever told of it, and in whatever order."""
    for epoch in (3, 41, 7):
        world.keeper.saw(epoch)
    assert world.acquire().epoch == 42


def test_what_the_storage_said_is_not_all_once_somebody_has_led(world: World) -> None:
    """A standby must ask again when the counter is lost after another worker's leadership."""
    world.keeper.saw(1000, is_all=True)
    other = world.coordinator.acquire(LANE, "other", 30, ALL_KNOWN)
    assert other is not None
    world.keeper.saw_lease(other)
    world.store.lose_data()
    with pytest.raises(EpochsUnknownError):
        world.keeper.acquire()
    assert world.keeper.highest_epoch == 1000
