"""Workers with ledger and leases in a real Redis Cluster, and their queues in one Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.cluster import Cluster
from tests.redis_topologies import RedisCluster, this_process_uses
from tests.waiting import eventually
from tts_tasks import client, synthesize
from tts_tasks.cluster import cluster_status, events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

pytestmark = [pytest.mark.e2e, pytest.mark.drill]

PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.1"}


@pytest.fixture
def workers(redis_cluster: RedisCluster, redis_url: str, tmp_path: Path) -> Iterator[Cluster]:
    """Two ready workers."""
    cluster = Cluster(tmp_path)
    with this_process_uses(
        TTS_REDIS_URL=redis_cluster.url,
        TTS_BROKER_URL=redis_url,
        TTS_STORAGE_URL=str(tmp_path / "artifacts"),
    ):
        try:
            cluster.start("w1", "w2", **PACED)
            yield cluster
        finally:
            cluster.stop()


def seen(event: str) -> list[dict[str, Any]]:
    return [e for e in events() if e["event"] == event]


def test_a_killed_primary_costs_nothing_on_a_cluster(
    workers: Cluster, redis_cluster: RedisCluster, redis_client: redis.Redis
) -> None:
    """Batch and online work go on elsewhere, soon; each key is where it belongs."""
    old = eventually(workers.primary, what="there is a primary")
    old_id = old.record["id"]
    lines = [{"id": f"n{n}", "text": f"请{n}号到窗口。"} for n in range(1, 13)]
    client.submit_batch(lines, id="b")
    eventually(lambda: client.batch_status("b").ended >= 2, what="the batch is under way")
    waiting = synthesize.delay("请到三号窗口。" * 3)
    old.kill()
    (dead,) = eventually(lambda: seen("worker.dead"))
    # known by its closed connection, on the node that has the lane: silence would be three seconds
    assert (dead["worker"], dead["silent_s"] < 2.5) == (old_id, True)
    assert waiting.get(timeout=60)["id"] == waiting.id
    assert len(list(client.follow("b", timeout_s=60))) == 12
    report = list(client.report("b"))
    assert {line["state"] for line in report} == {"succeeded"}
    assert len({line["name"] for line in report}) == 12
    assert [e["epoch"] for e in seen("lease.acquired")] == [1, 2]
    # a message that was rung twice may still wait for its answer that there is nothing to do
    eventually(lambda: set(cluster_status()["queues"].values()) == {0})
    ours = [str(key) for node in redis_cluster.nodes for key in node.client.scan_iter()]
    assert [key for key in ours if key.startswith(("celery", "_kombu", "tts."))] == []
    theirs = [str(key) for key in redis_client.scan_iter()]
    assert [key for key in theirs if "unacked" not in key and key.startswith("tts:")] == []
    assert len([node for node in redis_cluster.nodes if node.client.dbsize()]) == 3
