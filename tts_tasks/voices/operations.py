"""What people and programs do with voices; `tts_tasks.client` has it all.

All of it needs the storage, and only removing a voice needs Redis too: what was added is told in
the events where it can be reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tts_tasks.errors import ConflictError, NotFoundError, RequestError
from tts_tasks.events import event_log
from tts_tasks.ledger import BatchBook, JobLedger
from tts_tasks.pinning import forget_recent
from tts_tasks.requests import checked_transcript
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage
from tts_tasks.voices.files import prepared, read_audio
from tts_tasks.voices.names import named, pin_of
from tts_tasks.voices.references import ReferenceStore
from tts_tasks.voices.store import VoiceStore
from tts_tasks.voices.transcripts import check_length, check_prompt
from tts_tasks.voices.uses import users_of, wanted_audio

if TYPE_CHECKING:
    import os

    from tts_tasks.voices.names import VoiceName
    from tts_tasks.voices.store import VoiceVersion

_SHOWN_USERS = 5


def voice_add(
    name: str, audio: bytes | os.PathLike[str], *, text: str, consent: str | None = None
) -> VoiceVersion:
    """Make a recording the newest version of a voice (``NAME`` or ``NAME:STYLE``).

    ``text`` is what is said in it; ``consent`` says who agreed to its use. The same again changes
    nothing. Raises `RequestError` for a recording that is no good, saying what was measured, and
    for a text that cannot be said in it.
    """
    voice = _without_version(name)
    try:
        transcript = checked_transcript(text)
    except ValueError as error:
        raise RequestError("text", str(error)) from None
    reference = prepared(read_audio(audio))
    try:
        check_length(transcript, reference.checks.speech_s)
    except ValueError as error:
        raise RequestError("text", str(error)) from None

    def tell(made: VoiceVersion) -> None:
        event_log(get_settings()).emit(
            "voice.added", voice=voice.entry, version=made.version, sha256=made.sha256
        )

    version = _store().add(
        voice,
        text=transcript,
        audio=reference.data,
        consent=consent,
        checks=reference.figures(),
        on_made=tell,
    )
    forget_recent()
    return version


def voice_list() -> list[VoiceVersion]:
    """Return the newest version of every voice and style, sorted by name."""
    return _store().all()


def voice_versions(name: str) -> list[VoiceVersion]:
    """Return the versions of a voice, newest first; or the one that is named.

    Raises `NotFoundError`.
    """
    voice = named(name)
    versions = _store().versions(voice)
    if voice.version is None:
        return versions
    found = [version for version in versions if version.version == voice.version]
    if not found:
        raise NotFoundError(f"there is no {voice}; the newest is {versions[0].spec}")
    return found


def voice_remove(name: str, *, force: bool = False) -> list[VoiceVersion]:
    """Remove a voice with all its styles, or one style of it; returns what was removed.

    Raises `NotFoundError`, and `ConflictError` while accepted work is pinned to it; with ``force``
    that work is spoken with it still, and only new work is not.
    """
    voice = _without_version(name)
    settings = get_settings()
    storage = open_storage(settings.storage_url)
    ledger = JobLedger(settings.redis_url)
    store = VoiceStore(storage)
    users = users_of(voice, ledger=ledger, book=BatchBook(settings.redis_url), storage=storage)
    if users and not force and any(store.all(voice.name)):
        more = f" and {len(users) - _SHOWN_USERS} more" if len(users) > _SHOWN_USERS else ""
        raise ConflictError(
            f"{voice.entry} is in use by {', '.join(users[:_SHOWN_USERS])}{more}: wait until they "
            "have ended, cancel them, or remove it by force; what is accepted is spoken even then"
        )
    removed = store.remove(voice)
    events = event_log(settings)
    for version in removed:
        events.emit(
            "voice.removed", voice=version.spec.entry, version=version.version, forced=bool(users)
        )
    forget_recent()
    store.references.sweep(lambda: wanted_audio(ledger))
    return removed


def upload_reference(audio: bytes | os.PathLike[str], *, text: str | None = None) -> str:
    """Bring a recording into storage; returns what to give as ``prompt_audio``.

    It is kept for two days, and as long as a job or a batch needs it. ``text``: what will be given
    as ``prompt_text``, where that is known. Raises `RequestError` for a recording that is no good,
    and for a text that cannot be said in it.
    """
    reference = prepared(read_audio(audio))
    if text is not None:
        check_prompt(text, reference.checks.speech_s)
    references = ReferenceStore(open_storage(get_settings().storage_url))
    return pin_of(references.put(reference.data, references.for_today()))


def _store() -> VoiceStore:
    return VoiceStore(open_storage(get_settings().storage_url))


def _without_version(name: str) -> VoiceName:
    voice = named(name)
    if voice.version is not None:
        raise RequestError("voice", f"{name!r} names a version: give {voice.entry!r} alone")
    return voice
