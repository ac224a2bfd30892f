"""Missed heartbeats are counted by observed change, on the observer's own clock."""

from __future__ import annotations

from tts_tasks.coordination.base import WorkerRecord
from tts_workers.watchdog import Silence, Watchdog


def record(beat: int) -> WorkerRecord:
    return WorkerRecord(id="w", host="h", pid=1, pool="default", lane="0", beat=beat)


def test_silence_grows_while_the_record_stands_still() -> None:
    """What counts is how long this observer has seen no change."""
    watchdog = Watchdog(max_step_s=1.0, reconnection_s=1.0)
    for step in range(4):
        silences = watchdog.observe({"w": record(1)}, now_s=step * 0.5)
    assert silences == {"w": Silence(1.5)}


def test_any_change_of_the_record_ends_the_silence() -> None:
    """A heartbeat starts the count anew, also one with a smaller number."""
    watchdog = Watchdog(max_step_s=1.0, reconnection_s=1.0)
    watchdog.observe({"w": record(5)}, now_s=0.0)
    watchdog.observe({"w": record(5)}, now_s=1.0)
    assert watchdog.observe({"w": record(4)}, now_s=2.0) == {"w": Silence(0.0)}


def test_an_observers_own_absence_is_not_held_against_the_others() -> None:
    """An observer that was suspended for an hour adds one step, not an hour."""
    watchdog = Watchdog(max_step_s=0.5, reconnection_s=1.0)
    watchdog.observe({"w": record(1)}, now_s=0.0)
    assert watchdog.observe({"w": record(1)}, now_s=3600.0) == {"w": Silence(0.5)}


def test_a_record_that_expired_counts_as_silence() -> None:
    """A registered worker without a record is silent, not unknown."""
    watchdog = Watchdog(max_step_s=1.0, reconnection_s=1.0)
    watchdog.observe({"w": None}, now_s=0.0)
    assert watchdog.observe({"w": None}, now_s=1.0) == {"w": Silence(1.0)}


def test_a_worker_that_was_struck_off_starts_afresh_when_it_returns() -> None:
    """Old silence is not remembered past a deregistration."""
    watchdog = Watchdog(max_step_s=1.0, reconnection_s=1.0)
    watchdog.observe({"w": record(1)}, now_s=0.0)
    watchdog.observe({"w": record(1)}, now_s=1.0)
    watchdog.observe({}, now_s=2.0)
    assert watchdog.observe({"w": record(1)}, now_s=3.0) == {"w": Silence(0.0)}


def test_absence_grows_while_the_connection_stays_closed() -> None:
    """A worker whose presence connection is closed is absent from the second look on."""
    watchdog = Watchdog(max_step_s=1.0, reconnection_s=1.0)
    watchdog.observe({"w": record(1)}, now_s=0.0, absent={"w"})
    silences = watchdog.observe({"w": record(1)}, now_s=0.5, absent={"w"})
    assert silences == {"w": Silence(0.5, 0.5)}


def test_connections_that_closed_during_an_outage_condemn_nobody_at_once() -> None:
    """After the store was away all connections are closed: everybody gets the grace to return."""
    watchdog = Watchdog(max_step_s=0.9, reconnection_s=1.0)
    watchdog.observe({"w": record(1)}, now_s=0.0)
    assert watchdog.observe({"w": record(1)}, now_s=2.0, absent={"w"})["w"].absent_s == 0
    assert watchdog.observe({"w": record(1)}, now_s=2.8, absent={"w"})["w"].absent_s == 0
    watchdog.observe({"w": record(1)}, now_s=3.1, absent={"w"})
    assert watchdog.observe({"w": record(1)}, now_s=3.4, absent={"w"})["w"].absent_s > 0.3


def test_a_worker_that_reconnects_is_not_absent() -> None:
    """A new heartbeat, or the connection being there again, ends the absence."""
    watchdog = Watchdog(max_step_s=1.0, reconnection_s=1.0)
    watchdog.observe({"w": record(1)}, now_s=0.0, absent={"w"})
    assert watchdog.observe({"w": record(2)}, now_s=0.4, absent={"w"})["w"].absent_s == 0
    watchdog.observe({"w": record(2)}, now_s=0.6, absent={"w"})
    assert watchdog.observe({"w": record(2)}, now_s=0.8)["w"].absent_s == 0
