"""The event stream outlives an outage of the store."""

from __future__ import annotations

from typing import Any

import redis

from tts_tasks.events import EventLog
from tts_tasks.testing import FakeClock


class Outage:
    """A client whose writes fail while it is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.away = False
        self.tries = 0

    def xadd(self, *args: Any, **options: Any) -> Any:
        self.tries += 1
        if self.away:
            raise redis.ConnectionError("away")
        return self._client.xadd(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def test_events_carry_when_they_happened(redis_client: redis.Redis) -> None:
    """`at_s` is the clock that deadlines are kept on, of the machine it happened on."""
    clock = FakeClock(5000.0)
    EventLog(redis_client, clock=clock).emit("a.b", job="j")
    (event,) = EventLog(redis_client).read()
    assert event.pop("time").endswith("Z")
    assert event == {"event": "a.b", "at_s": 5000.0, "job": "j"}


def test_events_of_an_outage_are_written_after_it_in_their_order(
    redis_client: redis.Redis,
) -> None:
    """They say how late they were written, and are shown at the time at which they happened."""
    clock, client = FakeClock(), Outage(redis_client)
    log = EventLog(client, clock=clock)
    client.away = True
    log.emit("first.one")
    clock.advance(2.0)
    log.emit("second.one")
    assert log.waiting == 2
    client.away = False
    clock.advance(2.0)
    log.emit("third.one")
    events = list(log.read())
    assert [(e["event"], e.get("late_s")) for e in events] == [
        ("first.one", 4.0),
        ("second.one", 2.0),
        ("third.one", None),
    ]
    assert events[0]["time"] < events[1]["time"] < events[2]["time"]


def test_a_store_that_does_not_answer_delays_nobody_twice_a_second(
    redis_client: redis.Redis,
) -> None:
    """After a failed write the next second's events only wait."""
    clock, client = FakeClock(), Outage(redis_client)
    client.away = True
    log = EventLog(client, clock=clock)
    for _ in range(10):
        log.emit("a.b")
        clock.advance(0.05)
    assert client.tries == 1


def test_at_the_end_the_store_is_tried_once_more(redis_client: redis.Redis) -> None:
    """Also if it has just failed: there is no later any more."""
    client = Outage(redis_client)
    log = EventLog(client, clock=FakeClock())
    client.away = True
    log.emit("a.b")
    client.away = False
    log.flush()
    assert log.waiting == 1
    log.close()
    assert [e["event"] for e in log.read()] == ["a.b"]


def test_noting_does_no_io(redis_client: redis.Redis) -> None:
    """What a thread without I/O takes down is written by the next who may."""
    client = Outage(redis_client)
    log = EventLog(client, clock=FakeClock())
    log.note("a.b")
    assert client.tries == 0
    log.flush()
    assert [e["event"] for e in log.read()] == ["a.b"]


def test_of_too_many_events_the_oldest_are_dropped_and_counted(redis_client: redis.Redis) -> None:
    """Memory is bounded, and the loss is known."""
    log = EventLog(redis_client, clock=FakeClock())
    for number in range(1005):
        log.note("a.b", number=number)
    log.flush()
    numbers = [e["number"] for e in log.read()]
    assert (log.lost, numbers[0], numbers[-1], len(numbers)) == (5, 5, 1004, 1000)
