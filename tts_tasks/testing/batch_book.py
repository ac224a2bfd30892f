"""`BatchBook` in memory: what the scripts of `tts_tasks.ledger` do, in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.errors import ConflictError, RequestError, UnavailableError
from tts_tasks.ledger.batch_lines import DONE_KEPT
from tts_tasks.ledger.batch_records import ENDINGS, BatchRecord
from tts_tasks.ledger.jobs import CHUNK
from tts_tasks.testing.batch_lines import MemoryBatchLines
from tts_tasks.testing.store import BatchHash

if TYPE_CHECKING:
    from collections.abc import Sequence

_REPORTING_MS = 10_000


class MemoryBatchBook(MemoryBatchLines):
    """`BatchBook` in this process; passes the same contract suite."""

    # -- what its submitter does --------------------------------------------------------------

    def open(
        self,
        batch_id: str,
        *,
        source: str,
        output: str,
        queue: str,
        created_ms: int,
        priority: float = 1.0,
    ) -> bool:
        """Open a batch; True if it is new here, False if the same was there."""
        if not 0 < priority < float("inf"):
            raise RequestError("priority", f"{priority} is not a positive number")
        book = BatchHash(source, output.strip("/"), queue, created_ms, priority, 0)
        self._ask(self._store_index, batch_id)
        found = self._ask(self._store_open, batch_id, book)
        self._ask(self._store_index, batch_id)
        if found == "other":
            raise ConflictError(f"batch {batch_id} exists with other content or another output")
        if found == "new":
            self._ask(self._store_enter_turn, batch_id, book.output)
        else:
            self.waits_for(batch_id)
        return found == "new"

    def _store_index(self, batch_id: str) -> None:
        self.store.listed.setdefault(batch_id)
        self.store.unreported.add(batch_id)

    def _store_open(self, batch_id: str, new: BatchHash) -> str:
        new.alive_ms = self.store.now_ms()
        book = self.store.books.setdefault(batch_id, new)
        if (book.source, book.output) != (new.source, new.output):
            return "other"
        if not book.sealed:
            book.alive_ms = new.alive_ms
        return "new" if book is new else "same"

    def grow(self, batch_id: str, chunks: int) -> None:
        """Note that so many chunks of the manifest are in storage; also a sign of life."""
        self._ask(self._store_grow, batch_id, chunks)

    def _store_grow(self, batch_id: str, chunks: int) -> None:
        book = self._there(batch_id)
        book.chunks = max(book.chunks, chunks)
        book.alive_ms = self.store.now_ms()

    def seal(self, batch_id: str, *, chunks: int, accepted: int, rejected: int) -> None:
        """Say that all lines are in the manifest."""
        self._ask(self._store_seal, batch_id, chunks, accepted, rejected)

    def _store_seal(self, batch_id: str, chunks: int, accepted: int, rejected: int) -> None:
        book = self._there(batch_id)
        book.sealed, book.chunks = True, chunks
        book.accepted, book.rejected = accepted, rejected

    def _there(self, batch_id: str) -> BatchHash:
        book = self.store.books.get(batch_id)
        if book is None:
            raise UnavailableError(f"the store has lost batch {batch_id}: submit it again")
        return book

    # -- the window -----------------------------------------------------------------------------

    def feed(self, batch_id: str, chunk: int, lines: Sequence[tuple[int, int]]) -> bool:
        """Bring the next chunk into the window: ``(line, chars)`` of its good lines."""
        if not self._ask(self._store_enter_shares, batch_id):
            return False
        fed = self._ask(self._store_feed, batch_id, chunk, list(lines))
        self._ask(self._store_enter_shares, batch_id)
        return fed

    def _store_feed(self, batch_id: str, chunk: int, lines: Sequence[tuple[int, int]]) -> bool:
        book = self.store.books.get(batch_id)
        if book is None or chunk != book.fed + 1:
            return False
        book.fed = chunk
        book.window[chunk] = len(lines)
        if book.is_cancelled:
            self._count(book, [(line, chunk) for line, _ in lines], "cancelled")
        else:
            book.ready += [(line, chars, chunk) for line, chars in lines]
        return True

    def skip(
        self,
        batch_id: str,
        chunk: int,
        *,
        succeeded: int,
        failed: int,
        cancelled: int = 0,
        lines: Sequence[int] = (),
    ) -> bool:
        """Count a chunk whose report part is in storage already: fed and flushed at once."""
        ended = {"succeeded": succeeded, "failed": failed, "cancelled": cancelled}
        return self._ask(self._store_skip, batch_id, chunk, ended, lines)

    def _store_skip(
        self, batch_id: str, chunk: int, ended: dict[str, int], lines: Sequence[int]
    ) -> bool:
        book = self.store.books.get(batch_id)
        if book is None or chunk != book.fed + 1:
            return False
        book.fed, book.flushed = chunk, book.flushed + 1
        book.ended.update(ended)
        book.done += lines
        return True

    def to_flush(self, batch_id: str) -> list[int]:
        """Return the chunks of the window whose lines have all ended."""
        return self._ask(self._store_to_flush, batch_id)

    def _store_to_flush(self, batch_id: str) -> list[int]:
        book = self.store.books.get(batch_id)
        return sorted(chunk for chunk, left in book.window.items() if not left) if book else []

    def flushed(self, batch_id: str, chunk: int, lines: Sequence[int]) -> bool:
        """Say that a chunk's report part is in storage: the jobs of its lines go."""
        return self._ask(self._store_flushed, batch_id, chunk, list(lines))

    def _store_flushed(self, batch_id: str, chunk: int, lines: Sequence[int]) -> bool:
        book = self.store.books.get(batch_id)
        if book is None or book.window.get(chunk) != 0:
            return False
        del book.window[chunk]
        book.flushed += 1
        for line in lines:
            job_id = keys.batch_job_id(batch_id, line)
            job = self.store.jobs.pop(job_id, None)
            if job is not None and job["state"] == "cancelled":
                self.store.segments.pop(job_id, None)
            book.taken.pop(line, None)
        return True

    def reopen(
        self, batch_id: str, chunk: int, lines: Sequence[tuple[int, int]], *, cancelled: int = 0
    ) -> bool:
        """Bring ended lines of a flushed chunk back, ``(line, chars)``, to be tried again."""
        self._ask(self._store_index, batch_id)
        if not self._ask(self._store_enter_shares, batch_id):
            return False
        reopened = self._ask(self._store_reopen, batch_id, chunk, list(lines), cancelled)
        self._ask(self._store_enter_shares, batch_id)
        if reopened:
            self._ask(self._store_index, batch_id)
            self.waits_for(batch_id)
        return reopened

    def _store_reopen(
        self, batch_id: str, chunk: int, lines: Sequence[tuple[int, int]], cancelled: int
    ) -> bool:
        book = self.store.books.get(batch_id)
        if book is None or chunk > book.fed or chunk in book.window or not lines:
            return False
        failed = len(lines) - cancelled
        if failed > book.ended["failed"] or cancelled > book.ended["cancelled"]:
            return False
        book.is_cancelled, book.report = False, None
        self.store.reporting.pop(batch_id, None)
        book.ended.subtract({"failed": failed, "cancelled": cancelled})
        book.flushed -= 1
        book.window[chunk] = len(lines)
        book.ready += [(line, chars, chunk) for line, chars in lines]
        return True

    # -- the end --------------------------------------------------------------------------------

    def cancel(self, batch_id: str) -> bool:
        """Cancel a batch; True if it is cancelled now, also if it was before."""
        cancelled = self._ask(self._store_cancel, batch_id)
        if cancelled:
            self._ask(self._store_leave_turn, batch_id)
        return cancelled

    def _store_cancel(self, batch_id: str) -> bool:
        book = self.store.books.get(batch_id)
        if book is None or (not book.is_cancelled and self._is_over(book)):
            return False
        if book.is_cancelled:
            return True
        ended = [(line, chunk) for line, _, chunk in book.ready]
        for line, holder in book.taken.items():
            job = self.store.jobs[keys.batch_job_id(batch_id, line)]
            if job["state"] in ("accepted", "running"):
                job.update(state="cancelled", finished_ms=self.store.now_ms())
                book.taken[line] = ""
                if holder:  # else it has been released and was counted as ready
                    ended.append((line, job["chunk"]))
        book.is_cancelled = True
        book.ready.clear()
        book.runs.clear()
        self._count(book, sorted(ended), "cancelled")
        return True

    def _store_leave_turn(self, batch_id: str) -> None:
        self.store.turns.pop(batch_id, None)

    def is_cancelled(self, batch_id: str) -> bool:
        """Whether somebody has cancelled the batch."""
        book = self._ask(self.store.books.get, batch_id)
        return book is not None and book.is_cancelled

    def may_report(self, batch_id: str) -> bool:
        """Whether the caller is to write the report; for a while nobody else is."""
        return self._ask(self._store_may_report, batch_id)

    def _store_may_report(self, batch_id: str) -> bool:
        now_ms = self.store.now_ms()
        if self.store.reporting.get(batch_id, 0) > now_ms:
            return False
        self.store.reporting[batch_id] = now_ms + _REPORTING_MS
        return True

    def reported(
        self,
        batch_id: str,
        uri: str,
        *,
        retention_s: int,  # noqa: ARG002 - what is in memory does not expire
    ) -> bool:
        """Note where the report is."""
        if not self._ask(self._store_reported, batch_id, uri):
            return False
        self._ask(self.store.unreported.discard, batch_id)
        self._ask(self._store_leave_turn, batch_id)
        return True

    def _store_reported(self, batch_id: str, uri: str) -> bool:
        book = self.store.books.get(batch_id)
        if book is None or not book.sealed or book.flushed < book.chunks:
            return False
        book.report = uri
        book.runs.clear()
        return True

    def remove(self, batch_id: str) -> None:
        """Remove everything of a batch; who works on its lines is refused from now on."""
        self._ask(self._store_remove_batch, batch_id)
        self._ask(self._store_leave_turn, batch_id)

    def _store_remove_batch(self, batch_id: str) -> None:
        book = self.store.books.pop(batch_id, None)
        self.store.reporting.pop(batch_id, None)
        self.store.unreported.discard(batch_id)
        self.store.listed.pop(batch_id, None)
        if book is not None:
            self.store.shares[book.queue].pop(batch_id, None)
            for line in book.taken:
                self.store.jobs.pop(keys.batch_job_id(batch_id, line), None)
                self.store.segments.pop(keys.batch_job_id(batch_id, line), None)

    # -- looking --------------------------------------------------------------------------------

    def get(self, batch_id: str) -> BatchRecord | None:
        """Return a batch, or None."""
        return self._ask(self._store_get, batch_id)

    def _store_get(self, batch_id: str) -> BatchRecord | None:
        book = self.store.books.get(batch_id)
        if book is None:
            return None
        fields: dict[str, Any] = {name: book.ended[name] for name in ENDINGS}
        others = set(BatchRecord.__slots__) - {"id", *ENDINGS}
        return BatchRecord(id=batch_id, **fields, **{name: getattr(book, name) for name in others})

    def all(self) -> list[BatchRecord]:
        """Return all batches, newest first."""
        found = self._ask(lambda: [self._store_get(id_) for id_ in reversed(self.store.listed)])
        return [batch for batch in found if batch is not None]

    def expired(self) -> list[str]:
        """Return the batches that are listed and gone."""
        return self._ask(lambda: [id_ for id_ in self.store.listed if id_ not in self.store.books])

    def forget(self, batch_id: str) -> None:
        """Strike a batch off that has expired."""
        self._ask(self.store.listed.pop, batch_id, None)

    def ended_lines(self, batch_id: str, after: int, limit: int = CHUNK) -> list[tuple[int, int]]:
        """Return ``(position, line)`` in the order in which lines ended, from a position."""
        return self._ask(self._store_ended_lines, batch_id, after, limit)

    def _store_ended_lines(self, batch_id: str, after: int, limit: int) -> list[tuple[int, int]]:
        book = self.store.books.get(batch_id)
        done = book.done if book else []
        first = max(after, len(done) - DONE_KEPT)
        return list(enumerate(done[first : first + limit], start=first))

    def unreported(self) -> list[BatchRecord]:
        """Return the batches whose report is still to be written."""
        found = self._ask(lambda: [self._store_get(id_) for id_ in sorted(self.store.unreported)])
        return [batch for batch in found if batch is not None and not batch.report]

    def relist(self) -> None:
        """List again every batch that has ready lines, or no report yet."""
        for record in self.all():
            if not record.report:
                self._ask(self.store.unreported.add, record.id)
            if self._ask(self._store_ready, record.id):
                self._ask(self._store_enter_shares, record.id)
