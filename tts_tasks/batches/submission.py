"""From the lines of a file to the lines of its manifest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tts_tasks.batches.manifest import Head, ManifestLine
from tts_tasks.jsonl import BatchLine, RejectedLine
from tts_tasks.storage import artifact_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def manifest_lines(lines: Iterable[BatchLine | RejectedLine], head: Head) -> Iterator[ManifestLine]:
    """Name each line's artifact, and keep what its request says besides the defaults.

    The names hang on nothing but the line and the head: a file that is submitted again under the
    head in force gets the same ones.
    """
    accepted_at = datetime.fromtimestamp(head.created_ms / 1000, UTC)
    for line in lines:
        if isinstance(line, RejectedLine):
            why = {"field": line.field, "reason": line.reason}
            yield ManifestLine(line.line, line.id, rejected=why)
            continue
        request = line.request
        name = artifact_name(
            prefix=head.output,
            output_name=request.output_name,
            audio_format=request.format,
            accepted_at=accepted_at,
            job_id=line.id,
        )
        fields = request.model_dump(mode="json", exclude_unset=True)
        yield ManifestLine(line.line, line.id, name, len(request.text), fields)
