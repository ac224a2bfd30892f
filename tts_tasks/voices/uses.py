"""Who speaks with a voice: what of the ledger and of the open batches is pinned to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tts_tasks.pinning import BatchPins
from tts_tasks.voices.names import VoiceName, pinned_sha256

if TYPE_CHECKING:
    from tts_tasks.ledger import BatchBook, JobLedger
    from tts_tasks.storage import Storage


def users_of(
    voice: VoiceName, *, ledger: JobLedger, book: BatchBook, storage: Storage
) -> list[str]:
    """Return what has accepted work with a voice (without a style: in any) that is not done.

    Work that is accepted meanwhile may be missed; it is spoken all the same, since the audio stays.
    """
    batches = [
        f"batch {batch.id}"
        for batch in book.all()
        if not batch.complete
        and not batch.is_cancelled
        and any(_is_of(voice, name) for name in BatchPins(storage, batch.id).names("voice"))
    ]
    jobs = [
        f"job {record.id}"
        for record in ledger.open_jobs()
        if pinned_sha256(record.request.get("prompt_audio"))
        and _is_of(voice, str(record.request.get("voice", "")))
    ]
    return batches + jobs


def wanted_audio(ledger: JobLedger) -> set[str]:
    """Return the content hashes of the reference audio that open online jobs are pinned to."""
    pinned = (pinned_sha256(job.request.get("prompt_audio")) for job in ledger.open_jobs())
    return {sha256 for sha256 in pinned if sha256}


def _is_of(voice: VoiceName, name: str) -> bool:
    other = VoiceName.parse(name)
    return other is not None and other.name == voice.name and voice.style in ("", other.style)
