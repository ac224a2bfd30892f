"""Jobs: accept, claim, finish, cancel, release.

Rules 2 and 3 of the design live in the scripts that this module runs: a job is in the ledger
before its message is sent, `claim` alone decides who works on it, and only the newest attempt may
append or finish. Proved by ``tests/contract/test_job_ledger.py``.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.ledger.admission import LaneLoad, Terms, refusal
from tts_tasks.ledger.records import (
    Claim,
    ClaimRefused,
    Evidence,
    JobMeta,
    JobRecord,
    Refusal,
    evidence_json,
)
from tts_tasks.ledger.replicas import ReplicaGate
from tts_tasks.redis_connection import (
    RedisClient,
    Scripts,
    in_order,
    server_time_ms,
    shared_client,
    unavailable_is_clear,
)
from tts_tasks.redis_url import is_cluster

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tts_tasks.coordination.base import Lease
    from tts_tasks.requests import SpeechRequest

    _NewJob = tuple[str, SpeechRequest, JobMeta]

#: Jobs that go to Redis in one round trip.
CHUNK = 500


class JobLedger:
    """The ledger of jobs in Redis. Every call may raise `UnavailableError`."""

    def __init__(
        self,
        url: str,
        *,
        client: RedisClient | None = None,
        broker_url: str = "",
        replicas_acked: int = 0,
    ) -> None:
        """``broker_url``: where the queues are, if not in the ledger's Redis (for `unheard`).

        ``replicas_acked``: so many replicas have a job before `accept` returns.
        """
        self._url = url
        self._broker_url = broker_url or url
        self._client = client or shared_client(url)
        self._replicas = ReplicaGate(replicas_acked)
        self._scripts = Scripts(self._client, "tts_tasks.ledger")

    def accept(
        self, jobs: Sequence[_NewJob], *, delay_s: float = 0.0, terms: Terms | None = None
    ) -> list[int | None]:
        """Write jobs down; returns for each when it was accepted (ms), or None if it was there.

        The time is what its message is to carry as ``rung_ms``: that of the entry in the index, for
        `unheard` compares the two.
        ``delay_s``: the message will be heard that much later, and is not missed before. Until it
        is claimed such a job does not count as waiting, nor against ``terms``.
        Raises `AdmissionError` for the first online job that is refused; what was accepted stays.
        The index of open jobs is written first: a crash in between leaves an entry that leads
        nowhere, never a job that nobody looks after. It is written again afterwards: a stall in
        between may have had the entry struck off as one that leads nowhere.
        """
        accepted: list[int | None] = []
        now_ms = self.now_ms()
        with unavailable_is_clear(self._url):
            for start in range(0, len(jobs), CHUNK):
                chunk = jobs[start : start + CHUNK]
                index = partial(_index, chunk, now_ms + int(delay_s * 1000))
                write = partial(self._write, chunk, terms or Terms(), delayed=delay_s > 0)
                answers = self._replicas.run(self._client, index, write, index)
                written = answers[len(chunk) : 2 * len(chunk)]
                self._refuse(chunk, written)
                accepted += [now_ms if new else None for new, _ in written]
        return accepted

    def _write(
        self, jobs: Sequence[_NewJob], terms: Terms, pipe: RedisClient, *, delayed: bool
    ) -> None:
        lane = [terms.max_waiting, int(terms.takeover_s * 1000), int(not delayed)]
        for job_id, request, meta in jobs:
            job_keys = [keys.job(job_id)]
            if meta.lane_key:
                job_keys += [keys.load(meta.lane_key), keys.lease(meta.lane_key)]
            deadline_ms = "" if request.deadline_s is None else int(request.deadline_s * 1000)
            args = [len(request.text), deadline_ms, *lane]
            fields = ["request", request.model_dump_json(), "meta", meta.to_json()]
            fields += ["lane", meta.lane_key]
            self._scripts.run("accept", job_keys, [*args, *fields], client=pipe)

    def _refuse(self, jobs: Sequence[_NewJob], answers: Sequence[Sequence[Any]]) -> None:
        """Strike what was refused off the index, and raise for the first of it."""
        refused = [
            (job, answer)
            for job, answer in zip(jobs, answers, strict=True)
            if isinstance(answer[0], str)
        ]
        if not refused:
            return
        pipe = self._client.pipeline(transaction=False)
        for (job_id, _, meta), _ in refused:
            self._close(pipe, meta.queue, job_id)
        pipe.execute()
        (_, request, meta), answer = refused[0]
        raise refusal(*answer, lane_key=meta.lane_key, deadline_s=request.deadline_s)

    def claim(
        self,
        job_id: str,
        worker: str,
        lease: Lease | None,
        *,
        max_strikes: int,
        nonce: str,
    ) -> Claim | ClaimRefused:
        """Ask for a job. The worker's own list of claims is written first, for its recoverers.

        ``nonce`` names this claim: asking again under it, after a lost reply, is asking once.
        """
        tag, _ = keys.split_job_id(job_id)
        job_keys = [keys.job(job_id), keys.lease(tag), keys.load(tag)]
        args = [worker, max_strikes, str(lease) if lease else "", nonce]
        with unavailable_is_clear(self._url):
            _, answer = in_order(
                self._client,
                lambda pipe: pipe.sadd(keys.claims(worker), job_id),
                lambda pipe: self._scripts.run("claim", job_keys, args, client=pipe),
            )
            if answer[0] != "claimed":
                self._client.srem(keys.claims(worker), job_id)
        if answer[0] == "claimed":
            _, attempt, request, meta, accepted_ms = answer
            return Claim(
                job_id=job_id,
                worker=worker,
                attempt=int(attempt),
                request=json.loads(request),
                meta=JobMeta.from_json(meta),
                accepted_ms=int(accepted_ms),
                epoch=lease.epoch if lease else 0,
            )
        detail = str(answer[1]) if len(answer) > 1 else ""
        result = json.loads(answer[2] or "{}") if len(answer) > 2 else {}
        return ClaimRefused(Refusal(answer[0]), detail, result)

    def finish(self, claim: Claim, state: str, result: dict[str, Any], *, retention_s: int) -> bool:
        """End a job as ``succeeded`` or ``failed``.

        False if the attempt is stale, and nothing was changed. Finishing twice is finishing once.
        """
        return self._finish(
            claim.job_id, claim.meta, str(claim.attempt), claim.worker, state, result, retention_s
        )

    def give_up(
        self, record: JobRecord, worker: str, result: dict[str, Any], *, retention_s: int
    ) -> bool:
        """Fail a job that nobody (or only ``worker``) works on; returns like `finish`."""
        return self._finish(record.id, record.meta, "*", worker, "failed", result, retention_s)

    def cancel(self, record: JobRecord, *, retention_s: int) -> str:
        """End an online job as ``cancelled``; returns how it has ended, "" if it is unknown.

        What has ended before stays as it is. Whoever has the job is refused from now on: proved by
        ``tests/contract/test_cancelling.py``.
        """
        job_keys = [keys.job(record.id), keys.load(keys.split_job_id(record.id)[0])]
        with unavailable_is_clear(self._url):
            state, worker = self._scripts.run("cancel", job_keys, [retention_s])
            pipe = self._client.pipeline(transaction=False)
            self._close(pipe, record.meta.queue, record.id)
            if worker:
                pipe.srem(keys.claims(worker), record.id)
            pipe.execute()
        return str(state)

    def _finish(  # noqa: PLR0917 - the script's arguments, in its order
        self,
        job_id: str,
        meta: JobMeta,
        attempt: str,
        worker: str,
        state: str,
        result: dict[str, Any],
        retention_s: int,
    ) -> bool:
        job_keys = [keys.job(job_id), keys.load(keys.split_job_id(job_id)[0])]
        args = [attempt, worker, state, json.dumps(result, ensure_ascii=False)]
        with unavailable_is_clear(self._url):
            if not self._scripts.run("finish", job_keys, [*args, retention_s]):
                return False
            pipe = self._client.pipeline(transaction=False)
            self._close(pipe, meta.queue, job_id)
            pipe.srem(keys.claims(worker), job_id)
            pipe.execute()
        return True

    def release(
        self,
        job_id: str,
        worker: str,
        attempt: int | None,
        *,
        strike: bool,
        evidence: Evidence | None = None,
        pardons: int = 0,
    ) -> int | None:
        """Take a job back from a worker; returns its strikes, or None if the worker has it not.

        ``evidence``: how the attempt ended; the newest is kept with the job, cut to
        `EVIDENCE_BYTES`. ``pardons``: so many times in the job's life the strike does not count,
        and only has the job tried elsewhere.
        """
        args = [worker, "*" if attempt is None else attempt, int(strike)]
        args += [evidence_json(evidence), pardons]
        with unavailable_is_clear(self._url):
            job_keys = [keys.job(job_id), keys.load(keys.split_job_id(job_id)[0])]
            answer = self._scripts.run("release", job_keys, args)
            self._client.srem(keys.claims(worker), job_id)
        return int(answer[1]) if answer[0] == "released" else None

    def load(self, lane_key: str) -> LaneLoad:
        """Return what a lane has to do."""
        with unavailable_is_clear(self._url):
            return LaneLoad.from_hash(self._client.hgetall(keys.load(lane_key)))

    def claims_of(self, worker: str) -> list[str]:
        """Return the jobs that a worker has claimed, or was about to."""
        with unavailable_is_clear(self._url):
            claims = self._client.smembers(keys.claims(worker))
        return sorted(claim for claim in claims if ":" in claim)  # the others are batches

    def get(self, job_id: str) -> JobRecord | None:
        """Return a job, or None."""
        return self.get_many([job_id])[0]

    def get_many(self, job_ids: Sequence[str]) -> list[JobRecord | None]:
        """Return jobs in the order asked for; None for those that the ledger does not know."""
        found: list[JobRecord | None] = []
        with unavailable_is_clear(self._url):
            for start in range(0, len(job_ids), CHUNK):
                chunk = job_ids[start : start + CHUNK]
                pipe = self._client.pipeline(transaction=False)
                for job_id in chunk:
                    pipe.hgetall(keys.job(job_id))
                for job_id, fields in zip(chunk, pipe.execute(), strict=True):
                    found.append(JobRecord.from_hash(job_id, fields) if fields else None)
        return found

    def open_jobs(self) -> list[JobRecord]:
        """Return the online jobs of all lanes that have not ended."""
        with unavailable_is_clear(self._url):
            indices = sorted(self._client.scan_iter(match=keys.open_jobs("*"), count=1000))
            ids = [job_id for index in indices for job_id in self._client.zrange(index, 0, -1)]
        return [record for record in self.get_many(ids) if record and not record.ended]

    def now_ms(self) -> int:
        """Return Redis's time in ms."""
        with unavailable_is_clear(self._url):
            return server_time_ms(self._client)

    def rung(self, queue: str, job_ids: Iterable[str]) -> int:
        """Note that these jobs are rung again now; returns the ``rung_ms`` of their messages."""
        now_ms = self.now_ms()
        scores = dict.fromkeys(job_ids, now_ms)
        if scores:
            with unavailable_is_clear(self._url):
                self._client.zadd(keys.open_jobs(queue), scores, xx=True)
        return now_ms

    def close(self, queue: str, job_id: str) -> None:
        """Strike a job off the index of open ones, if it has ended or is unknown."""
        with unavailable_is_clear(self._url):
            pipe = self._client.pipeline(transaction=False)
            self._close(pipe, queue, job_id)
            pipe.execute()

    def _close(self, pipe: RedisClient, queue: str, job_id: str) -> None:
        index = keys.open_jobs(queue)
        if is_cluster(self._url):  # the two are not on one node
            pipe.zrem(index, job_id)
        else:
            self._scripts.run("close", [keys.job(job_id), index], [job_id], client=pipe)

    def unheard(self, queue: str, *, grace_s: float, limit: int) -> list[str]:
        """Return open jobs whose ring must have been heard by now.

        A queue is first in, first out: what was rung earlier than the message that is next to be
        taken has left the queue. Each message carries when it was rung (``rung_ms``). What was rung
        at that very moment may wait behind it: all lines of a chunk carry the same.
        """
        until_ms: float = self.now_ms()  # before the look at the queue
        with unavailable_is_clear(self._broker_url):
            next_message = shared_client(self._broker_url).lindex(queue, -1)
        if next_message:
            until_ms = min(until_ms, _rung_ms(next_message))
        with unavailable_is_clear(self._url):
            found: list[str] = self._client.zrangebyscore(
                keys.open_jobs(queue), "-inf", f"({until_ms - grace_s * 1000}", start=0, num=limit
            )
        return found


def _index(jobs: Sequence[_NewJob], heard_ms: int, pipe: RedisClient) -> None:
    for job_id, _, meta in jobs:
        pipe.zadd(keys.open_jobs(meta.queue), {job_id: heard_ms}, nx=True)


def _rung_ms(message: str) -> float:
    try:
        return float(json.loads(message)["headers"]["rung_ms"])
    except (ValueError, KeyError, TypeError):
        return float("-inf")  # a foreign message: nothing is known until it has been taken
