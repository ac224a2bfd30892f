"""A job from the claim to the published artifact: runs in the worker's child.

One direction, no step reaches back: claim → split → speak segment by segment → join, encode →
publish by create-if-absent → finish, fenced by the attempt.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject

from tts_tasks import keys
from tts_tasks.errors import (
    AdmissionError,
    EngineError,
    EngineLoadError,
    EngineOutOfMemoryError,
    JobCancelledError,
    JobFailedError,
    StaleAttemptError,
    StorageError,
    TTSError,
    UnavailableError,
)
from tts_tasks.ledger import Claim, ClaimRefused, Refusal
from tts_tasks.pinning import pin_online
from tts_tasks.requests import SpeechRequest, parse_request
from tts_tasks.routing import route_of
from tts_tasks.storage import Ownership, find_published
from tts_tasks.tasks import accept_online
from tts_workers.attempts import (
    FINAL,
    Publication,
    artifact_record,
    check_requirements,
    details_of,
    final_code,
    publish_all,
)
from tts_workers.endings import exhausted_reason, failure, of_lost_attempts
from tts_workers.link import nonce_prefix
from tts_workers.memory import PARDONS, with_memory_freed
from tts_workers.rendering import OvertakenError, Rendering

if TYPE_CHECKING:
    from celery import Task

    from tts_workers.engine_host import LoadedEngine
    from tts_workers.workbench import Workbench

logger = logging.getLogger(__name__)

_NEWS_OF_LEADERSHIP_S = 0.5
#: How long a message waits for an engine that is loading again before it goes to somebody else.
_ENGINE_RETURNS_S = 1.0


class JobRunner:
    """Runs one job at a time on the engine of this process."""

    def __init__(self, bench: Workbench) -> None:
        self._host = bench.host
        self._lease = bench.lease
        self._link = bench.link
        self._lane_key = route_of(bench.settings).lane_key
        self._settings = bench.settings
        self._worker_id = bench.worker_id
        self._insist = bench.insist
        self._ledger = bench.ledger
        self._events = bench.events
        self._tools = bench.tools(self._begins)

    def __call__(self, task: Task, job_id: str, given: dict[str, Any] | None) -> dict[str, Any]:
        """Run a job to its end; returns the artifact's record.

        Raises `JobFailedError` when it has failed for good, `JobCancelledError` when somebody has
        cancelled it, Celery's `Ignore` when somebody else has it or will have it, `Reject` when the
        message belongs in another worker's hands.
        """
        try:
            loaded = self._host.wait(_ENGINE_RETURNS_S)
        except EngineLoadError:
            raise Reject("the engine of this worker is not ready", requeue=True) from None
        self._link.show({"event": "job", "job": job_id})  # before the claim: see `reconcile`
        try:
            answer = self._claim(job_id, str(task.request.id), given, loaded)
            if isinstance(answer, ClaimRefused):
                return self._refused(job_id, answer)
            return self._work(answer, loaded)
        except StorageError as error:
            # not even the epoch can be marked; the job is not claimed, and somebody else may have
            # a storage that takes it
            logger.warning("%s is not claimed: %s", job_id, error)
            time.sleep(_ENGINE_RETURNS_S)
            raise Reject(str(error), requeue=True) from None
        except StaleAttemptError as error:
            logger.warning("%s", error)
            raise Ignore from None
        finally:
            self._link.show({"event": "job", "job": ""})

    # -- claim ------------------------------------------------------------------------------

    def _claim(
        self, job_id: str, task_id: str, given: dict[str, Any] | None, loaded: LoadedEngine
    ) -> Claim | ClaimRefused:
        nonce = nonce_prefix(self._link.pid) + secrets.token_hex(8)

        def claim() -> Claim | ClaimRefused:
            lease = self._lease.get(_NEWS_OF_LEADERSHIP_S)
            if lease is not None:
                loaded.epochs.cover(lease.epoch)  # before anything can be done under it
            return self._ledger.claim(
                job_id,
                self._worker_id,
                lease,
                max_strikes=self._settings.max_attempts,
                nonce=nonce,
            )

        answer = self._insist(claim)
        if isinstance(answer, ClaimRefused) and answer.reason is Refusal.MISSING and given:
            # sent by a foreign client, without our `apply_async`: accepted here, before anything
            keys.check_task_id(task_id, self._lane_key)
            storage_url = self._settings.storage_url
            request = self._insist(lambda: pin_online(parse_request(given), storage_url))
            try:
                self._insist(lambda: accept_online(request, task_id))
            except AdmissionError as error:
                code, reason = error.code, str(error)
                self._events.emit("job.failed", job=job_id, code=code, reason=reason)
                raise JobFailedError(code, reason) from None
            answer = self._insist(claim)
        return answer

    def _refused(self, job_id: str, answer: ClaimRefused) -> dict[str, Any]:
        match answer.reason:
            case Refusal.ENDED if answer.detail == "succeeded":
                return answer.result
            case Refusal.ENDED if answer.detail == "cancelled":
                raise _cancelled(job_id)
            case Refusal.ENDED:
                error = answer.result["error"]
                raise JobFailedError(error["code"], error["reason"])
            case Refusal.NOT_LEADER:
                self._events.emit(
                    "job.not_leader", job=job_id, worker=self._worker_id, lease=answer.detail
                )
                raise Reject("not the primary of the lane", requeue=True)
            case Refusal.EXHAUSTED:
                self._give_up(job_id, self._worker_id, "attempts_exhausted")
            case Refusal.EXPIRED:
                reason = f"its deadline had passed {int(answer.detail) / 1000:.1f} s ago, unbegun"
                self._give_up(job_id, self._worker_id, "deadline_exceeded", reason)
        raise Ignore

    def _give_up(self, job_id: str, worker: str, code: str, reason: str = "") -> None:
        """Fail a job that nobody works on; raises `JobFailedError`, or returns if somebody does.

        Without a ``reason``: that of the attempts that were lost.
        """
        record = self._insist(lambda: self._ledger.get(job_id))
        if record is None:
            return
        reason = reason or exhausted_reason(record)
        result = failure(code, reason, worker=worker, **of_lost_attempts(record))
        retention_s = self._settings.retention_s
        if self._insist(
            lambda: self._ledger.give_up(record, worker, result, retention_s=retention_s)
        ):
            self._events.emit("job.failed", job=job_id, code=code, reason=reason)
            raise JobFailedError(code, reason)

    # -- work -------------------------------------------------------------------------------

    def _work(self, claim: Claim, loaded: LoadedEngine) -> dict[str, Any]:
        try:
            request = parse_request(claim.request)
            record = with_memory_freed(
                loaded.engine,
                lambda: self._artifact(claim, request, loaded),
                lambda reason: self._out_of_memory(claim, reason, "tried again"),
                loaded.voices.clear,
            )
        except (StaleAttemptError, UnavailableError):
            raise
        except OvertakenError:
            raise self._overtaken(claim) from None
        except tuple(FINAL) as error:
            return self._fail(claim, str(final_code(error)), str(error))
        except EngineOutOfMemoryError as error:
            self._out_of_memory(claim, str(error), "given back")
            return self._try_elsewhere(claim, "out_of_memory", str(error), pardons=PARDONS)
        except (EngineError, StorageError) as error:
            code = "storage" if isinstance(error, StorageError) else "engine"
            return self._try_elsewhere(claim, code, str(error))
        except Exception as error:
            # Whatever an engine or a codec raises: a job must never be left without an outcome.
            logger.exception("%s, attempt %d", claim.job_id, claim.attempt)
            return self._try_elsewhere(claim, "internal", f"{type(error).__name__}: {error}")
        else:
            self._finish(claim, "succeeded", record)
            if request.stream:
                ttl_s = self._settings.segment_log_ttl_s
                self._insist(lambda: self._tools.log.expire(claim.job_id, ttl_s))
            return record

    def _artifact(
        self, claim: Claim, request: SpeechRequest, loaded: LoadedEngine
    ) -> dict[str, Any]:
        storage = loaded.storage
        owner = Ownership(job=claim.job_id, sound=request.sound_sha256())
        name = claim.meta.name
        published = self._insist(lambda: find_published(storage, name, owner))
        if published is not None and published.details:
            return artifact_record(claim, published)
        check_requirements(request, loaded)
        with Rendering(claim, request, loaded, self._tools) as rendering:
            rendering.prepare()
            rendering.speak()
            encoded = rendering.encode()
        details = details_of(claim, request, loaded, encoded)
        mine = Publication.of(name, encoded, owner, details)
        (told,) = publish_all(storage, [mine], self._insist)
        if isinstance(told, TTSError):
            raise told
        if not request.stream:  # else a listener may still want them; they are swept later
            self._insist(lambda: storage.remove(rendering.staged))
        return artifact_record(claim, told)

    def _begins(self, number: int, segments: int) -> None:
        shown = {"event": "segment", "segment": number, "segments": segments}
        self._link.show(shown, later=True)  # with the budget for it

    # -- endings ----------------------------------------------------------------------------

    def _finish(self, claim: Claim, state: str, result: dict[str, Any]) -> None:
        retention_s = self._settings.retention_s
        if not self._insist(
            lambda: self._ledger.finish(claim, state, result, retention_s=retention_s)
        ):
            raise self._overtaken(claim)

    def _fail(self, claim: Claim, code: str, reason: str) -> dict[str, Any]:
        self._finish(claim, "failed", failure(code, reason, worker=claim.worker))
        self._events.emit("job.failed", job=claim.job_id, code=code, reason=reason)
        raise JobFailedError(code, reason)

    def _out_of_memory(self, claim: Claim, reason: str, then: str) -> None:
        self._events.emit(
            "job.out_of_memory",
            job=claim.job_id,
            attempt=claim.attempt,
            worker=claim.worker,
            reason=reason,
            then=then,
        )

    def _try_elsewhere(
        self, claim: Claim, code: str, reason: str, *, pardons: int = 0
    ) -> dict[str, Any]:
        """Give a job back after an attempt failed; the last attempt fails it.

        ``pardons``: so many such failures in its life do not count as an attempt.
        """
        logger.warning("%s, attempt %d: %s: %s", claim.job_id, claim.attempt, code, reason)
        strikes = self._insist(
            lambda: self._ledger.release(
                claim.job_id,
                claim.worker,
                claim.attempt,
                strike=True,
                evidence={"reason": f"{code}: {reason}", "worker": claim.worker},
                pardons=pardons,
            )
        )
        if strikes is None:
            raise self._overtaken(claim)
        self._events.emit(
            "job.attempt_failed",
            job=claim.job_id,
            attempt=claim.attempt,
            worker=claim.worker,
            code=code,
            reason=reason,
        )
        if strikes >= self._settings.max_attempts:
            self._give_up(claim.job_id, claim.worker, code, reason)
        # the very message goes back, with the callbacks that hang on it
        raise Reject(reason, requeue=True)

    def _overtaken(self, claim: Claim) -> StaleAttemptError | JobCancelledError:
        """Say that the ledger has refused what this attempt wanted to do; returns what to raise."""
        record = self._insist(lambda: self._ledger.get(claim.job_id))
        if record is not None and record.state == "cancelled":
            return _cancelled(claim.job_id)
        self._events.emit(
            "job.stale_refused", job=claim.job_id, attempt=claim.attempt, worker=claim.worker
        )
        return StaleAttemptError(f"{claim.job_id}: attempt {claim.attempt} is not the newest")


def _cancelled(job_id: str) -> JobCancelledError:
    return JobCancelledError(f"job {job_id} was cancelled")
