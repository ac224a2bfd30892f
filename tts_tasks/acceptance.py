"""Takes the lines of a batch in: into the ledger first, then rung, chunk by chunk.

A client that dies on the way leaves a batch that is not sealed: the same submit goes on, and what
was accepted before is found there and not rung twice.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.app import app
from tts_tasks.doorbell import ring
from tts_tasks.errors import NotFoundError
from tts_tasks.events import EventLog
from tts_tasks.jsonl import BatchLine, RejectedLine
from tts_tasks.ledger import BatchBook, JobLedger, JobMeta
from tts_tasks.redis_connection import shared_client
from tts_tasks.reports import write_report
from tts_tasks.storage import artifact_name, open_storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.requests import SpeechRequest
    from tts_tasks.settings import Settings

#: Lines that are accepted and rung together.
CHUNK = 500


class BatchAcceptance:
    """The taking in of one opened batch."""

    def __init__(
        self,
        batch_id: str,
        book: BatchBook,
        settings: Settings,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        batch = book.get(batch_id)
        if batch is None:
            raise NotFoundError(f"the batch {batch_id} vanished while it was opened")
        self._batch = batch
        self._opened_at = datetime.fromtimestamp(batch.created_ms / 1000, UTC)
        self._book = book
        self._settings = settings
        self._ledger = JobLedger(settings.redis_url, replicas_acked=settings.replicas_acked)
        self._events = EventLog(shared_client(settings.redis_url), kept=settings.events_kept)
        self._on_progress = on_progress
        self._good: list[tuple[str, SpeechRequest, JobMeta]] = []
        self._bad: list[tuple[int, dict[str, Any]]] = []
        self._accepted = self._rejected = self._last_line = 0

    def add(self, line: BatchLine | RejectedLine) -> None:
        """Take one line in; every `CHUNK` lines are written and rung."""
        self._last_line = line.line
        if isinstance(line, RejectedLine):
            why = {"id": line.id, "field": line.field, "reason": line.reason}
            self._bad.append((line.line, why))
        else:
            self._good.append(self._job(line))
        if len(self._good) + len(self._bad) >= CHUNK:
            self._flush()

    def seal(self) -> None:
        """Say that all lines are in."""
        self._flush()
        left = self._book.seal(self._batch.id, accepted=self._accepted, rejected=self._rejected)
        self._events.emit(
            "batch.accepted",
            batch=self._batch.id,
            jobs=self._accepted,
            rejected=self._rejected,
        )
        if left == 0:  # nothing to do, or done while the last lines came in
            uri = write_report(
                self._ledger,
                self._book,
                open_storage(self._settings.storage_url),
                self._batch.id,
                retention_s=self._settings.retention_s,
            )
            self._events.emit("batch.done", batch=self._batch.id, report=uri)

    def _job(self, line: BatchLine) -> tuple[str, SpeechRequest, JobMeta]:
        name = artifact_name(
            prefix=self._batch.output,
            output_name=line.request.output_name,
            audio_format=line.request.format,
            accepted_at=self._opened_at,
            job_id=line.id,
        )
        meta = JobMeta(
            queue=self._batch.queue,
            name=name,
            batch=self._batch.id,
            line=line.line,
            item_id=line.id,
        )
        return keys.batch_job_id(self._batch.id, line.line), line.request, meta

    def _flush(self) -> None:
        self._book.reached(self._batch.id, self._last_line)
        self._book.reject(self._batch.id, self._bad)
        times_ms = self._ledger.accept(self._good)
        fresh = {job_id: ms for (job_id, _, _), ms in zip(self._good, times_ms, strict=True) if ms}
        if fresh:
            rung_ms = min(fresh.values())
            ring(app, self._batch.queue, fresh, rung_ms=rung_ms, wants_result=False)
        self._accepted += len(self._good)
        self._rejected += len(self._bad)
        self._good.clear()
        self._bad.clear()
        if self._on_progress:
            self._on_progress(self._accepted + self._rejected)
