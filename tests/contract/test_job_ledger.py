"""What every ledger must do: jobs are accepted once, claimed by one, ended by the newest attempt.

Run on a real Redis and on the one in memory; what is about Redis itself asks for ``redis_url``.
"""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tts_tasks import keys
from tts_tasks.coordination.base import Coordinator, Lease
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.ledger import (
    Claim,
    ClaimRefused,
    JobLedger,
    JobMeta,
    LoggedSegment,
    Refusal,
    SegmentLog,
)
from tts_tasks.ledger.records import EVIDENCE_BYTES
from tts_tasks.redis_connection import connect
from tts_tasks.requests import SpeechRequest
from tts_tasks.testing import (
    ALL_KNOWN,
    MemoryCoordinator,
    MemoryLedger,
    MemorySegments,
    MemoryStore,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

REQUEST = SpeechRequest(text="你好")
QUEUE = "tts.batch.default"
BATCH = "b1"


Ledger = JobLedger | MemoryLedger
Log = SegmentLog | MemorySegments


@dataclass
class Stores:
    """The ledger and the leases of one store."""

    ledger: Ledger
    log: Log
    coordinator: Coordinator
    age: Callable[[str, str, float], object]  #: make a job's last ring older: queue, id, seconds
    ring: Callable[[str, str, float], object]  #: put a message into a queue, rung so long ago
    ring_at: Callable[[str, str, int | None], object]  #: the same, rung at Redis's time in ms
    hear: Callable[[str], object]  #: take the next message out of a queue
    lose_data: Callable[[], object]


def in_redis(url: str, broker_url: str) -> Stores:
    client, broker = connect(url), connect(broker_url)
    ledger = JobLedger(url, broker_url=broker_url)

    def ring_at(queue: str, _: str, rung_ms: float | None) -> None:
        headers = {} if rung_ms is None else {"rung_ms": rung_ms}
        broker.lpush(queue, json.dumps({"body": "", "headers": headers}))

    return Stores(
        ledger,
        SegmentLog(url),
        RedisCoordinator(url, timeout_s=2.0),
        age=lambda queue, job, by_s: client.zincrby(keys.open_jobs(queue), -by_s * 1000, job),
        ring=lambda queue, job, ago_s: ring_at(queue, job, ledger.now_ms() - ago_s * 1000),
        ring_at=ring_at,
        hear=broker.rpop,
        lose_data=client.flushall,
    )


def in_memory() -> Stores:
    store = MemoryStore()

    def age(queue: str, job_id: str, by_s: float) -> None:
        store.open_jobs[queue][job_id] -= by_s * 1000

    return Stores(
        MemoryLedger(store),
        MemorySegments(store),
        MemoryCoordinator(store=store),
        age=age,
        ring=lambda queue, job, s: store.queues[queue].append((job, store.now_ms() - s * 1000)),
        ring_at=lambda queue, job, ms: store.queues[queue].append((job, ms or 0)),
        hear=lambda queue: store.queues[queue].pop(0),
        lose_data=store.lose_data,
    )


@pytest.fixture(params=["redis", "cluster", "memory"])
def stores(request: pytest.FixtureRequest) -> Stores:
    """Each kind of store in turn, empty."""
    if request.param == "memory":
        return in_memory()
    broker_url = request.getfixturevalue("redis_url")
    if request.param == "cluster":
        return in_redis(request.getfixturevalue("redis_cluster").url, broker_url)
    return in_redis(broker_url, broker_url)


@pytest.fixture
def ledger(stores: Stores) -> Ledger:
    """An empty ledger."""
    return stores.ledger


@pytest.fixture
def log(stores: Stores) -> Log:
    """The segment logs of the same ledger."""
    return stores.log


def append(log: Log, claim: Claim, number: int, segments: int) -> bool:
    segment = LoggedSegment.of(number, segments, b"\0\1", 8000)
    return log.append(claim, segment, "plan", {"after": number}, 60)


def lines_of_a_batch(*lines: int) -> list[tuple[str, SpeechRequest, JobMeta]]:
    return [
        (
            keys.batch_job_id(BATCH, line),
            REQUEST,
            JobMeta(queue=QUEUE, name=f"{BATCH}/{line}.wav", batch=BATCH, line=line),
        )
        for line in lines
    ]


def accept_lines(ledger: Ledger, *lines: int) -> list[str]:
    jobs = lines_of_a_batch(*lines)
    ledger.accept(jobs)
    return [job_id for job_id, _, _ in jobs]


def claim(ledger: Ledger, job_id: str, worker: str = "w1") -> Claim | ClaimRefused:
    return ledger.claim(job_id, worker, None, max_strikes=3, nonce=secrets.token_hex(4))


def granted(answer: Claim | ClaimRefused) -> Claim:
    assert isinstance(answer, Claim), answer
    return answer


def test_a_job_is_accepted_once(ledger: Ledger) -> None:
    """Accepting again changes nothing, whatever has become of the job."""
    (job_id,) = accept_lines(ledger, 1)
    granted(claim(ledger, job_id))
    meta = JobMeta(queue=QUEUE, name="other.wav", batch=BATCH, line=1)
    assert ledger.accept([(job_id, SpeechRequest(text="anders"), meta)]) == [None]
    record = ledger.get(job_id)
    assert record is not None
    assert (record.state, record.request["text"]) == ("running", "你好")


def test_of_many_racing_workers_one_gets_the_job(ledger: Ledger) -> None:
    """A message delivered ten times is worked on once."""
    (job_id,) = accept_lines(ledger, 1)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: claim(ledger, job_id, f"w{n}"), range(10)))
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert {a.reason for a in answers if isinstance(a, ClaimRefused)} == {Refusal.HELD}


def test_an_unknown_job_is_not_invented(ledger: Ledger) -> None:
    """A message without a ledger entry is refused as missing."""
    answer = claim(ledger, "b1:99")
    assert isinstance(answer, ClaimRefused)
    assert answer.reason is Refusal.MISSING


def test_only_the_newest_attempt_may_append_and_finish(ledger: Ledger, log: Log) -> None:
    """The first worker comes back after its job was given to a second: it is refused."""
    (job_id,) = accept_lines(ledger, 1)
    first = granted(claim(ledger, job_id, "w1"))
    assert ledger.release(job_id, "w1", None, strike=True) == 1
    second = granted(claim(ledger, job_id, "w2"))
    assert second.attempt == first.attempt + 1
    assert not append(log, first, 1, 2)
    assert not ledger.finish(first, "succeeded", {"uri": "stale"}, retention_s=60)
    assert append(log, second, 1, 2)
    assert ledger.finish(second, "succeeded", {"uri": "new"}, retention_s=60)
    record = ledger.get(job_id)
    assert record is not None
    assert (record.state, record.result) == ("succeeded", {"uri": "new"})


def test_an_earlier_attempt_of_the_same_worker_may_not_append_or_finish(
    ledger: Ledger, log: Log
) -> None:
    """Its child was taken for dead and lives: the name is right, the attempt is not."""
    (job_id,) = accept_lines(ledger, 1)
    first = granted(claim(ledger, job_id, "w1"))
    second = granted(claim(ledger, job_id, "w1"))
    assert not append(log, first, 1, 2)
    assert not ledger.finish(first, "succeeded", {"uri": "stale"}, retention_s=60)
    assert ledger.finish(second, "succeeded", {"uri": "new"}, retention_s=60)


def test_an_attempt_of_a_ledger_that_forgot_its_job_is_refused(stores: Stores) -> None:
    """After a loss of data the numbers begin again: the worker's name tells two firsts apart."""
    ledger = stores.ledger
    (job_id,) = accept_lines(ledger, 1)
    stale = granted(claim(ledger, job_id, "w1"))
    stores.lose_data()
    accept_lines(ledger, 1)
    newest = granted(claim(ledger, job_id, "w2"))
    assert newest.attempt == stale.attempt
    assert not append(stores.log, stale, 1, 2)
    assert not ledger.finish(stale, "succeeded", {"uri": "stale"}, retention_s=60)
    assert append(stores.log, newest, 1, 2)


def test_only_the_holder_of_that_attempt_loses_its_job(ledger: Ledger, log: Log) -> None:
    """Whoever gives a job back names what it has seen; what has changed since is left alone."""
    (job_id,) = accept_lines(ledger, 1)
    first = granted(claim(ledger, job_id, "w1"))
    assert ledger.release(job_id, "w2", None, strike=True) is None
    assert ledger.release(job_id, "w2", first.attempt, strike=True) is None
    second = granted(claim(ledger, job_id, "w1"))
    assert ledger.release(job_id, "w1", first.attempt, strike=True) is None
    assert append(log, second, 1, 2)
    assert ledger.release(job_id, "w1", second.attempt, strike=False) == 0


def test_finishing_twice_is_finishing_once(ledger: Ledger) -> None:
    """A reply that was lost is asked for again."""
    (job_id,) = accept_lines(ledger, 1)
    attempt = granted(claim(ledger, job_id))
    assert ledger.finish(attempt, "succeeded", {}, retention_s=60)
    assert ledger.finish(attempt, "succeeded", {}, retention_s=60)
    assert not ledger.finish(attempt, "failed", {}, retention_s=60)


def test_an_ended_job_answers_with_its_result(ledger: Ledger) -> None:
    """A late duplicate of the message gets what came of the job, not another run."""
    (job_id,) = accept_lines(ledger, 1)
    ledger.finish(granted(claim(ledger, job_id)), "succeeded", {"uri": "u"}, retention_s=60)
    answer = claim(ledger, job_id, "w2")
    assert answer == ClaimRefused(Refusal.ENDED, "succeeded", {"uri": "u"})


def test_the_same_worker_may_claim_again_after_its_child_died(ledger: Ledger) -> None:
    """A redelivery to the same worker is a new attempt, and a strike."""
    (job_id,) = accept_lines(ledger, 1)
    assert granted(claim(ledger, job_id)).attempt == 1
    assert granted(claim(ledger, job_id)).attempt == 2


def test_a_claim_whose_reply_was_lost_is_asked_again_without_harm(ledger: Ledger) -> None:
    """Under the same nonce it is the same attempt, and no strike."""
    (job_id,) = accept_lines(ledger, 1)
    answers = [ledger.claim(job_id, "w1", None, max_strikes=1, nonce="same") for _ in range(3)]
    assert {granted(answer).attempt for answer in answers} == {1}


def test_a_job_that_loses_its_workers_is_exhausted_unless_it_makes_progress(
    ledger: Ledger, log: Log
) -> None:
    """Three deaths in a row without a new segment are the end; progress starts the count anew."""
    (job_id,) = accept_lines(ledger, 1)
    for done in (1, 2, 3, 4):
        attempt = granted(claim(ledger, job_id, f"w{done}"))
        append(log, attempt, done, 9)
        ledger.release(job_id, f"w{done}", None, strike=True)
    for n in range(2):
        granted(claim(ledger, job_id, f"x{n}"))
        ledger.release(job_id, f"x{n}", None, strike=True)
    answer = claim(ledger, job_id, "x3")
    assert isinstance(answer, ClaimRefused)
    assert answer.reason is Refusal.EXHAUSTED


# -- what costs its workers ------------------------------------------------------------------------


def strike(
    ledger: Ledger, job_id: str, worker: str, *, reason: str = "it died", pardons: int = 0
) -> int | None:
    granted(claim(ledger, job_id, worker))
    evidence = {"reason": reason, "worker": worker}
    return ledger.release(job_id, worker, None, strike=True, evidence=evidence, pardons=pardons)


def test_a_job_keeps_the_newest_evidence_and_the_workers_it_cost(ledger: Ledger, log: Log) -> None:
    """Each worker once, in order; progress begins a new list."""
    (job_id,) = accept_lines(ledger, 1)
    for worker in ("w1", "xw1", "w1"):
        strike(ledger, job_id, worker, reason=f"{worker} died")
    record = ledger.get(job_id)
    assert record is not None
    assert (record.strikes, record.struck_workers) == (3, ("w1", "xw1"))
    assert record.evidence == {"reason": "w1 died", "worker": "w1"}
    attempt = ledger.claim(job_id, "w3", None, max_strikes=9, nonce="n")
    assert append(log, granted(attempt), 1, 2)
    ledger.release(job_id, "w3", None, strike=True)
    record = ledger.get(job_id)
    assert record is not None
    assert (record.strikes, record.struck_workers) == (1, ("w3",))
    assert record.evidence == {"reason": "w1 died", "worker": "w1"}  # of this one nothing is known


def test_evidence_is_cut_to_what_a_job_may_keep(ledger: Ledger) -> None:
    """The oldest lines go first."""
    (job_id,) = accept_lines(ledger, 1)
    granted(claim(ledger, job_id))
    evidence = {
        "reason": "it died",
        "log": [f"{n}" + "声" * 500 for n in range(20)],
        "stderr": ["the end"],
    }
    ledger.release(job_id, "w1", None, strike=True, evidence=evidence)
    record = ledger.get(job_id)
    assert record is not None
    assert len(json.dumps(record.evidence, ensure_ascii=False).encode()) <= EVIDENCE_BYTES
    assert (record.evidence["reason"], record.evidence["stderr"]) == ("it died", ["the end"])
    assert 0 < len(record.evidence["log"]) < 20
    assert record.evidence["log"][-1].startswith("19")


def test_a_pardoned_failure_is_no_strike(ledger: Ledger) -> None:
    """So many times in the job's life; then they count."""
    (job_id,) = accept_lines(ledger, 1)
    counts = [strike(ledger, job_id, worker, pardons=2) for worker in ("w1", "w2", "w1", "w2")]
    assert counts == [0, 0, 1, 2]
    record = ledger.get(job_id)
    assert record is not None
    assert record.struck_workers == ("w1", "w2")


def test_a_job_nobody_holds_can_be_given_up_and_a_running_one_not(ledger: Ledger) -> None:
    """Giving up takes nothing from the worker that has the job."""
    (job_id,) = accept_lines(ledger, 1)
    granted(claim(ledger, job_id, "w1"))
    record = ledger.get(job_id)
    assert record is not None
    assert not ledger.give_up(record, "w2", {}, retention_s=60)
    ledger.release(job_id, "w1", None, strike=True)
    for _ in range(2):  # asked again after a lost reply
        assert ledger.give_up(record, "w2", {"error": {}}, retention_s=60)
    assert not ledger.give_up(record, "w2", {"error": {"other": 1}}, retention_s=60)


def test_a_workers_claims_are_known_until_they_end(ledger: Ledger) -> None:
    """What a dead worker held can be listed."""
    one, two = accept_lines(ledger, 1, 2)
    attempt = granted(claim(ledger, one))
    granted(claim(ledger, two))
    assert ledger.claims_of("w1") == [one, two]
    ledger.finish(attempt, "succeeded", {}, retention_s=60)
    assert ledger.claims_of("w1") == [two]


# -- rule 1: the lease pair is checked where the claim is made ------------------------------------


@pytest.fixture
def online_job(ledger: Ledger) -> str:
    """An online job of the default lane."""
    job_id = keys.new_job_id("default.0")
    meta = JobMeta(queue="tts.online.default.0", name="x.wav", lane_key="default.0")
    ledger.accept([(job_id, REQUEST, meta)])
    return job_id


def test_only_the_lease_holder_under_its_epoch_may_claim_online_work(
    stores: Stores, online_job: str
) -> None:
    """Neither no lease, nor an old epoch, nor the right epoch of another holder is enough."""
    ledger = stores.ledger
    lease = stores.coordinator.acquire("default.0", "w1", 30, ALL_KNOWN)
    assert lease is not None
    for believed in (None, Lease(lease.epoch - 1, "w1"), Lease(lease.epoch, "w2")):
        answer = ledger.claim(online_job, "w1", believed, max_strikes=3, nonce="n")
        assert isinstance(answer, ClaimRefused)
        assert answer.reason is Refusal.NOT_LEADER
    granted(ledger.claim(online_job, "w1", lease, max_strikes=3, nonce="n"))


# -- what nobody has heard of ----------------------------------------------------------------------


def test_open_jobs_of_all_lanes_are_found(stores: Stores) -> None:
    """Accepted and running ones, with what they are to be spoken with; ended ones are not."""
    for lane, item in (("default.0", "a"), ("default.0", "b"), ("other.1", "c")):
        meta = JobMeta(queue=f"tts.online.{lane}", name=f"{item}.wav", lane_key=lane)
        stores.ledger.accept([(f"{lane}:{item}", REQUEST, meta)])
    lease = stores.coordinator.acquire("default.0", "w1", 30, ALL_KNOWN)
    for item in "ab":
        claim = stores.ledger.claim(f"default.0:{item}", "w1", lease, max_strikes=3, nonce=item)
        assert isinstance(claim, Claim)
        if item == "a":
            assert stores.ledger.finish(claim, "succeeded", {}, retention_s=60)
    found = stores.ledger.open_jobs()
    assert sorted(record.id for record in found) == ["default.0:b", "other.1:c"]
    assert {record.request["text"] for record in found} == {"你好"}


def test_a_job_whose_message_left_the_queue_unheard_is_found(stores: Stores) -> None:
    """With an empty queue, an accepted job that is older than the grace has lost its message."""
    (job_id,) = accept_lines(stores.ledger, 1)
    assert stores.ledger.unheard(QUEUE, grace_s=30, limit=10) == []
    stores.age(QUEUE, job_id, 60)
    assert stores.ledger.unheard(QUEUE, grace_s=30, limit=10) == [job_id]


def test_a_job_that_waits_in_a_long_queue_is_not_taken_for_lost(stores: Stores) -> None:
    """While an earlier message still waits, later ones cannot have been heard."""
    (job_id,) = accept_lines(stores.ledger, 1)
    stores.age(QUEUE, job_id, 60)
    stores.ring(QUEUE, job_id, 120)
    assert stores.ledger.unheard(QUEUE, grace_s=30, limit=10) == []
    stores.hear(QUEUE)
    stores.ring(QUEUE, job_id, 0)
    assert stores.ledger.unheard(QUEUE, grace_s=30, limit=10) == [job_id]


def test_what_waits_at_the_head_with_its_whole_chunk_is_not_taken_for_lost(stores: Stores) -> None:
    """After a death no grace is given: the head's own time must not make its chunk look lost."""
    first, second = (stores.ledger.accept(lines_of_a_batch(*lines)) for lines in ((1, 2), (3, 4)))
    for line, time_ms in enumerate((*first, *second), start=1):
        stores.ring_at(QUEUE, keys.batch_job_id(BATCH, line), time_ms)
    assert stores.ledger.unheard(QUEUE, grace_s=0, limit=10) == []
    stores.hear(QUEUE)
    assert stores.ledger.unheard(QUEUE, grace_s=0, limit=10) == []


def test_behind_a_foreign_message_nothing_is_taken_for_lost(redis_url: str) -> None:
    """It does not say when it was rung, and so neither what was rung before it."""
    stores = in_redis(redis_url, redis_url)
    (job_id,) = accept_lines(stores.ledger, 1)
    stores.age(QUEUE, job_id, 60)
    stores.ring_at(QUEUE, "", None)
    assert stores.ledger.unheard(QUEUE, grace_s=5, limit=10) == []
    stores.hear(QUEUE)
    assert stores.ledger.unheard(QUEUE, grace_s=5, limit=10) == [job_id]


def test_the_time_of_ringing_again_is_that_of_the_index(stores: Stores) -> None:
    """Whoever rings again sends it along: a message that was rung again is not taken for lost."""
    (job_id,) = accept_lines(stores.ledger, 1)
    stores.age(QUEUE, job_id, 60)
    stores.ring_at(QUEUE, job_id, stores.ledger.rung(QUEUE, [job_id]))
    assert stores.ledger.unheard(QUEUE, grace_s=0, limit=10) == []


def test_a_job_that_was_rung_again_is_not_unheard(stores: Stores) -> None:
    """Ringing counts from now; a job that has ended is not looked for."""
    one, two = accept_lines(stores.ledger, 1, 2)
    for job_id in (one, two):
        stores.age(QUEUE, job_id, 60)
    stores.ledger.rung(QUEUE, [one, "b1:99"])
    assert stores.ledger.unheard(QUEUE, grace_s=30, limit=10) == [two]
    attempt = granted(claim(stores.ledger, two))
    assert stores.ledger.finish(attempt, "succeeded", {}, retention_s=60)
    assert stores.ledger.unheard(QUEUE, grace_s=30, limit=10) == []


def test_an_open_job_stays_in_the_index_whoever_believes_that_it_has_ended(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """It has ended in a master that was then discarded: here somebody must still look after it."""
    ledger = JobLedger(redis_url)
    accepted, running, gone = accept_lines(ledger, 1, 2, 3)
    granted(claim(ledger, running))
    redis_client.delete(keys.job(gone))
    for job_id in (accepted, running, gone):
        ledger.close(QUEUE, job_id)
    assert redis_client.zrange(keys.open_jobs(QUEUE), 0, -1) == [accepted, running]


def test_the_index_in_memory_keeps_an_open_job_too() -> None:
    """As `close.lua` does."""
    store = MemoryStore()
    ledger = MemoryLedger(store)
    accepted, running, gone = accept_lines(ledger, 1, 2, 3)
    granted(claim(ledger, running))
    del store.jobs[gone]
    for job_id in (accepted, running, gone):
        ledger.close(QUEUE, job_id)
    assert sorted(store.open_jobs[QUEUE]) == [accepted, running]
