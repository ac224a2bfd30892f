"""The values that go in and out of the book of batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

#: How a line can end.
ENDINGS = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as the ledger holds it."""

    id: str
    source: str  #: what identifies its content
    output: str  #: prefix of its artifacts in storage
    queue: str
    priority: float  #: its share of the queue's work, relative to the others'
    sealed: bool  #: all lines are in the manifest
    chunks: int  #: of the manifest, in storage so far
    fed: int  #: chunks that came into the window so far
    flushed: int  #: chunks whose report part is in storage
    accepted: int  #: lines that became jobs (0 until sealed)
    rejected: int
    succeeded: int
    failed: int
    cancelled: int
    is_cancelled: bool  #: somebody cancelled the batch
    created_ms: int
    report: str | None  #: URI, once it is written

    @property
    def total(self) -> int:
        """Lines of the file that are not blank."""
        return self.accepted + self.rejected

    @property
    def complete(self) -> bool:
        """Whether every line has its outcome."""
        return self.sealed and self.succeeded + self.failed + self.cancelled >= self.accepted

    @property
    def flushed_wholly(self) -> bool:
        """Whether the report parts of all chunks are in storage."""
        return self.sealed and self.flushed >= self.chunks

    @classmethod
    def from_hash(cls, batch_id: str, fields: Mapping[str, str]) -> Self:
        """Read a batch's hash."""
        counted = ("chunks", "fed", "flushed", "accepted", "rejected", *ENDINGS, "created_ms")
        return cls(
            id=batch_id,
            source=fields.get("source", ""),
            output=fields.get("output", batch_id),
            queue=fields.get("queue", ""),
            priority=float(fields.get("priority", 1.0)),
            sealed=fields.get("sealed") == "1",
            is_cancelled="cancelled_ms" in fields,
            report=fields.get("report") or None,
            **{name: int(fields.get(name, 0)) for name in counted},
        )


@dataclass(frozen=True, slots=True)
class TakenJob:
    """A line that a worker has taken: its right to work on it is good until a newer attempt."""

    line: int
    chunk: int
    attempt: int
    strikes: int  #: attempts in a row that ended without progress
    segments_done: int  #: what earlier attempts have noted
    exhausted: bool  #: it has as many strikes as a line may have: it is to be failed, not spoken


@dataclass(frozen=True, slots=True)
class Run:
    """Lines of one batch that a worker has taken at once."""

    batch: str
    jobs: list[TakenJob]

    @classmethod
    def from_text(cls, batch_id: str, text: str) -> Self:
        """Read what `take_lines.lua` returns."""
        numbers = map(int, text.split())
        jobs = [
            TakenJob(line, chunk, attempt, strikes, segments_done, exhausted == 1)
            # the same iterator six times: six numbers a line
            for line, chunk, attempt, strikes, segments_done, exhausted in zip(
                *[numbers] * 6, strict=True
            )
        ]
        return cls(batch_id, jobs)


@dataclass(frozen=True, slots=True)
class LineEnding:
    """What came of an attempt at a line."""

    line: int
    chunk: int
    attempt: int
    state: str  #: succeeded | failed | cancelled
    result: dict[str, Any]  #: the artifact's record, or ``{"error": {"code", "reason"}}``
