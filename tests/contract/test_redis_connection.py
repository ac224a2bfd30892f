"""Clients of Redis, on real servers: a demoted master, Sentinels, a cluster that is away."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.redis_topologies import MASTER_NAME, RedisCluster, SentinelSet
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.errors import ConfigurationError, UnavailableError
from tts_tasks.events import EventLog
from tts_tasks.ledger import JobLedger
from tts_tasks.redis_connection import connect, unavailable_is_clear
from tts_tasks.testing import ALL_KNOWN
from ttsctl.checks import check_redis, check_redis_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = "127.0.0.1:1"


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSet]:
    """One set for all tests; which server is its master changes."""
    with SentinelSet(tmp_path_factory.mktemp("sentinel")) as sentinels:
        yield sentinels


def test_a_server_that_became_a_replica_is_left(
    redis_url: str, redis_client: redis.Redis, eventually: Callable[..., Any]
) -> None:
    """Behind the address there may be another one by now: the next request connects anew."""
    client = connect(redis_url, retries=0)
    before = client.client_id()
    redis_client.replicaof("127.0.0.1", 1)
    try:
        with (
            pytest.raises(UnavailableError, match="replica"),
            unavailable_is_clear(redis_url),
        ):
            client.set("a", 1)
        assert client.client_id() != before
    finally:
        redis_client.replicaof("NO", "ONE")
    assert client.set("a", 1)


@pytest.mark.parametrize(
    "answer",
    [
        "MISCONF Errors writing to the AOF file",
        "NOREPLICAS Not enough good replicas to write.",
        "UNBLOCKED force unblock from blocking operation, instance state changed",
        "BUSY Redis is busy running a script.",
        "Command # 2 (SET a 1) of pipeline caused error: NOREPLICAS Not enough good replicas",
    ],
)
def test_a_refusal_for_now_is_unavailable(answer: str) -> None:
    """The caller is to try again, as if nobody had answered."""
    with pytest.raises(UnavailableError), unavailable_is_clear("redis://h/0"):
        raise redis.ResponseError(answer)


def test_a_mistake_is_not_called_unavailable() -> None:
    """Trying again would not help."""
    with pytest.raises(redis.ResponseError), unavailable_is_clear("redis://h/0"):
        raise redis.ResponseError("WRONGTYPE Operation against a key, NOREPLICAS is its name")


# -- Sentinels ------------------------------------------------------------------------------------


def test_without_a_sentinel_redis_is_unavailable(sentinels: SentinelSet) -> None:
    """Also where Sentinels answer, and know no such master."""
    for url in (
        f"sentinel://{NOBODY},{NOBODY}/{MASTER_NAME}",
        sentinels.url.replace(f"/{MASTER_NAME}/", "/other/"),
    ):
        with pytest.raises(UnavailableError, match="no Sentinel names a master"):
            JobLedger(url).now_ms()


def test_wrong_passwords_are_a_matter_of_configuration(sentinels: SentinelSet) -> None:
    """The Sentinels' and the servers' own are told apart, and not shown."""
    right = sentinels.sentinels[0].password
    with pytest.raises(ConfigurationError, match="see sentinel_password") as refused:
        JobLedger(sentinels.url.replace(right, "wrong")).now_ms()
    assert right not in str(refused.value)
    right = sentinels.servers[0].password
    with pytest.raises(ConfigurationError, match="refused the password"):
        JobLedger(sentinels.url.replace(right, "wrong")).now_ms()


def test_a_dead_sentinel_is_passed_over(sentinels: SentinelSet) -> None:
    """The next one is asked."""
    url = sentinels.url.replace("@", f"@{NOBODY},", 1)
    assert JobLedger(url).now_ms() > 0


def test_a_replica_that_is_still_called_the_master_is_not_used(
    sentinels: SentinelSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading from it would work, and show what was."""
    master = sentinels.master()
    replica = next(server for server in sentinels.servers if server is not master)
    client = connect(sentinels.url, retries=0)
    manager = client.connection_pool.sentinel_manager
    monkeypatch.setattr(manager, "discover_master", lambda _: ("127.0.0.1", replica.port))
    with pytest.raises(UnavailableError, match="is a replica now"):
        RedisCoordinator.read(_with_client(sentinels.url, client), "default.0")


def _with_client(url: str, client: Any) -> RedisCoordinator:
    coordinator = RedisCoordinator(url, timeout_s=2.0)
    coordinator._client = client
    return coordinator


def test_an_ordered_failover_is_followed(
    sentinels: SentinelSet, eventually: Callable[..., Any]
) -> None:
    """Connections that were open and idle are not used any more."""
    client, log = connect(sentinels.url), EventLog(connect(sentinels.url))
    log.emit("before.failover")
    old = sentinels.master()
    assert old is not None
    sentinels.sentinels[0].client.execute_command("SENTINEL", "FAILOVER", MASTER_NAME)
    new = eventually(sentinels.promoted(old))

    def written() -> bool:
        try:
            return bool(client.set("after", "1"))
        except redis.RedisError:
            return False

    eventually(written)
    assert new.client.get("after") == "1"
    log.emit("after.failover")
    eventually(lambda: log.flush() or not log.waiting)
    assert [event["event"] for event in EventLog(new.client).read()][-1] == "after.failover"


def test_too_few_replicas_are_a_refusal_for_now(
    sentinels: SentinelSet, eventually: Callable[..., Any]
) -> None:
    """A master that may be cut off takes nothing: `min-replicas-to-write`."""
    master = sentinels.master()
    assert master is not None
    replicas = [server for server in sentinels.servers if server is not master]
    coordinator = RedisCoordinator(sentinels.url, timeout_s=2.0)
    for replica in replicas:
        replica.kill(signal.SIGSTOP)
    try:
        master.client.client_kill_filter(_type="replica")
        with pytest.raises(UnavailableError, match="NOREPLICAS"):
            coordinator.acquire("default.0", "a", 3, ALL_KNOWN)
        with pytest.raises(UnavailableError, match="NOREPLICAS"):
            coordinator.drain("default.0", "a", "why")
    finally:
        for replica in replicas:
            replica.kill(signal.SIGCONT)

    def taken() -> Any:
        try:
            return coordinator.acquire("default.0", "a", 3, ALL_KNOWN)
        except UnavailableError:
            return None

    assert eventually(taken)


def test_doctor_looks_at_the_master(sentinels: SentinelSet) -> None:
    """And says whether it stops to take jobs where it is alone."""
    finding, server = check_redis(sentinels.url)
    assert finding.verdict == "ok", finding
    assert sentinels.servers[0].password not in finding.found
    assert server is not None
    found = {finding.check: finding for finding in check_redis_settings(server)}
    assert found["redis replicas"].verdict == "ok"
    server.config_set("min-replicas-to-write", 0)
    try:
        found = {finding.check: finding for finding in check_redis_settings(server)}
        assert found["redis replicas"].verdict == "warn"
    finally:
        server.config_set("min-replicas-to-write", 1)


# -- a cluster ------------------------------------------------------------------------------------


def test_a_cluster_that_is_away_is_unavailable_only_when_it_is_used() -> None:
    """As one Redis is: a worker that starts before it waits for it."""
    url = f"cluster://{NOBODY},{NOBODY}"
    ledger, log = JobLedger(url), EventLog(connect(url))
    with pytest.raises(UnavailableError, match="no Redis at cluster://"):
        ledger.now_ms()
    with pytest.raises(UnavailableError):
        ledger.get_many(["b:1"])
    log.emit("is.kept")
    assert log.waiting == 1


def test_a_clusters_wrong_password_is_a_matter_of_configuration(
    redis_cluster: RedisCluster,
) -> None:
    """It is not taken for a cluster that is away."""
    right = redis_cluster.nodes[0].password
    with pytest.raises(ConfigurationError, match="refused the password"):
        JobLedger(redis_cluster.url.replace(right, "wrong")).now_ms()


def test_events_are_read_and_followed_on_a_cluster(redis_cluster: RedisCluster) -> None:
    """The stream is one key of one node."""
    log = EventLog(connect(redis_cluster.url))
    log.emit("a.first", job="j")
    follow = log.read(follow=True, since_s=60)
    assert next(follow)["event"] == "a.first"
    log.emit("a.second")
    assert next(follow)["event"] == "a.second"


def test_doctor_looks_at_a_cluster(redis_cluster: RedisCluster) -> None:
    """Its checks ask a node of it."""
    finding, server = check_redis(redis_cluster.url)
    assert finding.verdict == "ok", finding
    assert server is not None
    assert {finding.verdict for finding in check_redis_settings(server)} == {"ok"}
