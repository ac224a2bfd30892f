"""`JobLedger` in memory: what the scripts of `tts_tasks.ledger` do, in Python."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.errors import AdmissionError
from tts_tasks.ledger.admission import LaneLoad, Terms
from tts_tasks.ledger.records import (
    Claim,
    ClaimRefused,
    Evidence,
    JobMeta,
    JobRecord,
    Refusal,
    evidence_json,
)
from tts_tasks.testing.store import MemoryStore, Wire, new_job

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tts_tasks.coordination.base import Lease
    from tts_tasks.requests import SpeechRequest
    from tts_tasks.testing.load import MemoryLoad

_ANY = -1  #: in place of an attempt: whatever it is


@dataclass(frozen=True, slots=True)
class _Ending:
    """What a job is to end with."""

    attempt: int
    worker: str
    state: str
    result: str
    meta: JobMeta
    retention_s: int


def is_newest(job: dict[str, Any], attempt: int, worker: str) -> bool:
    """Tell whether it is this attempt that has the job. Rule 3."""
    return (job["state"], job["attempt"], job["worker"]) == ("running", attempt, worker)


class MemoryLedger:
    """`JobLedger` in this process; passes the same contract suite.

    The lease that `claim` checks is the one in the same `MemoryStore`: the coordinator's. The
    methods whose names begin with ``_store_`` are what the store does in one step; a public method
    takes as many steps as the real one, so that a client can die between two of them.
    """

    def __init__(self, store: MemoryStore | None = None, *, wire: Wire | None = None) -> None:
        self.store = store or MemoryStore()
        self._ask: Wire = wire or self.store.at_once

    def accept(
        self,
        jobs: Sequence[tuple[str, SpeechRequest, JobMeta]],
        *,
        delay_s: float = 0.0,
        terms: Terms | None = None,
    ) -> list[int | None]:
        """Write jobs down; returns for each when it was accepted (ms), or None if it was there."""
        now_ms = self.now_ms()
        heard_ms = now_ms + int(delay_s * 1000)
        on = None if delay_s > 0 else terms or Terms()
        accepted = []
        for job_id, request, meta in jobs:
            self._ask(self._store_index, meta.queue, job_id, heard_ms)
            answer = self._ask(self._store_accept, job_id, request, meta, on)
            if isinstance(answer, AdmissionError):
                self._ask(self._store_close, meta.queue, job_id)
                raise answer
            accepted.append(now_ms if answer else None)
            self._ask(self._store_index, meta.queue, job_id, heard_ms)
        return accepted

    def _store_index(self, queue: str, job_id: str, heard_ms: int) -> None:
        self.store.open_jobs[queue].setdefault(job_id, heard_ms)

    def _store_accept(
        self, job_id: str, request: SpeechRequest, meta: JobMeta, terms: Terms | None
    ) -> bool | AdmissionError:
        keys.split_job_id(job_id)  # what is not a job id is refused, as by the real one
        if self.store.job(job_id) is not None:
            return False
        job = new_job(
            meta,
            request=request.model_dump_json(),
            chars=len(request.text),
            accepted_ms=self.store.now_ms(),
        )
        job["deadline_s"] = request.deadline_s
        if meta.lane_key and terms is not None:
            load, now_ms = self.store.loads[meta.lane_key], self.store.now_ms()
            led = self.store.lease(meta.lane_key) is not None
            if refused := load.refusal(job, terms, now_ms=now_ms, led=led):
                return refused
            if request.deadline_s is not None:
                job["deadline_ms"] = now_ms + int(request.deadline_s * 1000)
            job["counted"] = True
            load.waits(job)
        self.store.jobs[job_id] = job
        return True

    def claim(
        self,
        job_id: str,
        worker: str,
        lease: Lease | None,
        *,
        max_strikes: int,
        nonce: str,
    ) -> Claim | ClaimRefused:
        """Ask for a job; asking again under the same ``nonce`` is asking once."""
        self._ask(self._store_note_claim, worker, job_id)
        answer = self._ask(self._store_claim, job_id, worker, lease, max_strikes, nonce)
        if isinstance(answer, ClaimRefused):
            self._ask(self._store_drop_claim, worker, job_id)
        return answer

    def _store_note_claim(self, worker: str, job_id: str) -> None:
        self.store.claims[worker].add(job_id)

    def _store_drop_claim(self, worker: str, job_id: str) -> None:
        self.store.claims[worker].discard(job_id)

    def _store_claim(
        self,
        job_id: str,
        worker: str,
        lease: Lease | None,
        max_strikes: int,
        nonce: str,
    ) -> Claim | ClaimRefused:
        tag, _ = keys.split_job_id(job_id)
        job = self.store.job(job_id)
        if job is None:
            return ClaimRefused(Refusal.MISSING)
        if job["state"] not in ("accepted", "running"):
            return ClaimRefused(Refusal.ENDED, job["state"], json.loads(job["result"] or "{}"))
        if job["meta"].lane_key:
            held = self.store.lease(tag)
            if held is None or held != lease:
                return ClaimRefused(Refusal.NOT_LEADER, str(held) if held else "")
        if job["state"] == "running" and job["worker"] != worker:
            return ClaimRefused(Refusal.HELD, job["worker"])
        if job["state"] == "running" and job["nonce"] == nonce:
            return self._granted(job_id, job, lease)
        return self._store_attempt(job_id, job, worker, lease, max_strikes, nonce)

    def _store_attempt(  # noqa: PLR0917 - as above
        self,
        job_id: str,
        job: dict[str, Any],
        worker: str,
        lease: Lease | None,
        max_strikes: int,
        nonce: str,
    ) -> Claim | ClaimRefused:
        now_ms = self.store.now_ms()
        if job["deadline_ms"] is not None and now_ms > job["deadline_ms"]:
            return ClaimRefused(Refusal.EXPIRED, str(now_ms - job["deadline_ms"]))
        if job["state"] == "running":
            self._strike(job, worker)  # its earlier attempt died with its child process
        if job["strikes"] >= max_strikes:
            return ClaimRefused(Refusal.EXHAUSTED, str(job["strikes"]))
        self._uncount(job)
        job.update(state="running", worker=worker, nonce=nonce, claimed_ms=now_ms)
        job["attempt"] += 1
        self._count_running(job)
        return self._granted(job_id, job, lease)

    def _load_of(self, job: dict[str, Any]) -> MemoryLoad:
        return self.store.loads[job["meta"].lane_key]

    def _count_running(self, job: dict[str, Any]) -> None:
        job["counted"] = bool(job["meta"].lane_key)
        if job["counted"]:
            self._load_of(job).runs(job)

    def _uncount(self, job: dict[str, Any]) -> None:
        """Take a job out of its lane's load, before its state changes."""
        if job["counted"]:
            load = self._load_of(job)
            (load.runs if job["state"] == "running" else load.waits)(job, -1)

    @staticmethod
    def _granted(job_id: str, job: dict[str, Any], lease: Lease | None) -> Claim:
        return Claim(
            job_id=job_id,
            worker=job["worker"],
            attempt=job["attempt"],
            request=json.loads(job["request"]),
            meta=job["meta"],
            accepted_ms=job["accepted_ms"],
            epoch=lease.epoch if lease else 0,
        )

    def finish(self, claim: Claim, state: str, result: dict[str, Any], *, retention_s: int) -> bool:
        """End a job as ``succeeded`` or ``failed``; returns like the real one."""
        record = json.dumps(result, ensure_ascii=False)
        ending = _Ending(claim.attempt, claim.worker, state, record, claim.meta, retention_s)
        return self._finish(claim.job_id, ending)

    def give_up(
        self, record: JobRecord, worker: str, result: dict[str, Any], *, retention_s: int
    ) -> bool:
        """Fail a job that nobody (or only ``worker``) works on; returns like `finish`."""
        text = json.dumps(result, ensure_ascii=False)
        ending = _Ending(_ANY, worker, "failed", text, record.meta, retention_s)
        return self._finish(record.id, ending)

    def cancel(self, record: JobRecord, *, retention_s: int) -> str:
        """End an online job as ``cancelled``; returns like the real one."""
        state, worker = self._ask(self._store_cancel, record.id, retention_s)
        self._ask(self._store_close, record.meta.queue, record.id)
        if worker:
            self._ask(self._store_drop_claim, worker, record.id)
        return state

    def _store_cancel(self, job_id: str, retention_s: int) -> tuple[str, str]:
        job = self.store.job(job_id)
        if job is None:
            return "", ""
        if job["state"] in ("accepted", "running"):
            self._uncount(job)
            now_ms = self.store.now_ms()
            job.update(state="cancelled", finished_ms=now_ms)
            job["expires_ms"] = now_ms + retention_s * 1000
        return job["state"], job["worker"]

    def _finish(self, job_id: str, ending: _Ending) -> bool:
        finished = self._ask(self._store_finish, job_id, ending)
        if finished:
            self._ask(self._store_close, ending.meta.queue, job_id)
            self._ask(self._store_drop_claim, ending.worker, job_id)
        return finished

    def _store_finish(self, job_id: str, ending: _Ending) -> bool:
        job = self.store.job(job_id)
        if job is None:
            return False
        mine = is_newest(job, ending.attempt, ending.worker)
        if ending.attempt == _ANY:
            mine = job["state"] == "accepted" or (
                job["state"] == "running" and job["worker"] == ending.worker
            )
        if not mine and not self._is_repeated(job, ending):
            return False
        if mine:
            self._uncount(job)
            if job["counted"] and (job["state"], ending.state) == ("running", "succeeded"):
                now_ms = self.store.now_ms()
                took_ms = max(1, now_ms - job["claimed_ms"])
                self._load_of(job).measure(took_ms, job["chars"], now_ms)
            job.update(state=ending.state, result=ending.result, finished_ms=self.store.now_ms())
            job["expires_ms"] = self.store.now_ms() + ending.retention_s * 1000
        return True

    @staticmethod
    def _is_repeated(job: dict[str, Any], ending: _Ending) -> bool:
        same = (job["state"], job["result"]) == (ending.state, ending.result)
        asker = (job["attempt"], job["worker"]) == (ending.attempt, ending.worker)
        return same and (asker or ending.attempt == _ANY)

    def _strike(self, job: dict[str, Any], worker: str, *, pardons: int = 0) -> None:
        if not job["strikes"] and not job["pardons"]:
            job["struck_workers"] = []
        if worker not in job["struck_workers"]:
            job["struck_workers"].append(worker)
        job.update(struck_by=worker, released_ms=self.store.now_ms())
        job["pardons" if job["pardons"] < pardons else "strikes"] += 1

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
        """Take a job back from a worker; returns its strikes, or None if the worker has it not."""
        strikes = self._ask(
            self._store_release, job_id, worker, attempt, strike, evidence_json(evidence), pardons
        )
        self._ask(self._store_drop_claim, worker, job_id)
        return strikes

    def _store_release(  # noqa: PLR0917 - the script's arguments
        self,
        job_id: str,
        worker: str,
        attempt: int | None,
        strike: bool,
        evidence: str,
        pardons: int,
    ) -> int | None:
        job = self.store.job(job_id)
        if job is None or not is_newest(
            job, job["attempt"] if attempt is None else attempt, worker
        ):
            return None
        self._uncount(job)
        if job["counted"]:
            self._load_of(job).waits(job)
        job.update(state="accepted", worker="", evidence=evidence or job["evidence"])
        if strike:
            self._strike(job, worker, pardons=pardons)
        return int(job["strikes"])

    def load(self, lane_key: str) -> LaneLoad:
        """Return what a lane has to do."""
        return self._ask(self._store_load, lane_key)

    def _store_load(self, lane_key: str) -> LaneLoad:
        return self.store.loads[lane_key].shown()

    def claims_of(self, worker: str) -> list[str]:
        """Return the jobs that a worker has claimed, or was about to."""
        claims = self._ask(lambda: sorted(self.store.claims[worker]))
        return [claim for claim in claims if ":" in claim]  # the others are batches

    def get(self, job_id: str) -> JobRecord | None:
        """Return a job, or None."""
        return self.get_many([job_id])[0]

    def get_many(self, job_ids: Sequence[str]) -> list[JobRecord | None]:
        """Return jobs in the order asked for; None for those that the ledger does not know."""
        return self._ask(lambda: [self._store_get(job_id) for job_id in job_ids])

    def _store_get(self, job_id: str) -> JobRecord | None:
        job = self.store.job(job_id)
        if job is None:
            return None
        return JobRecord(
            id=job_id,
            state=job["state"],
            attempt=job["attempt"],
            worker=job["worker"],
            request=json.loads(job["request"]),
            meta=replace(job["meta"]),
            result=json.loads(job["result"] or "{}"),
            accepted_ms=job["accepted_ms"],
            claimed_ms=job["claimed_ms"],
            finished_ms=job["finished_ms"],
            segments_done=job["segments_done"],
            segments=job["segments"],
            strikes=job["strikes"],
            struck_workers=tuple(job["struck_workers"]),
            evidence=json.loads(job["evidence"] or "{}"),
            nonce=job["nonce"],
            chunk=job.get("chunk", 0),
        )

    def open_jobs(self) -> list[JobRecord]:
        """Return the online jobs of all lanes that have not ended."""
        found = self.get_many(self._ask(self._store_open))
        return [record for record in found if record and not record.ended]

    def _store_open(self) -> list[str]:
        return [job_id for jobs in self.store.open_jobs.values() for job_id in jobs]

    def now_ms(self) -> int:
        """Return the store's time in ms."""
        return self._ask(self.store.now_ms)

    def rung(self, queue: str, job_ids: Iterable[str]) -> int:
        """Note that these jobs are rung again now; returns the ``rung_ms`` of their messages."""
        at_ms = self.now_ms()
        self._ask(self._store_rung, queue, list(job_ids), at_ms)
        return at_ms

    def _store_rung(self, queue: str, job_ids: list[str], at_ms: int) -> None:
        known = self.store.open_jobs[queue]
        known.update({job_id: at_ms for job_id in job_ids if job_id in known})

    def close(self, queue: str, job_id: str) -> None:
        """Strike an ended or unknown job off the index of open ones."""
        self._ask(self._store_close, queue, job_id)

    def _store_close(self, queue: str, job_id: str) -> None:
        job = self.store.job(job_id)
        if job is None or job["state"] not in ("accepted", "running"):
            self.store.open_jobs[queue].pop(job_id, None)

    def unheard(self, queue: str, *, grace_s: float, limit: int) -> list[str]:
        """Return open jobs whose ring must have been heard by now."""
        until_ms = self._ask(self._store_heard_until_ms, queue)
        return self._ask(self._store_rung_before, queue, until_ms - grace_s * 1000, limit)

    def _store_heard_until_ms(self, queue: str) -> float:
        waiting = self.store.queues[queue]
        return min(self.store.now_ms(), waiting[0][1]) if waiting else self.store.now_ms()

    def _store_rung_before(self, queue: str, until_ms: float, limit: int) -> list[str]:
        by_age = sorted((at_ms, job_id) for job_id, at_ms in self.store.open_jobs[queue].items())
        return [job_id for at_ms, job_id in by_age if at_ms < until_ms][:limit]
