"""What every coordination store must do; run on each of them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks import keys
from tts_tasks.coordination.base import (
    DRAINED_KEPT_S,
    Coordinator,
    EpochFloor,
    Lease,
    Orders,
    WorkerRecord,
)
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.errors import EpochsUnknownError, UnavailableError
from tts_tasks.redis_connection import connect
from tts_tasks.testing import ALL_KNOWN, MemoryCoordinator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

LANE = "default.0"


@pytest.fixture(params=["redis", "cluster", "memory"])
def store(request: pytest.FixtureRequest) -> Coordinator:
    """Each store in turn, empty."""
    if request.param == "memory":
        return MemoryCoordinator()
    return RedisCoordinator(_url(request), timeout_s=2.0)


@pytest.fixture(params=["redis", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """One Redis, and a cluster."""
    return _url(request)


@pytest.fixture
def server(url: str) -> Iterator[redis.Redis]:
    """A client of the server that has the lane's keys."""
    with connect(url, node_of=keys.lease(LANE)) as client:
        yield client


def _url(request: pytest.FixtureRequest) -> str:
    if request.param == "cluster":
        return str(request.getfixturevalue("redis_cluster").url)
    return str(request.getfixturevalue("redis_url"))


def record(worker: str, beat: int = 1) -> WorkerRecord:
    return WorkerRecord(id=worker, host="h", pid=1, pool="default", lane="0", beat=beat)


def test_a_lane_is_taken_once(store: Coordinator) -> None:
    """While somebody has the lane, nobody else gets it."""
    mine = store.acquire(LANE, "a", 30, ALL_KNOWN)
    assert mine == store.read(LANE)
    assert store.acquire(LANE, "b", 30, ALL_KNOWN) is None
    assert store.acquire(LANE, "a", 30, ALL_KNOWN) is None


def test_every_new_leadership_has_a_greater_epoch(store: Coordinator) -> None:
    """The epoch grows with each acquisition, also by the same holder."""
    epochs = []
    for holder in ("a", "b", "b"):
        lease = store.acquire(LANE, holder, 30, ALL_KNOWN)
        assert lease is not None
        epochs.append(lease.epoch)
        assert store.remove(LANE, lease)
    assert epochs == sorted(set(epochs))


def test_only_the_exact_pair_renews_and_removes(store: Coordinator) -> None:
    """Neither the same holder under an old epoch nor another holder under this one may act."""
    lease = store.acquire(LANE, "a", 30, ALL_KNOWN)
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
    lease = store.acquire(LANE, "a", 30, ALL_KNOWN)
    assert lease is not None
    store.remove(LANE, lease)
    assert not store.renew(LANE, lease, 30)
    assert store.read(LANE) is None


@pytest.mark.parametrize("ttl_s", [0, -1, 0.0001])
def test_a_lease_that_would_never_lapse_is_refused(store: Coordinator, ttl_s: float) -> None:
    """A TTL of zero or less is an error, not an eternal lease."""
    with pytest.raises(ValueError, match="TTL"):
        store.acquire(LANE, "a", ttl_s, ALL_KNOWN)


def test_of_many_racing_candidates_one_wins(store: Coordinator) -> None:
    """Twenty at once, one lease."""
    with ThreadPoolExecutor(20) as pool:
        leases = list(pool.map(lambda n: store.acquire(LANE, f"w{n}", 30, ALL_KNOWN), range(20)))
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
    url: str, server: redis.Redis, eventually: Callable[..., Any]
) -> None:
    """The key's TTL is the backstop when nobody is left to depose."""
    store = RedisCoordinator(url, timeout_s=2.0)
    store.acquire(LANE, "a", 30, ALL_KNOWN)
    assert 25_000 < server.pttl(keys.lease(LANE)) <= 30_000
    server.pexpire(keys.lease(LANE), 1)
    eventually(lambda: store.acquire(LANE, "b", 30, ALL_KNOWN), what="the lease lapsed")


def test_a_worker_whose_record_expired_stays_registered(
    url: str,
) -> None:
    """Expiry must not hide a worker whose jobs still have to be given back."""
    store = RedisCoordinator(url, timeout_s=2.0)
    store.beat(record("a"), 30)
    connect(url).delete(keys.worker("a"))
    assert store.workers() == {"a": None}


def test_a_closed_presence_connection_is_seen_by_others_and_opened_anew(
    url: str, server: redis.Redis, eventually: Callable[..., Any]
) -> None:
    """The kernel closes a dead worker's connection; a reconnection shows under a new id."""
    worker, observer = (RedisCoordinator(url, timeout_s=2.0) for _ in range(2))
    news: list[str] = []
    worker.listen(LANE, lambda: news.append(worker.presence()))
    first = eventually(worker.presence)
    records = {"a": replace(record("a"), presence=first), "b": record("b"), "c": None}
    assert observer.absent(records) == set()
    server.client_kill_filter(_id=first.partition("/")[2])
    assert observer.absent(records) == {"a"}
    again = eventually(lambda: worker.presence() != first and worker.presence())
    assert news == [first, again]
    assert observer.absent({"a": replace(record("a"), presence=again)}) == set()
    worker.close()
    eventually(lambda: observer.absent({"a": replace(record("a"), presence=again)}))


def test_of_a_connection_to_an_earlier_server_nothing_is_known(
    url: str, server: redis.Redis, eventually: Callable[..., Any]
) -> None:
    """A restart or a promotion closes every connection, and numbers begin anew: nobody died."""
    worker, observer = (RedisCoordinator(url, timeout_s=2.0) for _ in range(2))
    worker.listen(LANE, lambda: None)
    presence = eventually(worker.presence)
    run, _, connection = presence.partition("/")
    assert run == server.info("server")["run_id"]
    earlier = replace(record("a"), presence=f"{'0' * 40}/{int(connection) + 1000}")
    assert observer.absent({"a": earlier}) == set()
    gone = replace(record("a"), presence=f"{run}/{int(connection) + 1000}")
    assert observer.absent({"a": gone}) == {"a"}
    worker.close()


def test_who_leaves_does_not_wait_for_the_end_of_its_read(
    url: str, eventually: Callable[..., Any]
) -> None:
    """The read on the presence connection, of up to 20 s here, is ended by Redis."""
    worker = RedisCoordinator(url, timeout_s=40.0)
    worker.listen(LANE, lambda: None)
    eventually(worker.presence)
    began_s = time.monotonic()
    worker.close()
    assert time.monotonic() - began_s < 5


def test_the_bell_rings_for_every_removal_and_order(
    url: str, eventually: Callable[..., Any]
) -> None:
    """Also for what happens while the connection is opened anew: no ring is missed."""
    worker, other = (RedisCoordinator(url, timeout_s=2.0) for _ in range(2))
    rings: list[int] = []
    worker.listen(LANE, lambda: rings.append(1))
    eventually(worker.presence)
    eventually(lambda: len(rings) == 1, what="it is told of its own presence")
    for action in (
        lambda: other.remove(LANE, other.acquire(LANE, "a", 30, ALL_KNOWN) or Lease(0, "nobody")),
        lambda: other.drain(LANE, "a", "why"),
        lambda: other.undrain(LANE, "a"),
        lambda: other.reserve(LANE, "a", 1.0),
    ):
        before = len(rings)
        action()
        eventually(lambda before=before: len(rings) > before)
    before = len(rings)
    other.remove("other.0", other.acquire("other.0", "a", 30, ALL_KNOWN) or Lease(0, "nobody"))
    other.remove(LANE, Lease(99, "never was"))
    assert len(rings) == before
    worker.close()


def test_a_new_epoch_is_greater_than_what_the_candidate_knows(store: Coordinator) -> None:
    """A store that has lost its counter gives none out before the candidate knows of all."""
    with pytest.raises(EpochsUnknownError):
        store.acquire(LANE, "a", 30, EpochFloor(41))
    lease = store.acquire(LANE, "a", 30, EpochFloor(41, complete=True))
    assert lease == Lease(42, "a")
    store.remove(LANE, lease)
    assert store.acquire(LANE, "b", 30, EpochFloor(7)) == Lease(43, "b")


def test_a_reserved_lane_is_for_its_successor_alone(store: Coordinator) -> None:
    """Nobody slips in between the old primary and the ordered one."""
    store.reserve(LANE, "b", 30)
    assert store.orders(LANE, "a") == Orders(successor="b")
    assert store.acquire(LANE, "a", 30, ALL_KNOWN) is None
    lease = store.acquire(LANE, "b", 30, ALL_KNOWN)
    assert lease is not None
    assert store.orders(LANE, "a") == Orders()
    store.remove(LANE, lease)
    assert store.acquire(LANE, "a", 30, ALL_KNOWN)


def test_a_drained_worker_stays_so_until_it_is_told(store: Coordinator) -> None:
    """The order is about one worker; to be taken for dead does not take it back."""
    store.drain(LANE, "a", "new driver")
    assert store.orders(LANE, "a") == Orders(drained=True)
    assert store.orders(LANE, "b") == Orders()
    assert store.undrain(LANE, "a")
    assert not store.undrain(LANE, "a")
    assert store.orders(LANE, "a") == Orders()
    store.drain(LANE, "a", "again")
    store.forget("a")
    assert store.orders(LANE, "a") == Orders(drained=True)


def test_an_order_is_kept_for_a_day_after_the_workers_last_heartbeat(url: str) -> None:
    """Workers that never come back leave nothing behind for ever."""
    store, client, order = RedisCoordinator(url, timeout_s=2.0), connect(url), keys.drained("a")
    store.drain(LANE, "a", "dust")
    assert 0 < client.ttl(order) <= DRAINED_KEPT_S
    client.expire(order, 60)
    store.beat(record("a"), 30)
    assert client.ttl(order) > 60


def test_a_full_redis_does_not_keep_a_dead_workers_lease(url: str, server: redis.Redis) -> None:
    """Removal takes no memory: a deposition goes through where nothing else can be written."""
    store = RedisCoordinator(url, timeout_s=2.0)
    lease = store.acquire(LANE, "a", 30, ALL_KNOWN)
    assert lease is not None
    server.config_set("maxmemory", 1)
    try:
        with pytest.raises(UnavailableError):
            store.drain(LANE, "a", "it cannot be written")
        assert store.remove(LANE, lease)
    finally:
        server.config_set("maxmemory", 0)
    assert store.read(LANE) is None
