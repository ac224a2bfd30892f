"""`BatchBook` in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tts_tasks.errors import ConflictError, UnavailableError
from tts_tasks.ledger.batches import BatchRecord
from tts_tasks.ledger.jobs import CHUNK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_tasks.testing.store import MemoryStore, Wire

_REPORTING_MS = 10_000


class MemoryBatches:
    """`BatchBook` in this process, on the store of a `MemoryLedger`."""

    def __init__(self, store: MemoryStore, *, wire: Wire | None = None) -> None:
        self.store = store
        self._ask: Wire = wire or store.at_once

    def open(self, batch_id: str, *, source: str, output: str, queue: str) -> bool:
        """Open a batch; True if its lines are still to be accepted, False if all are in."""
        return self._ask(self._store_open, batch_id, source, output, queue)

    def _store_open(self, batch_id: str, source: str, output: str, queue: str) -> bool:
        batch = self.store.batch(batch_id)
        if batch["source"] is None:
            batch.update(
                source=source,
                output=output,
                queue=queue,
                sealed=False,
                created_ms=self.store.now_ms(),
            )
        elif (batch["source"], batch["output"]) != (source, output):
            raise ConflictError(f"batch {batch_id} exists with other content or another output")
        if not batch["sealed"]:
            self.store.unreported.add(batch_id)
        return not batch["sealed"]

    def reject(self, batch_id: str, lines: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Note rejected lines: ``(line, {"id", "field", "reason"})``."""
        self._ask(self._store_reject, batch_id, dict(lines))

    def _store_reject(self, batch_id: str, lines: dict[int, dict[str, Any]]) -> None:
        self.store.batch(batch_id)["rejections"].update(lines)

    def reached(self, batch_id: str, line: int) -> None:
        """Note up to which physical line the file has been read."""
        self._ask(self._store_reached, batch_id, line)

    def _store_reached(self, batch_id: str, line: int) -> None:
        batch = self.store.batch(batch_id)
        batch["last_line"] = max(batch["last_line"], line)

    def seal(self, batch_id: str, *, accepted: int, rejected: int) -> int:
        """Say that all lines are in; returns how many jobs are still open."""
        still_open = self._ask(self._store_seal, batch_id, accepted, rejected)
        if still_open is None:
            raise UnavailableError(f"the store has lost batch {batch_id}: submit it again")
        return still_open

    def _store_seal(self, batch_id: str, accepted: int, rejected: int) -> int | None:
        batch = self.store.batch(batch_id)
        if batch["source"] is None:
            return None
        batch.update(sealed=True, accepted=accepted, rejected=rejected)
        return int(accepted - batch["succeeded"] - batch["failed"])

    def get(self, batch_id: str) -> BatchRecord | None:
        """Return a batch, or None."""
        return self._ask(self._store_get, batch_id)

    def _store_get(self, batch_id: str) -> BatchRecord | None:
        batch = self.store.batches.get(batch_id)
        if batch is None:
            return None
        names = BatchRecord.__slots__
        return BatchRecord(id=batch_id, **{key: batch[key] for key in names if key != "id"})

    def all(self) -> list[BatchRecord]:
        """Return all batches, newest first."""
        found = self._ask(lambda: [self._store_get(batch_id) for batch_id in self.store.batches])
        return sorted(filter(None, found), key=lambda batch: -batch.created_ms)

    def rejected(self, batch_id: str) -> dict[int, dict[str, Any]]:
        """Return the rejected lines by line number."""
        return self._ask(lambda: dict(sorted(self.store.batch(batch_id)["rejections"].items())))

    def ended_lines(self, batch_id: str, after: int, limit: int = CHUNK) -> list[int]:
        """Return lines in the order in which they ended, from position ``after`` (from 0)."""
        return self._ask(lambda: self.store.batch(batch_id)["done"][after : after + limit])

    def may_report(self, batch_id: str) -> bool:
        """Whether the caller is to write the report; for a while nobody else is."""
        return self._ask(self._store_may_report, batch_id)

    def _store_may_report(self, batch_id: str) -> bool:
        batch, now_ms = self.store.batch(batch_id), self.store.now_ms()
        if batch["reporting_until_ms"] > now_ms:
            return False
        batch["reporting_until_ms"] = now_ms + _REPORTING_MS
        return True

    def reported(
        self,
        batch_id: str,
        uri: str,
        job_ids: Sequence[str],  # noqa: ARG002 - what is in memory does not expire
        retention_s: int,  # noqa: ARG002
    ) -> None:
        """Note that the report is written."""
        self._ask(self._store_reported, batch_id, uri)

    def _store_reported(self, batch_id: str, uri: str) -> None:
        self.store.batch(batch_id)["report"] = uri
        self.store.unreported.discard(batch_id)

    def unreported(self) -> list[BatchRecord]:
        """Return the batches whose report is still to be written."""
        found = self._ask(lambda: [self._store_get(id_) for id_ in sorted(self.store.unreported)])
        return [batch for batch in found if batch is not None]
