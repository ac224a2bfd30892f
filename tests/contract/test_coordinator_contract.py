"""What every coordination store must do; run on each of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks import keys
from tts_tasks.coordination.base import Coordinator, Lease, WorkerRecord
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.testing import MemoryCoordinator

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

LANE = "default.0"


@pytest.fixture(params=["redis", "memory"])
def store(request: pytest.FixtureRequest) -> Coordinator:
    """Each store in turn, empty."""
    if request.param == "memory":
        return MemoryCoordinator()
    return RedisCoordinator(request.getfixturevalue("redis_url"), timeout_s=2.0)


def record(worker: str, beat: int = 1) -> WorkerRecord:
    return WorkerRecord(id=worker, host="h", pid=1, pool="default", lane="0", beat=beat)


def test_a_lane_is_taken_once(store: Coordinator) -> None:
    """While somebody has the lane, nobody else gets it."""
    mine = store.acquire(LANE, "a", 30)
    assert mine == store.read(LANE)
    assert store.acquire(LANE, "b", 30) is None
    assert store.acquire(LANE, "a", 30) is None


def test_every_new_leadership_has_a_greater_epoch(store: Coordinator) -> None:
    """The epoch grows with each acquisition, also by the same holder."""
    epochs = []
    for holder in ("a", "b", "b"):
        lease = store.acquire(LANE, holder, 30)
        assert lease is not None
        epochs.append(lease.epoch)
        assert store.remove(LANE, lease)
    assert epochs == sorted(set(epochs))


def test_only_the_exact_pair_renews_and_removes(store: Coordinator) -> None:
    """Neither the same holder under an old epoch nor another holder under this one may act."""
    lease = store.acquire(LANE, "a", 30)
    assert lease is not None
    for stale in (
        Lease(lease.epoch - 1, "a"),
        Lease(lease.epoch, "b"),
        Lease(lease.epoch + 1, "a"),
    ):
        assert not store.renew(LANE, stale, 30)
        assert not store.remove(LANE, stale)
    assert store.read(LANE) == lease
    assert store.renew(LANE, lease, 30)


def test_a_renewal_does_not_revive_a_removed_lease(store: Coordinator) -> None:
    """Once it is gone it stays gone."""
    lease = store.acquire(LANE, "a", 30)
    assert lease is not None
    store.remove(LANE, lease)
    assert not store.renew(LANE, lease, 30)
    assert store.read(LANE) is None


@pytest.mark.parametrize("ttl_s", [0, -1, 0.0001])
def test_a_lease_that_would_never_lapse_is_refused(store: Coordinator, ttl_s: float) -> None:
    """A TTL of zero or less is an error, not an eternal lease."""
    with pytest.raises(ValueError, match="TTL"):
        store.acquire(LANE, "a", ttl_s)


def test_of_many_racing_candidates_one_wins(store: Coordinator) -> None:
    """Twenty at once, one lease."""
    with ThreadPoolExecutor(20) as pool:
        leases = list(pool.map(lambda n: store.acquire(LANE, f"w{n}", 30), range(20)))
    assert sum(lease is not None for lease in leases) == 1


def test_workers_register_beat_and_are_struck_off(store: Coordinator) -> None:
    """The registry shows the last record of each worker until it is forgotten."""
    store.beat(record("a"), 30)
    store.beat(record("b"), 30)
    store.beat(record("a", beat=2), 30)
    assert store.workers() == {"a": record("a", beat=2), "b": record("b")}
    store.forget("a")
    assert list(store.workers()) == ["b"]


def test_a_lease_in_redis_lapses_by_its_ttl(
    redis_url: str, redis_client: redis.Redis, eventually: Callable[..., Any]
) -> None:
    """The key's TTL is the backstop when nobody is left to depose."""
    store = RedisCoordinator(redis_url, timeout_s=2.0)
    store.acquire(LANE, "a", 30)
    assert 25_000 < redis_client.pttl(keys.lease(LANE)) <= 30_000
    redis_client.pexpire(keys.lease(LANE), 1)
    eventually(lambda: store.acquire(LANE, "b", 30), what="the lease lapsed")


def test_a_worker_whose_record_expired_stays_registered(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Expiry must not hide a worker whose jobs still have to be given back."""
    store = RedisCoordinator(redis_url, timeout_s=2.0)
    store.beat(record("a"), 30)
    redis_client.delete(keys.worker("a"))
    assert store.workers() == {"a": None}


def test_a_closed_presence_connection_is_seen_by_others(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """The kernel closes a dead worker's connection; a reconnection shows under a new id."""
    worker, observer = (RedisCoordinator(redis_url, timeout_s=2.0) for _ in range(2))
    first = worker.presence()
    assert worker.presence() == first
    records = {"a": replace(record("a"), presence=first), "b": record("b"), "c": None}
    assert observer.absent(records) == set()
    redis_client.client_kill_filter(_id=first)
    assert observer.absent(records) == {"a"}
    again = worker.presence()
    assert again != first
    assert observer.absent({"a": replace(record("a"), presence=again)}) == set()
