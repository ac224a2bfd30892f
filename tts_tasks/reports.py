"""The report of a batch: one line an input line, in input order, readable while it runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.ledger.jobs import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tts_tasks.ledger import BatchBook, BatchRecord, JobLedger, JobRecord
    from tts_tasks.storage import Storage


#: What an artifact's record says beyond the columns that every report line has.
_DETAILS = ("name", "size_bytes", "sample_rate_hz", "format", "engine", "fingerprint", "adopted")


def report_lines(
    ledger: JobLedger, book: BatchBook, batch: BatchRecord
) -> Iterator[dict[str, Any]]:
    """Yield the report as it stands; jobs that have not ended say ``accepted`` or ``running``."""
    rejected = book.rejected(batch.id)
    for start in range(1, batch.last_line + 1, CHUNK):
        lines = range(start, min(start + CHUNK, batch.last_line + 1))
        records = ledger.get_many([keys.batch_job_id(batch.id, line) for line in lines])
        for line, record in zip(lines, records, strict=True):
            if line in rejected:
                yield rejected_line(line, rejected[line])
            elif record is not None:
                yield report_line(record)


def report_name(batch: BatchRecord) -> str:
    """Return the report's name in storage: its own, also where batches share an output prefix."""
    return f"{batch.output}/{batch.id}.report.jsonl"


def report_line(record: JobRecord) -> dict[str, Any]:
    """Return the report line of a job."""
    result = record.result
    return {
        "line": record.meta.line or None,
        "id": record.meta.item_id or record.id,
        "state": record.state,
        "uri": result.get("uri"),
        "sha256": result.get("sha256"),
        "duration_s": result.get("duration_s"),
        "attempt": record.attempt,
        "worker": result.get("worker") or record.worker or None,
        "error": result.get("error"),
        **{key: result[key] for key in _DETAILS if key in result},
    }


def rejected_line(line: int, why: dict[str, Any]) -> dict[str, Any]:
    """Return the report line of an input line that was never accepted."""
    return {
        "line": line,
        "id": why.get("id"),
        "state": "rejected",
        "uri": None,
        "sha256": None,
        "duration_s": None,
        "attempt": 0,
        "worker": None,
        "error": {"code": "rejected", "field": why["field"], "reason": why["reason"]},
    }


def write_report(
    ledger: JobLedger, book: BatchBook, storage: Storage, batch_id: str, *, retention_s: int
) -> str | None:
    """Write the report of a complete batch and note where it is; returns its URI.

    Writing it twice writes the same, so whoever finds a batch complete may do it.
    """
    batch = book.get(batch_id)
    if batch is None or not batch.complete:
        return None
    lines = list(report_lines(ledger, book, batch))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    name = report_name(batch)
    storage.replace(name, text.encode())
    uri = storage.uri(name)
    jobs = [
        keys.batch_job_id(batch_id, line["line"]) for line in lines if line["state"] != "rejected"
    ]
    book.reported(batch_id, uri, jobs, retention_s)
    return uri
