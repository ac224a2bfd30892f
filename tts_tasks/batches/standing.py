"""How a batch stands, as its users see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tts_tasks.ledger import BatchBook, BatchRecord


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """A batch at one moment. ``total`` counts the lines that are not blank."""

    batch: str
    state: str  #: accepting | waiting | running | done | cancelled
    total: int
    succeeded: int
    failed: int
    cancelled: int
    rejected: int
    report: str | None  #: URI of the report, once the batch is done
    output: str  #: prefix of its artifacts in storage
    priority: float  #: its share of the work, relative to other batches'
    waits_for: tuple[str, ...]  #: batches that write to the same output and came before
    created_at: str

    @property
    def ended(self) -> int:
        """Lines whose outcome is known."""
        return self.succeeded + self.failed + self.cancelled + self.rejected


def status_of(record: BatchRecord, book: BatchBook) -> BatchStatus:
    """Return how a batch stands."""
    waits_for = () if record.complete or record.is_cancelled else tuple(book.waits_for(record.id))
    created = datetime.fromtimestamp(record.created_ms / 1000, UTC)
    return BatchStatus(
        batch=record.id,
        state=_state(record, waits=bool(waits_for)),
        total=record.total,
        succeeded=record.succeeded,
        failed=record.failed,
        cancelled=record.cancelled,
        rejected=record.rejected,
        report=record.report,
        output=record.output,
        priority=record.priority,
        waits_for=waits_for,
        created_at=created.isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _state(record: BatchRecord, *, waits: bool) -> str:
    if record.is_cancelled:
        return "cancelled"
    if not record.sealed:
        return "accepting"
    if record.complete:
        return "done"
    return "waiting" if waits else "running"
