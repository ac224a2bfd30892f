"""How jobs and batches end outside the happy path: failures told to whoever waits, reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import states

from tts_tasks.errors import JobFailedError
from tts_tasks.ledger import BatchBook
from tts_tasks.reports import write_report
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from celery import Celery

    from tts_tasks.ledger import JobLedger, JobMeta, JobRecord
    from tts_tasks.settings import Settings


def failure(code: str, reason: str, **evidence: Any) -> dict[str, Any]:
    """Return the result of a failed job; ``code`` is stable, ``reason`` is for people."""
    return {"error": {"code": code, "reason": reason, **evidence}}


class Endings:
    """Ends jobs that no attempt will end, and batches whose last job has ended."""

    def __init__(self, app: Celery, settings: Settings, ledger: JobLedger) -> None:
        self._app = app
        self._settings = settings
        self._ledger = ledger
        self._book = BatchBook(settings.redis_url)

    def give_up(self, record: JobRecord, worker: str, result: dict[str, Any]) -> bool:
        """Fail a job over which too many workers were lost; False if somebody else has it."""
        open_jobs = self._ledger.give_up(
            record, worker, result, retention_s=self._settings.retention_s
        )
        if open_jobs is None:
            return False
        if not record.meta.batch:
            error = result["error"]
            self._app.backend.store_result(
                record.meta.task_id or record.id,
                JobFailedError(error["code"], error["reason"]),
                states.FAILURE,
            )
        self.after_finish(record.meta, open_jobs)
        return True

    def after_finish(self, meta: JobMeta, open_jobs: int) -> None:
        """Write the batch's report if this was its last job."""
        if meta.batch and open_jobs == 0:
            self.report(meta.batch)

    def report(self, batch_id: str) -> None:
        """Write the report of a complete batch."""
        storage = open_storage(self._settings.storage_url)
        write_report(
            self._ledger, self._book, storage, batch_id, retention_s=self._settings.retention_s
        )

    def report_complete_batches(self) -> None:
        """Write the reports that are missing."""
        for batch in self._book.unreported():
            if batch.complete:
                self.report(batch.id)
