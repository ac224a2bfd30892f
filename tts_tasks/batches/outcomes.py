"""What came of a batch's lines, wherever it stands now.

The report's parts in storage have the chunks that are flushed, Redis has the jobs of the window,
and the manifest what nobody has taken yet. Memory does not grow with the batch.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from tts_tasks.batches.manifest import Manifest
from tts_tasks.batches.report import ReportParts, line_without_job, report_line
from tts_tasks.errors import NotFoundError
from tts_tasks.ledger.batch_lines import DONE_KEPT
from tts_tasks.ledger.batch_records import ENDINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tts_tasks.batches.manifest import ManifestLine
    from tts_tasks.ledger import BatchBook, BatchRecord, JobRecord
    from tts_tasks.storage import Storage

    ReportLine = dict[str, Any]

_CHUNKS_KEPT: Final = 4
_LOOKS: Final = 3


class Outcomes:
    """The outcomes of one batch's lines. Every call raises what storages and stores raise."""

    def __init__(self, book: BatchBook, storage: Storage, batch_id: str) -> None:
        self._book = book
        self._manifest = Manifest(storage, batch_id)
        self._parts = ReportParts(storage, batch_id)
        self._chunks: OrderedDict[int, dict[int, ManifestLine]] = OrderedDict()
        self._first_lines: dict[int, int] = {}  #: chunk → its first line

    def report(self, batch: BatchRecord) -> Iterator[ReportLine]:
        """Yield the report's lines in the order of the file, as they stand now.

        What has not ended says ``accepted`` or ``running``.
        """
        for chunk in range(1, batch.chunks + 1):
            yield from self._of_chunk(batch, chunk).values()

    def of_line(self, batch: BatchRecord, line: int) -> ReportLine:
        """Return the report line of one line of the file; raises `NotFoundError`."""
        told = self._of_chunk(batch, self._chunk_of(batch, line)).get(line)
        if told is None:
            raise NotFoundError(f"batch {batch.id} has no job in line {line}")
        return told

    def of_lines(self, batch: BatchRecord, numbers: Sequence[int]) -> list[ReportLine]:
        """Return the report lines of jobs, in the order asked for."""
        records = self._book.results(batch.id, numbers)
        by_chunk: dict[int, dict[int, ReportLine]] = {}
        found = []
        for number in numbers:
            record = records.get(number)
            if record is not None:
                found.append(report_line(record, self._lines(record.chunk)[number].id))
                continue
            chunk = self._chunk_of(batch, number)
            if chunk not in by_chunk:
                by_chunk[chunk] = self._of_chunk(batch, chunk)
            found.append(by_chunk[chunk][number])
        return found

    def _of_chunk(self, batch: BatchRecord, chunk: int) -> dict[int, ReportLine]:
        """Return the report lines of a chunk, as they stand now."""
        lines = self._lines(chunk)
        good = [number for number, line in lines.items() if line.rejected is None]
        part: list[ReportLine] | None = None
        records: dict[int, JobRecord] = {}
        for _ in range(_LOOKS):
            part = self._parts.read(chunk)
            if part is not None and all(line["state"] != "accepted" for line in part):
                return {line["line"]: line for line in part}
            records = self._book.results(batch.id, good)
            # A chunk may be flushed between the two looks: its jobs are gone, its part is there.
            if records or part is not None or not self._parts.has(chunk):
                break
        earlier = {line["line"]: line for line in part or [] if line["state"] != "accepted"}
        without_job = "cancelled" if batch.is_cancelled else "accepted"
        return {
            number: report_line(records[number], line.id)
            if number in records
            else earlier.get(number) or line_without_job(line, without_job)
            for number, line in lines.items()
        }

    def _lines(self, chunk: int) -> dict[int, ManifestLine]:
        if chunk not in self._chunks:
            self._chunks[chunk] = {line.line: line for line in self._manifest.chunk(chunk)}
            while len(self._chunks) > _CHUNKS_KEPT:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(chunk)
        lines = self._chunks[chunk]
        self._first_lines[chunk] = next(iter(lines))
        return lines

    def _chunk_of(self, batch: BatchRecord, line: int) -> int:
        """Return the chunk in which a line of the file must stand."""
        low, high = 1, batch.chunks
        while low < high:
            middle = (low + high + 1) // 2
            if middle not in self._first_lines:
                self._lines(middle)
            if self._first_lines[middle] <= line:
                low = middle
            else:
                high = middle - 1
        return low


class Following:
    """Follows a batch: each line's outcome once, those that have ended before first."""

    def __init__(self, book: BatchBook, storage: Storage, batch_id: str, after: int = 0) -> None:
        """``after``: how many outcomes were seen before, in the order in which they came."""
        self._book = book
        self._batch_id = batch_id
        self._outcomes = Outcomes(book, storage, batch_id)
        self._after = after
        self._told = bytearray()  #: a bit a line that has succeeded, or was read in the report

    def news(self, batch: BatchRecord) -> Iterator[tuple[ReportLine, int]]:
        """Yield what has ended since the last call, and the ``after`` that resumes behind it."""
        while found := self._book.ended_lines(self._batch_id, self._after):
            if found[0][0] > self._after:
                yield from self._catch_up(batch)
                continue
            told = self._outcomes.of_lines(batch, [line for _, line in found])
            for (position, line), outcome in zip(found, told, strict=True):
                self._after = position + 1
                # one that is tried again ends once more, and stands in the list twice
                if outcome["state"] not in ENDINGS or self._was_told(line):
                    continue
                if outcome["state"] == "succeeded":
                    self._tell(line)
                yield outcome, self._after

    def _catch_up(self, batch: BatchRecord) -> Iterator[tuple[ReportLine, int]]:
        """Yield all that has ended, out of the report: more has than Redis remembers."""
        newest = self._book.ended_lines(self._batch_id, self._after, DONE_KEPT)
        for outcome in self._outcomes.report(batch):
            if outcome["state"] in ENDINGS:
                self._tell(outcome["line"])
                yield outcome, self._after
        self._after = newest[-1][0] + 1

    def _tell(self, line: int) -> None:
        self._told.extend(bytes(max(0, line // 8 + 1 - len(self._told))))
        self._told[line // 8] |= 1 << line % 8

    def _was_told(self, line: int) -> bool:
        told = self._told
        return line // 8 < len(told) and bool(told[line // 8] >> line % 8 & 1)
