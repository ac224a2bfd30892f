"""The report of a batch: a part for each chunk while it runs, composed when all have ended.

A part is ``.tts/batches/<batch>/report/00000001.jsonl``, in the order of the file. The report
stands beside the artifacts, twice: as JSONL for programs and as CSV for spreadsheets.
"""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any, Final

from tts_tasks.batches.manifest import batch_folder
from tts_tasks.errors import NotFoundError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tts_tasks.batches.manifest import Head, ManifestLine
    from tts_tasks.ledger.records import JobRecord
    from tts_tasks.storage import Storage

#: What an artifact's record says beyond the columns that every report line has.
_DETAILS: Final = (
    *("name", "size_bytes", "sample_rate_hz", "format", "engine", "fingerprint", "adopted"),
    "subtitles",
)

#: The columns of the CSV: the fields of a report line, its error as code and reason.
CSV_COLUMNS: Final = (
    *("line", "id", "state", "uri", "sha256", "duration_s", "attempt", "worker"),
    *("error_code", "error_reason"),
    *_DETAILS,
)

# What a spreadsheet takes for the beginning of a formula, also in full width, also after a
# semicolon, a tab or a line end: where these separate columns, the rest is a cell of its own.
_FORMULA: Final = re.compile(r"(^|[;\t\n]|\r(?!\n))(?=[\s\"]*[=+\-@\uff1d\uff0b\uff0d\uff20])")


def report_line(record: JobRecord, item_id: str | None = None) -> dict[str, Any]:
    """Return the report line of a job, be it online or a line of a batch.

    ``item_id``: the id that the line has in its manifest, as Redis does not hold it.
    """
    result = record.result
    return {
        "line": record.meta.line or None,
        "id": item_id or record.meta.item_id or record.id,
        "state": record.state,
        "uri": result.get("uri"),
        "sha256": result.get("sha256"),
        "duration_s": result.get("duration_s"),
        "attempt": record.attempt,
        "worker": result.get("worker") or record.worker or None,
        "error": result.get("error"),
        **{key: result[key] for key in _DETAILS if key in result},
    }


def line_without_job(line: ManifestLine, state: str) -> dict[str, Any]:
    """Return the report line of one that nobody has taken, or that is no job."""
    error = None if line.rejected is None else {"code": "rejected", **line.rejected}
    return {
        "line": line.line,
        "id": line.id,
        "state": state if error is None else "rejected",
        "uri": None,
        "sha256": None,
        "duration_s": None,
        "attempt": 0,
        "worker": None,
        "error": error,
    }


class ReportParts:
    """The report parts of one batch. Every call raises as the methods of `Storage` do."""

    def __init__(self, storage: Storage, batch_id: str) -> None:
        self._storage = storage
        self._batch_id = batch_id
        self._folder = f"{batch_folder(batch_id)}/report"

    def write(self, chunk: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the report lines of a chunk (from 1), over what may be there."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        # Half a surrogate, which UTF-8 cannot hold, becomes "?".
        self._storage.replace(self._name(chunk), text.encode("utf-8", "replace"))

    def has(self, chunk: int) -> bool:
        """Tell whether the part of a chunk is there."""
        return self._storage.stat(self._name(chunk)) is not None

    def read(self, chunk: int) -> list[dict[str, Any]] | None:
        """Return the report lines of a chunk; None while there is no part of it."""
        try:
            data = self._storage.read(self._name(chunk))
        except NotFoundError:
            return None
        return self._parsed(chunk, data)

    def pieces(self, chunks: int) -> Iterator[bytes]:
        """Yield the parts of chunks 1 to ``chunks`` as they are; a missing one is an error."""
        for chunk in range(1, chunks + 1):
            try:
                yield self._storage.read(self._name(chunk))
            except NotFoundError:
                raise self._fault(chunk, "is missing") from None

    def lines(self, chunks: int) -> Iterator[list[dict[str, Any]]]:
        """Yield the report lines of chunks 1 to ``chunks``, a list for each."""
        for chunk, data in enumerate(self.pieces(chunks), start=1):
            yield self._parsed(chunk, data)

    def _parsed(self, chunk: int, data: bytes) -> list[dict[str, Any]]:
        *lines, rest = data.split(b"\n")
        try:
            parsed = [json.loads(line) for line in lines]
        except ValueError as error:
            raise self._fault(chunk, f"cannot be read ({error})") from error
        if rest or not all(isinstance(line, dict) for line in parsed):
            raise self._fault(chunk, "cannot be read (it is not whole)")
        return parsed

    def _fault(self, chunk: int, what: str) -> StorageError:
        return StorageError(
            f"report part {self._storage.uri(self._name(chunk))} {what}; remove it and submit the "
            f"file of batch {self._batch_id} again: the part is written anew, what is published "
            "is adopted"
        )

    def _name(self, chunk: int) -> str:
        return f"{self._folder}/{chunk:08d}.jsonl"


def compose(storage: Storage, head: Head, chunks: int) -> str:
    """Compose the report of chunks 1 to ``chunks``, as CSV and then as JSONL; returns its URI.

    Memory does not grow with the batch. Composing twice writes the same. Where a part is missing
    or cannot be read it raises `StorageError`, and no report is touched.
    """
    parts = ReportParts(storage, head.batch)
    # The CSV reads every line, and the JSONL comes last: who sees it finds both, and whole.
    storage.write(report_name(head, "csv"), _csv(parts.lines(chunks)))
    name = report_name(head, "jsonl")
    storage.write(name, parts.pieces(chunks))
    return storage.uri(name)


def report_name(head: Head, suffix: str) -> str:
    """Return a report's name in storage: its own, also where batches share an output prefix."""
    return "/".join(filter(None, (head.output, f"{head.batch}.report.{suffix}")))


def _csv(parts: Iterable[list[dict[str, Any]]]) -> Iterator[bytes]:
    # With a byte order mark, by which spreadsheets know that this is UTF-8.
    yield _rows([CSV_COLUMNS]).encode("utf-8-sig")
    for lines in parts:
        yield _rows([_row(line) for line in lines]).encode("utf-8", "replace")


def _rows(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)  # quoted and ended as RFC 4180 says
    return text.getvalue()


def _row(line: Mapping[str, Any]) -> list[object]:
    error = line.get("error") or {}
    field, reason = error.get("field"), error.get("reason")
    cells = {
        **line,
        "error_code": error.get("code"),
        "error_reason": f"{field}: {reason}" if field else reason,
    }
    return [_cell(cells.get(column)) for column in CSV_COLUMNS]


def _cell(value: object) -> object:
    """Return a value as a spreadsheet may have it: text is never taken for a formula."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _FORMULA.sub(r"\1'", text)
