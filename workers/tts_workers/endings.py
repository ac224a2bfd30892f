"""How jobs and batches end outside the happy path: jobs that are given up, reports."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from tts_tasks.errors import StorageError
from tts_tasks.ledger import BatchBook
from tts_tasks.reports import write_report
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from tts_tasks.events import EventLog
    from tts_tasks.ledger import JobLedger, JobMeta, JobRecord
    from tts_tasks.settings import Settings

logger = logging.getLogger(__name__)


def failure(code: str, reason: str, **evidence: Any) -> dict[str, Any]:
    """Return the result of a failed job; ``code`` is stable, ``reason`` is for people."""
    return {"error": {"code": code, "reason": reason, **evidence}}


def of_lost_attempts(record: JobRecord) -> dict[str, Any]:
    """Return what a failure says of the attempts that led to it: the newest evidence, and whose."""
    told: dict[str, Any] = {"workers": list(record.struck_workers)}
    return told | ({"evidence": record.evidence} if record.evidence else {})


def exhausted_reason(record: JobRecord) -> str:
    """Say in one line why no further attempt is made."""
    last = record.evidence.get("reason")
    tail = f"; the last one: {last}" if last else ""
    return f"{record.strikes} attempts in a row ended without progress{tail}"


class Endings:
    """Ends jobs that no attempt will end, and batches whose last job has ended."""

    def __init__(self, settings: Settings, ledger: JobLedger, events: EventLog) -> None:
        self._settings = settings
        self._events = events
        self._ledger = ledger
        self._book = BatchBook(settings.redis_url)

    def give_up(self, record: JobRecord, worker: str, result: dict[str, Any]) -> bool:
        """Fail a job over which too many attempts were lost; False if somebody else has it."""
        open_jobs = self._ledger.give_up(
            record, worker, result, retention_s=self._settings.retention_s
        )
        if open_jobs is None:
            return False
        self.after_finish(record.meta, open_jobs)
        return True

    def after_finish(self, meta: JobMeta, open_jobs: int) -> None:
        """Write the batch's report if this was its last job."""
        if meta.batch and open_jobs == 0:
            self._report(meta.batch)

    def report_complete_batches(self) -> None:
        """Write the reports that are missing."""
        for batch in self._book.unreported():
            if batch.complete:
                self._report(batch.id)

    def _report(self, batch_id: str) -> None:
        if not self._book.may_report(batch_id):
            return
        try:
            uri = write_report(
                self._ledger,
                self._book,
                open_storage(self._settings.storage_url),
                batch_id,
                retention_s=self._settings.retention_s,
            )
        except StorageError as error:
            # the jobs have ended well; the report is tried again by whoever looks next
            logger.warning("the report of batch %s is not written yet: %s", batch_id, error)
        else:
            if uri is not None:
                self._events.emit("batch.done", batch=batch_id, report=uri)
