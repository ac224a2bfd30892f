"""What its owner does to a batch: cancel it, have lines tried again, remove it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tts_tasks.app import app
from tts_tasks.batches.manifest import Manifest
from tts_tasks.batches.report import ReportParts
from tts_tasks.doorbell import ring_for_work
from tts_tasks.errors import ConflictError, NotFoundError, UnavailableError
from tts_tasks.events import event_log
from tts_tasks.ledger import BatchBook
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from tts_tasks.ledger import BatchRecord
    from tts_tasks.settings import Settings


class BatchChanges:
    """Changes to one batch. Every call raises what storages and stores raise."""

    def __init__(self, batch_id: str, settings: Settings) -> None:
        self._batch_id = batch_id
        self._settings = settings
        self._book = BatchBook(settings.redis_url, replicas_acked=settings.replicas_acked)
        self._storage = open_storage(settings.storage_url)
        self._manifest = Manifest(self._storage, batch_id)
        self._events = event_log(settings)

    def cancel(self) -> bool:
        """Speak nothing more of it; False if all its lines had ended already."""
        batch = self._batch()
        cancelled = self._book.cancel(self._batch_id)
        if cancelled and not batch.is_cancelled:
            self._events.emit("batch.cancelled", batch=self._batch_id)
        return cancelled

    def retry(self, *states: str) -> int:
        """Have the lines that ended in one of these states tried again; returns how many.

        ``states``: ``failed``, ``cancelled``. Lines of chunks that are still worked on are left
        alone: they are not in the report yet. Raises `ConflictError` while a batch that was
        cancelled still has lines to end, or is not in to its end.
        """
        batch = self._batch()
        if not batch.sealed:
            raise ConflictError(
                f"batch {self._batch_id} is not accepted to its end: submit its file again"
            )
        if batch.is_cancelled and not batch.flushed_wholly:
            raise ConflictError(
                f"batch {self._batch_id} is still being cancelled: try it again in a moment"
            )
        again = sum(self._retry_chunk(chunk, set(states)) for chunk in range(1, batch.chunks + 1))
        if again:
            self._events.emit("batch.retried", batch=self._batch_id, lines=again)
            with suppress(UnavailableError):  # a worker rings when the broker is back
                ring_for_work(app, batch.queue, self._settings)
        return again

    def _retry_chunk(self, chunk: int, states: set[str]) -> int:
        parts = ReportParts(self._storage, self._batch_id)
        part = parts.read(chunk)
        ended_as = {line["line"]: _ended_as(line) for line in part or []}
        wanted = {line for line, state in ended_as.items() if state in states}
        if part is None or not wanted:
            return 0
        chars = {line.line: line.chars for line in self._manifest.chunk(chunk)}
        # Marked first: a chunk that is worked on again may be flushed at any moment after that.
        parts.write(
            chunk,
            [
                {**line, "state": "accepted", "was": ended_as[line["line"]]}
                if line["line"] in wanted
                else line
                for line in part
            ],
        )
        cancelled = sum(ended_as[line] == "cancelled" for line in wanted)
        entries = [(line, chars[line]) for line in sorted(wanted)]
        if self._book.reopen(self._batch_id, chunk, entries, cancelled=cancelled):
            return len(entries)
        return 0  # somebody else was first, and has marked the same

    def remove(self) -> None:
        """Remove the batch and all that is kept of it; its artifacts and its report stay.

        Raises `ConflictError` while it is worked on, `NotFoundError` if there is nothing of it.
        """
        batch = self._book.get(self._batch_id)
        if batch is None and self._manifest.head() is None:
            raise _not_found(self._batch_id)
        if batch is not None and not batch.complete and not batch.is_cancelled:
            raise ConflictError(
                f"batch {self._batch_id} has not ended: wait for it, or cancel it first"
            )
        self._book.remove(self._batch_id)
        self._manifest.remove()
        self._events.emit("batch.removed", batch=self._batch_id)

    def _batch(self) -> BatchRecord:
        batch = self._book.get(self._batch_id)
        if batch is None:
            raise _not_found(self._batch_id)
        return batch


def _ended_as(line: dict[str, Any]) -> str:
    """Return how a line ended; also one that an interrupted `retry` has marked."""
    return str(line.get("was", line["state"]))


def _not_found(batch_id: str) -> NotFoundError:
    return NotFoundError(f"there is no batch {batch_id}; `ttsctl batch ls` lists them")
