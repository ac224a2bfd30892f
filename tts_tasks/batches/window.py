"""The window of a batch: what of its manifest is in Redis, moved on by whoever looks.

Submitters and workers do this alike, any number at once: a chunk is fed once and counted as
flushed once, and whoever comes second finds it done. Proved by ``tests/contract/test_window.py``.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from tts_tasks.batches.manifest import CHUNK_LINES, Manifest
from tts_tasks.batches.report import ReportParts, compose, line_without_job, report_line
from tts_tasks.ledger.batch_records import ENDINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tts_tasks.batches.manifest import ManifestLine
    from tts_tasks.events import EventLog
    from tts_tasks.ledger.batch_book import BatchBook
    from tts_tasks.ledger.batch_records import BatchRecord
    from tts_tasks.ledger.records import JobRecord
    from tts_tasks.storage import Storage

logger = logging.getLogger(__name__)

#: A batch is fed as soon as it has fewer lines ready than that,
READY_LINES: Final = 2 * CHUNK_LINES
#: unless so many chunks of it are in Redis, since lines in them take long.
WINDOW_CHUNKS: Final = 32

#: States in which a report line may stay.
_FINAL: Final = (*ENDINGS, "rejected")


class Window:
    """Feeds and flushes chunks of batches. Every call may raise what storages and stores raise."""

    def __init__(
        self,
        book: BatchBook,
        storage: Storage,
        events: EventLog,
        *,
        retention_s: int,
        ready_lines: int = READY_LINES,
        window_chunks: int = WINDOW_CHUNKS,
    ) -> None:
        self._book = book
        self._storage = storage
        self._events = events
        self._retention_s = retention_s
        self._ready_lines = ready_lines
        self._window_chunks = window_chunks

    def feed(self, batch_id: str) -> int:
        """Feed chunks of the manifest until enough lines are ready; returns how many it fed.

        A chunk whose report part is in storage is only counted.
        """
        fed = 0
        while (batch := self._book.get(batch_id)) and self._has_room(batch):
            fed += self._feed_next(batch)
        return fed

    def _has_room(self, batch: BatchRecord) -> bool:
        return (
            batch.fed < batch.chunks
            and batch.fed - batch.flushed < self._window_chunks
            and self._book.ready(batch.id) < self._ready_lines
        )

    def _feed_next(self, batch: BatchRecord) -> bool:
        chunk = batch.fed + 1
        part = ReportParts(self._storage, batch.id).read(chunk)
        # Else lines of it were to be tried again when the store lost the batch.
        if part is not None and all(line["state"] in _FINAL for line in part):
            states = Counter(line["state"] for line in part)
            return self._book.skip(
                batch.id,
                chunk,
                succeeded=states["succeeded"],
                failed=states["failed"],
                cancelled=states["cancelled"],
                lines=[line["line"] for line in part if line["state"] != "rejected"],
            )
        lines = Manifest(self._storage, batch.id).chunk(chunk)
        good = [(line.line, line.chars) for line in lines if line.rejected is None]
        return self._book.feed(batch.id, chunk, good)

    def flush(self, batch_id: str) -> int:
        """Write the report parts of chunks whose lines have all ended; returns how many."""
        return sum(self._flush(batch_id, chunk) for chunk in self._book.to_flush(batch_id))

    def _flush(self, batch_id: str, chunk: int) -> bool:
        lines = Manifest(self._storage, batch_id).chunk(chunk)
        good = [line.line for line in lines if line.rejected is None]
        records = self._book.results(batch_id, good)
        parts = ReportParts(self._storage, batch_id)
        earlier = parts.read(chunk) if len(records) < len(good) else None
        # Looked at afterwards: where somebody else has flushed it meanwhile, jobs are missing.
        if chunk not in self._book.to_flush(batch_id):
            return False
        parts.write(chunk, _report(lines, records, earlier or []))
        return self._book.flushed(batch_id, chunk, good)

    def settle(self, batch_id: str, stop: Callable[[], bool] = lambda: False) -> bool:
        """Flush and feed until there is nothing to do now; then report a batch that is done.

        ``stop`` is asked between two chunks: a cancelled batch may have many to go through. True
        if the report is written, by whomever.
        """
        moved = True
        while moved and not stop():
            moved = self.flush(batch_id) + self._feed_one(batch_id) > 0
        batch = self._book.get(batch_id)
        if batch is None or not batch.flushed_wholly:
            return False
        return batch.report is not None or self._report(batch)

    def _feed_one(self, batch_id: str) -> int:
        batch = self._book.get(batch_id)
        return int(batch is not None and self._has_room(batch) and self._feed_next(batch))

    def _report(self, batch: BatchRecord) -> bool:
        if not self._book.may_report(batch.id):
            return False
        head = Manifest(self._storage, batch.id).head()
        if head is None:
            logger.warning("batch %s has no report: its manifest is gone", batch.id)
            return False
        uri = compose(self._storage, head, batch.chunks)
        if not self._book.reported(batch.id, uri, retention_s=self._retention_s):
            return False  # lines of it are tried again
        self._events.emit("batch.done", batch=batch.id, report=uri)
        return True


def _report(
    lines: Sequence[ManifestLine],
    records: dict[int, JobRecord],
    earlier: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return the report lines of a chunk whose lines have all ended.

    ``earlier``: its part as it was before lines of it were tried again. A line that has neither a
    job nor ended then was cancelled before it was taken.
    """
    told = {line["line"]: line for line in earlier if line["state"] in _FINAL}
    part: list[dict[str, Any]] = []
    for line in lines:
        record = records.get(line.line)
        if record is not None:
            part.append(report_line(record, line.id))
        else:
            part.append(told.get(line.line) or line_without_job(line, "cancelled"))
    return part
