"""Jobs and batches in a real Redis: accepted once, claimed by one, ended by the newest attempt."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tts_tasks import keys
from tts_tasks.coordination.base import Lease
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.errors import ConflictError
from tts_tasks.ledger import BatchBook, Claim, ClaimRefused, JobLedger, JobMeta, Refusal
from tts_tasks.requests import SpeechRequest

if TYPE_CHECKING:
    import redis

REQUEST = SpeechRequest(text="你好")
QUEUE = "tts.batch.default"
BATCH = "b1"


@pytest.fixture
def ledger(redis_url: str) -> JobLedger:
    """An empty ledger."""
    return JobLedger(redis_url)


@pytest.fixture
def book(redis_url: str) -> BatchBook:
    """The batches of the same ledger."""
    return BatchBook(redis_url)


def accept_lines(ledger: JobLedger, *lines: int) -> list[str]:
    jobs = [
        (
            keys.batch_job_id(BATCH, line),
            REQUEST,
            JobMeta(queue=QUEUE, name=f"{BATCH}/{line}.wav", batch=BATCH, line=line),
        )
        for line in lines
    ]
    ledger.accept(jobs)
    return [job_id for job_id, _, _ in jobs]


def claim(ledger: JobLedger, job_id: str, worker: str = "w1") -> Claim | ClaimRefused:
    return ledger.claim(job_id, worker, None, max_strikes=3, nonce=secrets.token_hex(4))


def granted(answer: Claim | ClaimRefused) -> Claim:
    assert isinstance(answer, Claim), answer
    return answer


def test_a_job_is_accepted_once(ledger: JobLedger) -> None:
    """Accepting again changes nothing, whatever has become of the job."""
    (job_id,) = accept_lines(ledger, 1)
    granted(claim(ledger, job_id))
    meta = JobMeta(queue=QUEUE, name="other.wav", batch=BATCH, line=1)
    assert ledger.accept([(job_id, SpeechRequest(text="anders"), meta)]) == [None]
    record = ledger.get(job_id)
    assert record is not None
    assert (record.state, record.request["text"]) == ("running", "你好")


def test_of_many_racing_workers_one_gets_the_job(ledger: JobLedger) -> None:
    """A message delivered ten times is worked on once."""
    (job_id,) = accept_lines(ledger, 1)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: claim(ledger, job_id, f"w{n}"), range(10)))
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert {a.reason for a in answers if isinstance(a, ClaimRefused)} == {Refusal.HELD}


def test_an_unknown_job_is_not_invented(ledger: JobLedger) -> None:
    """A message without a ledger entry is refused as missing."""
    answer = claim(ledger, "b1:99")
    assert isinstance(answer, ClaimRefused)
    assert answer.reason is Refusal.MISSING


def test_only_the_newest_attempt_may_append_and_finish(ledger: JobLedger) -> None:
    """The first worker comes back after its job was given to a second: it is refused."""
    (job_id,) = accept_lines(ledger, 1)
    first = granted(claim(ledger, job_id, "w1"))
    assert ledger.release(job_id, "w1", None, strike=True) == 1
    second = granted(claim(ledger, job_id, "w2"))
    assert second.attempt == first.attempt + 1
    assert not ledger.append(first, 1, 2)
    assert ledger.finish(first, "succeeded", {"uri": "stale"}, retention_s=60) is None
    assert ledger.append(second, 1, 2)
    assert ledger.finish(second, "succeeded", {"uri": "new"}, retention_s=60) is not None
    record = ledger.get(job_id)
    assert record is not None
    assert (record.state, record.result) == ("succeeded", {"uri": "new"})


def test_finishing_twice_is_finishing_once(ledger: JobLedger, book: BatchBook) -> None:
    """A reply that was lost is asked for again; the batch counts the job once."""
    book.open(BATCH, source="s", output=BATCH, queue=QUEUE)
    (job_id, _) = accept_lines(ledger, 1, 2)
    book.seal(BATCH, accepted=2, rejected=0)
    attempt = granted(claim(ledger, job_id))
    assert ledger.finish(attempt, "succeeded", {}, retention_s=60) == 1
    assert ledger.finish(attempt, "succeeded", {}, retention_s=60) == 1
    batch = book.get(BATCH)
    assert batch is not None
    assert batch.succeeded == 1
    assert book.ended_lines(BATCH, 0) == [1]


def test_an_ended_job_answers_with_its_result(ledger: JobLedger) -> None:
    """A late duplicate of the message gets what came of the job, not another run."""
    (job_id,) = accept_lines(ledger, 1)
    ledger.finish(granted(claim(ledger, job_id)), "succeeded", {"uri": "u"}, retention_s=60)
    answer = claim(ledger, job_id, "w2")
    assert answer == ClaimRefused(Refusal.ENDED, "succeeded", {"uri": "u"})


def test_the_same_worker_may_claim_again_after_its_child_died(ledger: JobLedger) -> None:
    """A redelivery to the same worker is a new attempt, and a strike."""
    (job_id,) = accept_lines(ledger, 1)
    assert granted(claim(ledger, job_id)).attempt == 1
    assert granted(claim(ledger, job_id)).attempt == 2


def test_a_claim_whose_reply_was_lost_is_asked_again_without_harm(ledger: JobLedger) -> None:
    """Under the same nonce it is the same attempt, and no strike."""
    (job_id,) = accept_lines(ledger, 1)
    answers = [ledger.claim(job_id, "w1", None, max_strikes=1, nonce="same") for _ in range(3)]
    assert {granted(answer).attempt for answer in answers} == {1}


def test_a_job_that_loses_its_workers_is_exhausted_unless_it_makes_progress(
    ledger: JobLedger,
) -> None:
    """Three deaths in a row without a new segment are the end; progress starts the count anew."""
    (job_id,) = accept_lines(ledger, 1)
    for done in (1, 2, 3, 4):
        attempt = granted(claim(ledger, job_id, f"w{done}"))
        ledger.append(attempt, done, 9)
        ledger.release(job_id, f"w{done}", None, strike=True)
    for n in range(2):
        granted(claim(ledger, job_id, f"x{n}"))
        ledger.release(job_id, f"x{n}", None, strike=True)
    answer = claim(ledger, job_id, "x3")
    assert isinstance(answer, ClaimRefused)
    assert answer.reason is Refusal.EXHAUSTED


def test_a_job_nobody_holds_can_be_given_up_and_a_running_one_not(ledger: JobLedger) -> None:
    """Giving up takes nothing from the worker that has the job."""
    (job_id,) = accept_lines(ledger, 1)
    granted(claim(ledger, job_id, "w1"))
    record = ledger.get(job_id)
    assert record is not None
    assert ledger.give_up(record, "w2", {}, retention_s=60) is None
    ledger.release(job_id, "w1", None, strike=True)
    for _ in range(2):  # asked again after a lost reply
        assert ledger.give_up(record, "w2", {"error": {}}, retention_s=60) is not None
    assert ledger.give_up(record, "w2", {"error": {"other": 1}}, retention_s=60) is None


def test_a_workers_claims_are_known_until_they_end(ledger: JobLedger) -> None:
    """What a dead worker held can be listed."""
    one, two = accept_lines(ledger, 1, 2)
    attempt = granted(claim(ledger, one))
    granted(claim(ledger, two))
    assert ledger.claims_of("w1") == [one, two]
    ledger.finish(attempt, "succeeded", {}, retention_s=60)
    assert ledger.claims_of("w1") == [two]


# -- rule 1: the lease pair is checked where the claim is made ------------------------------------


@pytest.fixture
def online_job(ledger: JobLedger) -> str:
    """An online job of the default lane."""
    job_id = keys.new_job_id("default.0")
    meta = JobMeta(queue="tts.online.default.0", name="x.wav", lane_key="default.0")
    ledger.accept([(job_id, REQUEST, meta)])
    return job_id


def test_only_the_lease_holder_under_its_epoch_may_claim_online_work(
    ledger: JobLedger, online_job: str, redis_url: str
) -> None:
    """Neither no lease, nor an old epoch, nor the right epoch of another holder is enough."""
    lease = RedisCoordinator(redis_url, timeout_s=2.0).acquire("default.0", "w1", 30)
    assert lease is not None
    for believed in (None, Lease(lease.epoch - 1, "w1"), Lease(lease.epoch, "w2")):
        answer = ledger.claim(online_job, "w1", believed, max_strikes=3, nonce="n")
        assert isinstance(answer, ClaimRefused)
        assert answer.reason is Refusal.NOT_LEADER
    granted(ledger.claim(online_job, "w1", lease, max_strikes=3, nonce="n"))


# -- what nobody has heard of ----------------------------------------------------------------------


def message(rung_ms: float) -> str:
    return json.dumps({"body": "", "headers": {"rung_ms": rung_ms}})


def test_a_job_whose_message_left_the_queue_unheard_is_found(
    ledger: JobLedger, redis_client: redis.Redis
) -> None:
    """With an empty queue, an accepted job that is older than the grace has lost its message."""
    (job_id,) = accept_lines(ledger, 1)
    assert ledger.unheard(QUEUE, grace_s=30, limit=10) == []
    redis_client.zincrby(keys.open_jobs(QUEUE), -60_000, job_id)
    assert ledger.unheard(QUEUE, grace_s=30, limit=10) == [job_id]


def test_a_job_that_waits_in_a_long_queue_is_not_taken_for_lost(
    ledger: JobLedger, redis_client: redis.Redis
) -> None:
    """While an earlier message still waits, later ones cannot have been heard."""
    (job_id,) = accept_lines(ledger, 1)
    redis_client.zincrby(keys.open_jobs(QUEUE), -60_000, job_id)
    redis_client.lpush(QUEUE, message(rung_ms=ledger.now_ms() - 120_000))
    assert ledger.unheard(QUEUE, grace_s=30, limit=10) == []
    redis_client.rpop(QUEUE)
    redis_client.lpush(QUEUE, message(rung_ms=ledger.now_ms()))
    assert ledger.unheard(QUEUE, grace_s=30, limit=10) == [job_id]


# -- batches ---------------------------------------------------------------------------------------


def test_the_same_content_reattaches_and_other_content_conflicts(book: BatchBook) -> None:
    """An id is the promise of one content and one output."""
    assert book.open(BATCH, source="s", output="out", queue=QUEUE)
    assert book.open(BATCH, source="s", output="out", queue=QUEUE)
    book.seal(BATCH, accepted=0, rejected=0)
    assert not book.open(BATCH, source="s", output="out", queue=QUEUE)
    with pytest.raises(ConflictError, match="b1"):
        book.open(BATCH, source="t", output="out", queue=QUEUE)


def test_a_batch_is_complete_when_it_is_sealed_and_all_have_ended(
    ledger: JobLedger, book: BatchBook
) -> None:
    """Before it is sealed nobody can know that the last job was the last."""
    book.open(BATCH, source="s", output=BATCH, queue=QUEUE)
    (job_id,) = accept_lines(ledger, 1)
    assert ledger.finish(granted(claim(ledger, job_id)), "failed", {}, retention_s=60) == -1
    assert book.seal(BATCH, accepted=1, rejected=2) == 0
    batch = book.get(BATCH)
    assert batch is not None
    assert batch.complete
    assert (batch.total, batch.failed, batch.rejected) == (3, 1, 2)
