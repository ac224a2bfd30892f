"""A real Sentinel set under real workers: the master dies or is paused, a replica is promoted."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from kombu.exceptions import OperationalError

from tests.e2e.cluster import Cluster
from tests.redis_topologies import SentinelSet, this_process_uses
from tests.waiting import eventually
from tts_tasks import client, keys
from tts_tasks.cluster import events
from tts_tasks.coordination.base import EpochFloor
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.errors import UnavailableError
from tts_tasks.ledger import ClaimRefused, JobLedger, JobMeta, Refusal
from tts_tasks.redis_connection import connect
from tts_tasks.requests import SpeechRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.drill]

PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.1"}
LANE = "default.0"
REQUEST = SpeechRequest(text="请到窗口。")


@contextmanager
def workers_on_sentinels(directory: Path, *, min_replicas: int) -> Iterator[SentinelSet]:
    """Two ready workers on a Sentinel set, which this process uses, too.

    No promotion is quicker than the workers' renew deadline, so each ends a leadership.
    """
    cluster = Cluster(directory)
    with (
        SentinelSet(
            directory / "redis", min_replicas_to_write=min_replicas, down_after_ms=2500
        ) as sentinels,
        this_process_uses(
            TTS_REDIS_URL=sentinels.url,
            TTS_REPLICAS_ACKED="1",
            TTS_STORAGE_URL=str(directory / "artifacts"),
        ),
    ):
        try:
            cluster.start("w1", "w2", **PACED)
            yield sentinels
        finally:
            cluster.stop()


@contextmanager
def online_load() -> Iterator[list[str]]:
    """Submit online jobs all the time; yields the ids of those that were acknowledged."""
    acknowledged: list[str] = []
    stop = threading.Event()

    def submit() -> None:
        while not stop.wait(0.3):
            try:
                acknowledged.append(client.submit_job(REQUEST))
            except (UnavailableError, OperationalError):
                continue  # not acknowledged

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        thread.join()


def lines(count: int) -> list[dict[str, Any]]:
    return [{"id": f"n{n}", "text": f"请{n}号到窗口。"} for n in range(1, count + 1)]


def insist(call: Callable[[], Any]) -> Any:
    """Do what clients are told to do: repeat what has no known outcome."""

    def ask() -> Any:
        try:
            return call()
        except UnavailableError:
            return None

    return eventually(ask)


def ended(batch: str) -> int:
    return int(insist(lambda: client.batch_status(batch)).ended)


def check_all_done_and_published_once(directory: Path, count: int, online: list[str]) -> None:
    eventually(lambda: insist(lambda: client.batch_status("b")).state == "done")
    names = []
    for line in client.report("b"):
        assert line["state"] == "succeeded", line
        names.append(line["name"])
    assert len(names) == count
    for job_id in online:
        result = eventually(lambda job_id=job_id: client.job_result(job_id), what=job_id)
        assert result.state == "succeeded", result
        names.append(result.name)
    assert set(Counter(names).values()) == {1}
    published = {
        str(path.relative_to(directory / "artifacts"))
        for path in (directory / "artifacts").rglob("*.wav")
    }
    # and at most one more: a job that was spoken, though its acceptance was not acknowledged
    assert set(names) <= published


def beliefs() -> list[tuple[int, str, float, float]]:
    """Return ``(epoch, holder, from_s, to_s)`` of each leadership, as the leaders told it."""
    found = []
    told = list(events())
    for event in told:
        if event["event"] == "lease.acquired":
            pair = (event["epoch"], event["holder"])
            ends = [
                e["at_s"]
                for e in told
                if e["event"] == "lease.demoted" and (e["epoch"], e["holder"]) == pair
            ]
            found.append((*pair, event["at_s"], min(ends, default=float("inf"))))
    return sorted(found, key=lambda belief: belief[2])


def check_nobody_led_beside_another() -> None:
    found = beliefs()
    epochs = [epoch for epoch, *_ in found]
    assert epochs == sorted(set(epochs)), found
    for (*_, to_s), (_, _, from_s, _) in pairwise(found):
        assert to_s <= from_s, found


def leads_after(epoch: int) -> Callable[[], Any]:
    return lambda: [belief for belief in beliefs() if belief[0] > epoch]


def test_a_killed_master_costs_no_acknowledged_job(tmp_path: Path) -> None:
    """Kill -9 under load: a replica is promoted, all is done once, under a greater epoch."""
    with workers_on_sentinels(tmp_path, min_replicas=1) as sentinels:
        ((epoch, *_),) = eventually(beliefs, what="there is a primary")
        client.submit_batch(lines(20), id="b")
        with online_load() as acknowledged:
            eventually(lambda: ended("b") >= 3, what="the batch is under way")
            old = sentinels.servers[0]
            old.kill()
            eventually(sentinels.promoted(old), what="a replica was promoted")
            before = len(acknowledged)
            eventually(lambda: len(acknowledged) > before + 3, what="work is accepted again")
            eventually(leads_after(epoch), what="somebody leads again")
        check_all_done_and_published_once(tmp_path, 20, acknowledged)
        check_nobody_led_beside_another()


def test_a_paused_master_that_comes_back_has_no_say(tmp_path: Path) -> None:
    """It takes writes until it is demoted; nothing of that has an effect, and nobody leads by it.

    It is configured without min-replicas-to-write, which would have it refuse them.
    """
    with workers_on_sentinels(tmp_path, min_replicas=0) as sentinels:
        ((epoch, *_),) = eventually(beliefs, what="there is a primary")
        idle = JobLedger(sentinels.url, client=connect(sentinels.url))
        idle.now_ms()
        client.submit_batch(lines(20), id="b")
        with online_load() as acknowledged:
            eventually(lambda: ended("b") >= 3, what="the batch is under way")
            old = sentinels.servers[0]
            old.kill(signal.SIGSTOP)
            new = eventually(sentinels.promoted(old), what="a replica was promoted")
            eventually(leads_after(epoch), what="somebody leads by the new master")
            old.kill(signal.SIGCONT)
            # it answers, and does not know yet
            assert old.client.info("replication")["role"] == "master"
            check_that_a_leader_by_the_old_master_is_refused(sentinels, old.url)
            meta = JobMeta(queue="tts.online.default.0", name="idle.wav", lane_key=LANE)
            idle.accept([(f"{LANE}:idle", REQUEST, meta)])
            assert new.client.exists(keys.job(f"{LANE}:idle"))
            acknowledged.append(f"{LANE}:idle")
            eventually(
                lambda: old.is_replica_without("discarded"),
                what="it is demoted, and what it took is thrown away",
            )
        check_all_done_and_published_once(tmp_path, 20, acknowledged)
        check_nobody_led_beside_another()


def check_that_a_leader_by_the_old_master_is_refused(sentinels: SentinelSet, old: str) -> None:
    """Somebody who is cut off with the old master gets an epoch there, of the same number even."""
    by_new = RedisCoordinator(sentinels.url, timeout_s=2.0)
    by_old = RedisCoordinator(old, timeout_s=2.0)
    lease = by_new.read(LANE)
    assert lease is not None
    connect(old).set("discarded", "1")
    stray = eventually(
        lambda: by_old.acquire(LANE, "cut-off", 30, EpochFloor(lease.epoch - 1, complete=True))
    )
    assert stray.epoch == lease.epoch
    assert not by_new.renew(LANE, stray, 30)
    assert not by_new.remove(LANE, stray)
    ledger = JobLedger(sentinels.url)
    meta = JobMeta(queue="tts.online.default.0", name="stray.wav", lane_key=LANE)
    ledger.accept([(f"{LANE}:stray", REQUEST, meta)], delay_s=3600)
    answer = ledger.claim(f"{LANE}:stray", "cut-off", stray, max_strikes=3, nonce="n")
    assert isinstance(answer, ClaimRefused)
    assert (answer.reason, answer.detail.endswith("cut-off")) == (Refusal.NOT_LEADER, False)


def test_what_no_replica_has_is_not_acknowledged(tmp_path: Path) -> None:
    """Without WAIT a job is acknowledged and lost by a promotion; with it the caller is told."""
    with SentinelSet(tmp_path, min_replicas_to_write=0) as sentinels:
        hasty = JobLedger(sentinels.url)
        careful, again = (
            JobLedger(sentinels.url, client=connect(sentinels.url), replicas_acked=1)
            for _ in range(2)
        )
        jobs = {
            name: [(f"{LANE}:{name}", REQUEST, JobMeta(queue="q", name=f"{name}.wav"))]
            for name in ("before", "unknown", "hasty", "careful")
        }
        (accepted_ms,) = careful.accept(jobs["before"])
        assert accepted_ms
        old, *replicas = sentinels.servers
        for replica in replicas:
            replica.kill(signal.SIGSTOP)
        for ledger in (careful, again):  # the second finds it written, by the first
            with pytest.raises(UnavailableError, match="the outcome is not known"):
                ledger.accept(jobs["unknown"])
        # what waits in their sockets is still read by replicas that have lost their master
        old.client.client_kill_filter(_type="replica")
        hasty.accept(jobs["hasty"])
        with pytest.raises(UnavailableError, match="the outcome is not known"):
            careful.accept(jobs["careful"])
        old.kill()
        for replica in replicas:
            replica.kill(signal.SIGCONT)
        eventually(sentinels.promoted(old), what="a replica was promoted")
        assert insist(lambda: careful.accept(jobs["careful"]))
        there = {name: hasty.get(f"{LANE}:{name}") is not None for name in jobs}
        del there["unknown"]  # and so it is
        assert there == {"before": True, "hasty": False, "careful": True}
