"""Who is told what, how often, and what becomes of notices that nobody takes."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.receiver import Receiver, receiver
from tests.recorded_events import RecordedEvents
from tests.waiting import eventually
from tts_tasks import keys
from tts_tasks.coordination.base import Lease
from tts_tasks.errors import DeliveryError
from tts_tasks.events import EventLog
from tts_tasks.settings import Settings, signing_keys
from tts_tasks.testing import FakeClock
from tts_workers.notice_courier import Courier, Retries
from tts_workers.notice_targets import Notice, Webhook, signatures
from tts_workers.notices import Ending, Notices, RedisMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LANE = "default.0"
W1, W2, W3 = "w1@h/1", "w2@h/2", "w3@h/3"
QUICK = Retries(first_s=0.01, longest_s=0.05, give_up_after_s=30.0)


class Inbox:
    """A target that keeps what it gets, and fails as often as it is told."""

    name = "inbox"

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.tries = 0
        self.got: list[Notice] = []

    def send(self, notice: Notice) -> None:
        self.tries += 1
        if self.tries <= self.failures:
            raise DeliveryError("not now")
        self.got.append(notice)


class StuckTarget:
    """A target whose first delivery lasts until it is let go."""

    name = "stuck"

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.got: list[str] = []

    def send(self, notice: Notice) -> None:
        self.begun.set()
        self.let_go.wait(60)
        self.got.append(notice.id)


class MemoryOf:
    """A store that remembers one ending, and lets everybody tell."""

    def __init__(self, *endings: Ending | None) -> None:
        self.endings = list(endings)
        self.leader: str | None = None

    def first_to_tell(self, lane: str, epoch: int) -> int | None:
        return epoch or None

    def ending_before(self, lane: str, epoch: int, successor: str) -> Ending | None:
        return self.endings.pop(0) if self.endings else None

    def leader_before(self, lane: str, epoch: int) -> str | None:
        return self.leader


@pytest.fixture
def notices() -> Iterator[Callable[..., Notices]]:
    """Make started notices; they are closed after the test."""
    made: list[Notices] = []

    def make(*targets: Any, worker: str = W2, memory: Any = None, **options: Any) -> Notices:
        notices = Notices(
            targets,
            worker=worker,
            events=options.pop("events", RecordedEvents()),
            memory=memory or MemoryOf(),
            no_primary_after_s=6.0,
            max_step_s=1.0,
            retries=QUICK,
            **options,
        )
        notices.start()
        made.append(notices)
        return notices

    yield make
    for notices in made:
        notices.close()


def notice(number: int = 1) -> Notice:
    return Notice(f"default:0-{number}", "lane.failover", "t", "x", {"lane": LANE})


# -- what is told ---------------------------------------------------------------------------------


def test_a_failover_is_told_once_by_the_new_primary(notices: Callable[..., Notices]) -> None:
    """Who led, who leads, under which epoch, why, and for how long nobody did."""
    inbox, clock = Inbox(), FakeClock()
    memory = MemoryOf(Ending(6, W1, "its connection was closed"))
    told = notices(inbox, memory=memory, clock=clock)
    told.observe(LANE, Lease(6, W1))
    for _ in range(3):
        clock.advance(0.25)
        told.observe(LANE, None)
    told.acquired(LANE, Lease(7, W2))
    for _ in range(50):
        clock.advance(1)
        told.observe(LANE, Lease(7, W2))
    (got,) = eventually(lambda: inbox.got)
    told.close()
    assert len(inbox.got) == 1
    assert (got.id, got.type) == ("default:0-7", "lane.failover")
    assert got.data == {
        "lane": LANE, "epoch": 7, "old_holder": W1, "new_holder": W2,
        "reason": "its connection was closed", "gap_s": 0.75, "told_by": W2,
    }  # fmt: skip
    assert all(word in got.text for word in (LANE, W1, W2, "connection"))


def test_the_first_leadership_of_a_lane_is_no_failover(notices: Callable[..., Notices]) -> None:
    """A cluster that starts calls nobody, also with the epochs of an emptied Redis."""
    inbox = Inbox()
    told = notices(inbox)
    told.observe("a.0", None)
    told.acquired("a.0", Lease(1, W2))
    told.acquired("b.0", Lease(1001, W2))
    told.acquired("a.0", Lease(2, W2))
    assert [n.id for n in eventually(lambda: inbox.got)] == ["a:0-2"]


def test_after_the_death_of_all_who_knew_the_new_primary_is_told(
    notices: Callable[..., Notices],
) -> None:
    """The first worker that starts again has seen nobody lead; the events remember."""
    inbox, memory = Inbox(), MemoryOf()
    memory.leader = W1
    notices(inbox, memory=memory).acquired(LANE, Lease(8, W2))
    (got,) = eventually(lambda: inbox.got)
    assert (got.data["old_holder"], got.data["reason"]) == (W1, "its lease was gone")


def test_a_lease_that_was_never_led_under_is_neither_led_nor_lost(
    notices: Callable[..., Notices],
) -> None:
    """Its answer was lost: the new primary did not succeed itself."""
    inbox, clock = Inbox(), FakeClock()
    told = notices(inbox, memory=MemoryOf(*[Ending(6, W1, "it is silent")] * 5), clock=clock)
    told.observe(LANE, Lease(6, W1))
    for lease in (Lease(7, W2), None):
        clock.advance(0.25)
        told.observe(LANE, lease)
    told.acquired(LANE, Lease(8, W2))
    (got,) = eventually(lambda: inbox.got)
    assert (got.data["old_holder"], got.data["reason"]) == (W1, "it is silent")
    assert got.data["gap_s"] == 0.5


def test_the_reason_may_be_written_a_moment_after_the_successor_has_acquired(
    notices: Callable[..., Notices],
) -> None:
    """Another worker deposed: its event is waited for, an older one is not taken for it."""
    inbox = Inbox()
    older, right = Ending(4, W3, "draining"), Ending(6, W1, "it is silent")
    told = notices(inbox, memory=MemoryOf(None, older, right))
    told.observe(LANE, Lease(6, W1))
    told.acquired(LANE, Lease(7, W2))
    (got,) = eventually(lambda: inbox.got)
    assert (got.data["old_holder"], got.data["reason"]) == (W1, "it is silent")


def test_without_a_reason_in_the_stream_the_observed_holder_is_told(
    notices: Callable[..., Notices],
) -> None:
    """A lease that lapsed was removed by nobody."""
    inbox = Inbox()
    told = notices(inbox, memory=MemoryOf(*[Ending(4, W3, "draining")] * 5))
    told.observe(LANE, Lease(6, W1))
    told.acquired(LANE, Lease(7, W2))
    (got,) = eventually(lambda: inbox.got)
    assert (got.data["old_holder"], got.data["reason"]) == (W1, "its lease was gone")


def test_a_lane_without_a_primary_is_told_once_a_loss(notices: Callable[..., Notices]) -> None:
    """After twice the lease's time to live, not before; and again after the next loss."""
    inbox, clock = Inbox(), FakeClock()
    told = notices(inbox, clock=clock)

    def look(seconds: float, lease: Lease | None) -> None:
        for _ in range(round(seconds / 0.25)):
            clock.advance(0.25)
            told.observe(LANE, lease)

    look(1, Lease(3, W1))
    look(6, None)
    told.observe("other.0", Lease(1, W1))
    assert not told._happened
    assert inbox.got == []
    look(60, None)
    look(1, Lease(4, W1))
    look(60, None)
    eventually(lambda: len(inbox.got) >= 2)
    told.close()
    assert [n.id for n in inbox.got] == ["default:0-3-lost", "default:0-4-lost"]
    assert inbox.got[0].data["old_holder"] == W1
    assert inbox.got[0].data["new_holder"] is None
    assert 6 < inbox.got[0].data["gap_s"] <= 6.25


def test_an_observer_that_slept_blames_nobody(notices: Callable[..., Notices]) -> None:
    """A suspended machine wakes, sees no lease yet, and waits like everybody."""
    inbox, clock = Inbox(), FakeClock()
    told = notices(inbox, clock=clock)
    told.observe(LANE, Lease(3, W1))
    clock.advance(3600)
    told.observe(LANE, None)
    told.close()
    assert inbox.got == []


def test_without_targets_nothing_is_kept_and_nothing_runs(
    notices: Callable[..., Notices],
) -> None:
    """Whoever asks for no notices pays nothing for them."""
    before = threading.active_count()
    told = notices()
    told.observe(LANE, None)
    told.acquired(LANE, Lease(9, W2))
    assert threading.active_count() == before
    assert not told._happened
    assert not told._lanes


# -- what the store is asked ----------------------------------------------------------------------


@pytest.fixture
def memory(redis_client: redis.Redis) -> RedisMemory:
    """A worker's memory in the real store."""
    return RedisMemory(redis_client, EventLog(redis_client), W2)


def test_of_many_observers_one_tells(redis_client: redis.Redis, memory: RedisMemory) -> None:
    """Every agent sees the loss; the mark of the first one silences the others."""
    others = [RedisMemory(redis_client, EventLog(redis_client), w) for w in (W1, W3)]
    assert [m.first_to_tell(LANE, 7) for m in (memory, *others)] == [7, None, None]
    assert memory.first_to_tell(LANE, 8) == 8
    assert redis_client.get(keys.loss_told(LANE, 7)) == W2
    assert 0 < redis_client.ttl(keys.loss_told(LANE, 7)) <= 24 * 3600


def test_who_comes_after_the_loss_knows_the_epoch_from_the_counter(
    redis_client: redis.Redis, memory: RedisMemory
) -> None:
    """A lane that never had a primary has lost none."""
    assert memory.first_to_tell(LANE, 0) is None
    redis_client.set(keys.epoch(LANE), 5)
    assert memory.first_to_tell(LANE, 0) == 5


def test_the_end_of_the_old_leadership_is_read_in_the_events(
    redis_client: redis.Redis, memory: RedisMemory
) -> None:
    """The newest one of this lane before the epoch; a removal rather than a demotion."""
    events = EventLog(redis_client)
    assert memory.ending_before(LANE, 7, W2) is None
    for name, lane, epoch, reason in [
        ("lease.deposed", LANE, 5, "too old"),
        ("lease.released", LANE, 6, "draining"),
        ("lease.demoted", LANE, 6, "it says less"),
        ("lease.deposed", "other.0", 6, "another lane"),
        ("lease.demoted", LANE, 7, "too new"),
    ]:
        events.emit(name, lane=lane, holder=W1, epoch=epoch, reason=reason)
    assert memory.ending_before(LANE, 7, W2) == Ending(6, W1, "draining")


def test_the_end_of_a_lease_that_its_successor_never_led_under_is_passed_over(
    redis_client: redis.Redis, memory: RedisMemory
) -> None:
    """Removed as a leftover; where it was led under, some event says so."""
    events = EventLog(redis_client)
    events.emit("lease.deposed", lane=LANE, holder=W1, epoch=5, reason="it is silent")
    events.emit("lease.released", lane=LANE, holder=W2, epoch=6, reason="left over")
    assert memory.ending_before(LANE, 7, W2) == Ending(5, W1, "it is silent")
    assert memory.ending_before(LANE, 7, W3) == Ending(6, W2, "left over")
    events.emit("lease.demoted", lane=LANE, holder=W2, epoch=6, reason="its deadline passed")
    assert memory.ending_before(LANE, 7, W2) == Ending(6, W2, "left over")


def test_who_led_before_is_read_in_the_events(
    redis_client: redis.Redis, memory: RedisMemory
) -> None:
    """The last one of this lane before the epoch, however long ago."""
    events = EventLog(redis_client)
    assert memory.leader_before(LANE, 7) is None
    for lane, epoch, holder in [(LANE, 5, W3), (LANE, 6, W1), ("other.0", 6, W3), (LANE, 7, W2)]:
        events.emit("lease.acquired", lane=lane, holder=holder, epoch=epoch)
    assert memory.leader_before(LANE, 7) == W1


@pytest.mark.parametrize(
    ("event", "fields", "said"),
    [
        ("lane.switchover", {"old": W1, "new": W2}, f"switchover to {W2}"),
        ("worker.drained", {"worker": W1}, "draining"),
    ],
)
def test_the_reason_of_an_order_is_told_with_it(
    redis_client: redis.Redis, memory: RedisMemory, event: str, fields: Any, said: str
) -> None:
    """What operators gave as their reason, not that of an order to somebody else."""
    events = EventLog(redis_client)
    events.emit(event, **fields, lane=LANE, reason="new driver")
    events.emit(event, **dict.fromkeys(fields, W3), lane=LANE, reason="not this one")
    events.emit("lease.released", lane=LANE, holder=W1, epoch=6, by=W1, reason=said)
    assert memory.ending_before(LANE, 7, W2) == Ending(6, W1, f"{said}: new driver")


def test_a_store_that_does_not_answer_keeps_no_notice_back(tmp_path: Any) -> None:
    """Rather told twice than never: the receiver knows the id."""
    nobody = redis.Redis.from_url(f"unix://{tmp_path}/none", decode_responses=True)
    memory = RedisMemory(nobody, EventLog(nobody), W2)
    assert memory.first_to_tell(LANE, 7) == 7
    assert memory.ending_before(LANE, 7, W2) is None
    assert memory.leader_before(LANE, 7) is None


# -- delivery -------------------------------------------------------------------------------------


@pytest.fixture
def endpoint() -> Iterator[Receiver]:
    """An endpoint that answers 204."""
    with receiver() as state:
        yield state


@pytest.fixture
def courier() -> Iterator[Callable[..., Courier]]:
    """Make a started courier; it is closed after the test."""
    made: list[Courier] = []

    def make(target: Any, events: Any = None, **options: Any) -> Courier:
        courier = Courier(target, events or RecordedEvents(), **{"retries": QUICK, **options})
        courier.start()
        made.append(courier)
        return courier

    yield make
    for courier in made:
        courier.close()
        courier.join(10)


def test_it_is_tried_again_until_it_arrives(
    courier: Callable[..., Courier], endpoint: Receiver, redis_client: redis.Redis
) -> None:
    """After 500, silence and 503 the same id and body, each try signed anew; one event says so."""
    now_s = [1_800_000_000.0]

    def wall_clock() -> float:
        now_s[0] += 10
        return now_s[0]

    endpoint.answers = [500, lambda handler: handler.connection.recv(1), 503, 200]
    target = Webhook(
        f"{endpoint.url}/hook", signing_keys(SECRET), step_timeout_s=0.3, wall_clock=wall_clock
    )
    events = EventLog(redis_client)
    courier(target, events).hand(notice())
    eventually(lambda: list(events.read()), what="the event of the delivery")
    assert {(call.headers["webhook-id"], call.body) for call in endpoint.calls} == {
        ("default:0-1", notice().body())
    }
    stamps = [int(call.headers["webhook-timestamp"]) for call in endpoint.calls]
    assert stamps == [1_800_000_010, 1_800_000_020, 1_800_000_030, 1_800_000_040]
    for call, stamp in zip(endpoint.calls, stamps, strict=True):
        expected = signatures(signing_keys(SECRET), "default:0-1", stamp, call.body)
        assert call.headers["webhook-signature"] == expected
    (event,) = events.read()
    assert (event["event"], event["notice"], event["tries"], event["to"]) == (
        "notice.sent", "default:0-1", 4, endpoint.url,
    )  # fmt: skip


def test_an_endpoint_that_was_down_gets_it_when_it_is_back(
    courier: Callable[..., Courier],
) -> None:
    """Refused connections are waited out."""
    inbox = Inbox(failures=20)
    courier(inbox).hand(notice())
    assert eventually(lambda: inbox.got) == [notice()]
    assert inbox.tries == 21


def test_it_gives_up_in_the_end_and_says_so(
    courier: Callable[..., Courier], caplog: pytest.LogCaptureFixture
) -> None:
    """After its time the notice is a failure in log and events, and the next one has its turn."""
    inbox, events = Inbox(failures=3), RecordedEvents()
    quick = Retries(first_s=0.02, longest_s=0.02, give_up_after_s=0.055)
    made = courier(inbox, events, retries=quick, clock=_ticking(0.02))
    made.hand(notice(1))
    eventually(lambda: events.seen)
    inbox.failures = 0
    made.hand(notice(2))
    eventually(lambda: inbox.got)
    name, fields = events.seen[0]
    assert (name, fields["notice"], fields["reason"]) == ("notice.failed", "default:0-1", "not now")
    assert fields["tries"] >= 2
    assert "default:0-1 did not reach inbox" in caplog.text


def _ticking(step_s: float) -> Callable[[], float]:
    clock = FakeClock()

    def tick() -> float:
        clock.advance(step_s)
        return clock()

    return tick


def test_a_final_failure_is_not_repeated(
    courier: Callable[..., Courier], endpoint: Receiver
) -> None:
    """410 is asked once."""
    endpoint.answers = [410]
    events = RecordedEvents()
    courier(Webhook(endpoint.url, signing_keys(SECRET)), events).hand(notice())
    eventually(lambda: events.seen)
    assert (events.seen[0][0], events.seen[0][1]["tries"]) == ("notice.failed", 1)
    assert len(endpoint.calls) == 1


def test_pauses_double_with_jitter_up_to_a_limit() -> None:
    """Workers that failed together do not come back together."""
    from random import SystemRandom

    retries = Retries(first_s=1.0, longest_s=60.0)
    for tries, most_s in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (5000, 60)]:
        pauses = {retries.pause_s(tries, SystemRandom()) for _ in range(50)}
        assert all(most_s / 2 <= pause_s <= most_s for pause_s in pauses)
        assert len(pauses) > 10


def test_a_stuck_target_delays_neither_the_agent_nor_the_other_target(
    notices: Callable[..., Notices],
) -> None:
    """Whoever calls returns at once, and the inbox has everything while the webhook hangs."""
    stuck, inbox = StuckTarget(), Inbox()
    told = notices(stuck, inbox, memory=MemoryOf(Ending(1, W1, "r"), Ending(2, W2, "r")))
    began_s = time.monotonic()
    told.acquired(LANE, Lease(2, W2))
    told.acquired(LANE, Lease(3, W2))
    eventually(lambda: len(inbox.got) == 2)
    assert time.monotonic() - began_s < 30
    assert stuck.begun.is_set()
    assert stuck.got == []
    stuck.let_go.set()


def test_of_too_many_waiting_notices_the_oldest_are_given_up(
    courier: Callable[..., Courier],
) -> None:
    """The queue is bounded, the newest is the truth, and what was dropped is said."""
    stuck, events = StuckTarget(), RecordedEvents()
    made = courier(stuck, events, limit=3)
    made.hand(notice(1))
    eventually(stuck.begun.is_set)
    for number in range(2, 7):
        made.hand(notice(number))
    stuck.let_go.set()
    eventually(lambda: len(events.seen) == 6)
    assert stuck.got == [f"default:0-{n}" for n in (1, 4, 5, 6)]
    failed = [fields["notice"] for name, fields in events.seen if name == "notice.failed"]
    assert failed == ["default:0-2", "default:0-3"]


def test_a_target_that_breaks_does_not_end_the_thread(
    courier: Callable[..., Courier], caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in a delivery is logged and tried again like a failure."""

    class Broken(Inbox):
        def send(self, notice: Notice) -> None:
            if not self.tries:
                self.tries = 1
                raise ZeroDivisionError
            super().send(notice)

    broken = Broken()
    courier(broken).hand(notice())
    assert eventually(lambda: broken.got)
    assert "ZeroDivisionError" in caplog.text


def test_a_worker_that_leaves_still_says_what_it_knows(notices: Callable[..., Notices]) -> None:
    """Closing tries each waiting notice once more, and ends in known time."""
    good, bad = Inbox(), Inbox(failures=10_000)
    events = RecordedEvents()
    told = notices(good, bad, events=events, memory=MemoryOf(Ending(1, W1, "r")))
    told.observe(LANE, Lease(1, W1))
    told.acquired(LANE, Lease(2, W2))
    told.close(timeout_s=10)
    assert [n.id for n in good.got] == ["default:0-2"]
    assert "notice.failed" in [name for name, _ in events.seen]


def test_no_secret_is_logged_or_kept_in_an_event(
    redis_client: redis.Redis, endpoint: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the secret, nor the URL's password, path and query, nor the signature."""
    endpoint.answers = [500] * 3
    url = endpoint.url.replace("://", "://ann:hunter2@") + "/services/hunter2?token=hunter2"
    settings = Settings(
        notify_url=url,  # type: ignore[arg-type]
        notify_secret=SECRET,  # type: ignore[arg-type]
        notify_command="sh -c 'exit 1' hunter2",
    )
    events = EventLog(redis_client)
    told = Notices.of(settings, worker=W2, events=events)
    with caplog.at_level(logging.DEBUG):
        told.start()
        told.observe(LANE, Lease(1, W1))
        told.acquired(LANE, Lease(2, W2))
        eventually(lambda: endpoint.calls)
        told.close()
    written = [str(event) for event in events.read()]
    assert len(written) == 2
    shown = "".join([caplog.text, *written, repr(settings.notify_url), str(settings)])
    assert "did not reach" in shown
    assert "hunter2" not in shown
    assert SECRET.removeprefix("whsec_") not in shown
    assert endpoint.calls[0].headers["webhook-signature"] not in shown
