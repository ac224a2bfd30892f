"""How each job ended, read from the ledger when the run is over."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import redis
from celery.result import AsyncResult

from tts_tasks import client, keys
from tts_tasks.app import app
from tts_tasks.batches.manifest import Manifest
from tts_tasks.errors import TTSError
from tts_tasks.ledger import BatchBook, JobLedger, JobRecord
from tts_tasks.redis_connection import connect
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.chaos.recorder import Recorder

#: The wait ends when this long nothing has ended, or after the whole time.
_NO_PROGRESS_S = 60.0
_AT_MOST_S = 300.0
_EVERY_S = 0.3
#: How long after the last job's end all answers together may still be missing.
_ANSWERS_WITHIN_S = 20.0


class Outcomes:
    """Every job that the ledger, or the report of a batch, knows of, whoever submitted it."""

    def __init__(self, recorder: Recorder, redis_url: str) -> None:
        self._recorder = recorder
        self._ledger = JobLedger(redis_url)
        self._book = BatchBook(redis_url)
        self._redis = connect(redis_url)

    def wait(self, tend: Callable[[], None]) -> None:
        """Return when every job has its outcome and every batch its report, or none comes."""
        started_s = progress_s = time.monotonic()
        least: int | None = None
        while True:
            tend()
            open_now = self._open()
            now_s = time.monotonic()
            if least is None or (open_now is not None and open_now < least):
                least, progress_s = open_now, now_s
            if open_now == 0:
                break
            if now_s - progress_s > _NO_PROGRESS_S or now_s - started_s > _AT_MOST_S:
                break
            time.sleep(_EVERY_S)
        self._recorder.record("waited", open=open_now, took_s=round(now_s - started_s, 2))

    def _open(self) -> int | None:
        try:
            jobs = sum(not record.ended for record in self._online_jobs())
            batches = self._book.all()
            lines = sum(b.accepted - b.succeeded - b.failed - b.cancelled for b in batches)
            return jobs + lines + sum(batch.report is None for batch in batches)
        except (TTSError, redis.RedisError):
            return None

    def write(self) -> None:
        """Record the outcome of every job, and of every batch with its report."""
        answers_until_s = time.monotonic() + _ANSWERS_WITHIN_S
        for record in self._online_jobs():
            self._recorder.record("outcome", **self._outcome(record, answers_until_s))
        for batch in self._book.all():
            self._write_lines(batch.id)
            lines = self._redis.lrange(keys.batch_done(batch.id), 0, -1)
            report = []
            if batch.report:
                report = [json.loads(line) for line in _lines(client.read_artifact(batch.report))]
            self._recorder.record(
                "batch",
                batch=batch.id,
                sealed=batch.sealed,
                accepted=batch.accepted,
                succeeded=batch.succeeded,
                failed=batch.failed,
                ended_lines=[int(line) for line in lines],
                report=[
                    {"line": line["line"], "state": line["state"], "sha256": line["sha256"]}
                    for line in report
                ],
            )

    def _write_lines(self, batch: str) -> None:
        """Record what came of each line of a batch that is a job."""
        manifest = Manifest(open_storage(get_settings().storage_url), batch)
        record = self._book.get(batch)
        texts = {
            line.line: line.request["text"]
            for chunk in range(1, (record.chunks if record else 0) + 1)
            for line in manifest.chunk(chunk)
            if line.request
        }
        for line in client.report(batch):
            if line["state"] == "rejected":
                continue
            self._recorder.record(
                "outcome",
                job=keys.batch_job_id(batch, line["line"]),
                batch=batch,
                text=texts[line["line"]],
                lease="",
                claimed_ms=None,
                finished_ms=None,
                name=line.get("name"),
                adopted=line.get("adopted"),
                answered=None,
                **{
                    field: line[field]
                    for field in ("state", "attempt", "worker", "sha256", "duration_s", "error")
                },
            )

    def _online_jobs(self) -> Iterator[JobRecord]:
        """Yield the ledger's jobs; their keys are ``tts:{TAG}:job:ITEM``."""
        found = []
        for key in self._redis.scan_iter("tts:{*}:job:*", count=1000):
            tag, _, item = key.removeprefix("tts:{").partition("}:job:")
            found.append(f"{tag}:{item}")
        for record in self._ledger.get_many(sorted(found)):
            if record is not None and not record.meta.batch:
                yield record

    def _outcome(self, record: JobRecord, answers_until_s: float) -> dict[str, Any]:
        result = record.result
        return {
            "job": record.id,
            "batch": "",
            "text": record.request["text"],
            "state": record.state,
            "attempt": record.attempt,
            "worker": record.worker,
            "lease": self._redis.hget(keys.job(record.id), "lease") or "",
            "claimed_ms": record.claimed_ms,
            "finished_ms": record.finished_ms,
            "name": result.get("name"),
            "sha256": result.get("sha256"),
            "duration_s": result.get("duration_s"),
            "adopted": result.get("adopted"),
            "error": result.get("error"),
            "answered": _answered(record, answers_until_s),
        }


def _answered(record: JobRecord, until_s: float) -> bool:
    """Whether somebody who waits for this online job's result has got one."""
    answer = AsyncResult(record.meta.task_id or record.id, app=app)
    while not (ready := bool(answer.ready())) and time.monotonic() < until_s:
        time.sleep(_EVERY_S)
    return ready


def _lines(data: bytes) -> list[str]:
    return [line for line in data.decode().splitlines() if line]
