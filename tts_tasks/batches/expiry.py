"""What is kept of a batch in storage goes when its retention is over; what was published stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tts_tasks.batches.manifest import Manifest
from tts_tasks.batches.report import report_name

if TYPE_CHECKING:
    from tts_tasks.storage import Storage


def remove_expired(storage: Storage, batch_id: str, retention_s: int) -> bool:
    """Remove what is kept of a batch that Redis does not know any more; True if nothing is left.

    Where there is no report, Redis has not let the batch expire but lost it: everything stays, for
    whoever submits the file again.
    """
    manifest = Manifest(storage, batch_id)
    head = manifest.head()
    if head is None:
        return True
    report = storage.stat(report_name(head, "jsonl"))
    if report is None or report.modified > datetime.now(UTC) - timedelta(seconds=retention_s):
        return False
    manifest.remove()
    return True
