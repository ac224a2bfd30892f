"""Named voices: reference audio with its transcript, in versions that never change.

::

    .tts/voices/named/<name>/<version>.json          a version of NAME
    .tts/voices/named/<name>/<style>/<version>.json  a version of NAME:STYLE

A version is written once, by create-if-absent under the next number; the newest one is what the
name means. A removal is a version too, so that numbers are not used again.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from tts_tasks.errors import NotFoundError, RequestError, StorageError
from tts_tasks.voices.names import VoiceName, pin_of, reference_sha256
from tts_tasks.voices.references import VOICES_FOLDER, ReferenceStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.storage import Storage

_NAMED: Final = f"{VOICES_FOLDER}/named"
#: Nobody adds and removes a voice so often while it is looked up.
_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class VoiceVersion:
    """One version of a voice."""

    name: str
    style: str
    version: int
    created_at: str  #: UTC, ISO 8601
    text: str = ""  #: transcript of the audio
    audio_sha256: str = ""  #: of the normalised audio
    consent: str | None = None  #: who agreed, and to what; None: nobody has said
    checks: dict[str, Any] = field(default_factory=dict)  #: what was measured of the source
    removed: bool = False  #: from here on there is no such voice

    @property
    def spec(self) -> VoiceName:
        """Its full name."""
        return VoiceName(self.name, self.style, self.version)

    @property
    def sha256(self) -> str:
        """Hash of its content: audio and transcript."""
        return reference_sha256(self.text, self.audio_sha256)

    def says(self, text: str, audio: bytes, consent: str | None) -> bool:
        """Whether it is what somebody wants to add; who has no consent to tell adds none."""
        content = (text, hashlib.sha256(audio).hexdigest(), consent or self.consent)
        return not self.removed and (self.text, self.audio_sha256, self.consent) == content

    def pin(self) -> dict[str, str]:
        """Return the fields of a request that is spoken with this version."""
        return {
            "voice": str(self.spec),
            "prompt_text": self.text,
            "prompt_audio": pin_of(self.audio_sha256),
        }


_VERSION: Final = TypeAdapter(VoiceVersion)


class VoiceStore:
    """The named voices of a storage. Every call raises as the methods of `Storage` do.

    Invariant: a version is never changed, and a number never used again, so what has been pinned
    stays what it was. Proved by ``tests/contract/test_voice_store.py``.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.references = ReferenceStore(storage)

    def add(
        self,
        voice: VoiceName,
        *,
        text: str,
        audio: bytes,
        consent: str | None = None,
        checks: dict[str, Any] | None = None,
        on_made: Callable[[VoiceVersion], None] = lambda _made: None,
    ) -> VoiceVersion:
        """Make this audio, checked and normalised, the newest version of a voice.

        Where the newest version says the same already, it is returned, and nothing is written.
        ``on_made`` is told of a version only if this call has made it.
        """
        for _ in range(_TRIES):
            newest = self._newest(voice.name, voice.style)
            number = newest.version + 1 if newest else 1
            if newest is not None and newest.removed:
                self._forget_until(newest)  # whoever removed it may have died over it
            if newest is not None and newest.says(text, audio, consent):
                return newest
            made = VoiceVersion(
                name=voice.name,
                style=voice.style,
                version=number,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                text=text,
                audio_sha256=self.references.put(audio, _user(voice.at(number))),
                consent=consent,
                checks=checks or {},
            )
            if self._storage.create(_object_name(made.spec), to_json(made, indent=1)):
                on_made(made)
                return made
        raise self._restless(voice)

    def find(self, voice: VoiceName) -> VoiceVersion | None:
        """Return the version that is meant; None where the store has no voice of this name.

        Raises `RequestError` where it has the voice, but not in this style or version.
        """
        found = self._newest(voice.name, voice.style)
        if found is None or found.removed:
            others = [one.spec.entry for one in self.all(voice.name)]
            if not others:
                return None
            raise RequestError("voice", f"there is no {voice.entry}, but {', '.join(others)}")
        if voice.version is None or voice.version == found.version:
            return found
        try:
            older = self._read(voice)
        except NotFoundError:
            older = None
        if older is None or older.removed:
            raise RequestError("voice", f"there is no {voice}; the newest is {found.spec}")
        return older

    def all(self, name: str = "") -> list[VoiceVersion]:
        """Return the newest version of each voice and style (of one name), sorted by name."""
        found = []
        for (voice, style), numbers in sorted(self._entries(name).items()):
            try:
                newest = self._read(VoiceName(voice, style, max(numbers)))
            except NotFoundError:  # removed since it was listed
                continue
            if not newest.removed:
                found.append(newest)
        return found

    def versions(self, voice: VoiceName) -> list[VoiceVersion]:
        """Return the versions of a voice in this style, newest first; raises `NotFoundError`."""
        found = []
        for number in sorted(self._entries(voice.name).get((voice.name, voice.style), ())):
            with suppress(NotFoundError):
                found.append(self._read(voice.at(number)))
        since = max((n for n, version in enumerate(found, start=1) if version.removed), default=0)
        if not found[since:]:
            raise NotFoundError(f"there is no voice {voice.entry}; `ttsctl voice ls` lists them")
        return found[since:][::-1]

    def remove(self, voice: VoiceName) -> list[VoiceVersion]:
        """Remove a voice with all its styles, or one style; returns what was removed.

        What is pinned to it can be spoken still: see `ReferenceStore.drop`. Raises `NotFoundError`.
        """
        doomed = [one for one in self.all(voice.name) if voice.style in ("", one.style)]
        if not doomed:
            raise NotFoundError(f"there is no voice {voice.entry}; `ttsctl voice ls` lists them")
        return [self._remove(version) for version in doomed]

    def _remove(self, version: VoiceVersion) -> VoiceVersion:
        for _ in range(_TRIES):
            end = VoiceVersion(
                name=version.name,
                style=version.style,
                version=version.version + 1,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                removed=True,
            )
            if self._storage.create(_object_name(end.spec), to_json(end, indent=1)):
                self._forget_until(end)
                return version
            newest = self._newest(version.name, version.style)
            if newest is None or newest.removed:
                return version  # somebody else has
            version = newest
        raise self._restless(version.spec)

    def _forget_until(self, end: VoiceVersion) -> None:
        """Remove what a removed voice consisted of."""
        numbers = self._entries(end.name).get((end.name, end.style), ())
        for number in numbers:
            if number < end.version:
                self.references.drop(_user(end.spec.at(number)))
                self._storage.remove([_object_name(end.spec.at(number))])

    def _newest(self, name: str, style: str) -> VoiceVersion | None:
        for _ in range(_TRIES):
            numbers = self._entries(name).get((name, style))
            if not numbers:
                return None
            with suppress(NotFoundError):  # removed since it was listed, and there is a newer one
                return self._read(VoiceName(name, style, max(numbers)))
        raise self._restless(VoiceName(name, style))

    def _entries(self, name: str = "") -> dict[tuple[str, str], list[int]]:
        """Return the numbers of the versions of each name and style."""
        entries: dict[tuple[str, str], list[int]] = {}
        for path in self._storage.list_hidden(f"{_NAMED}/{name}" if name else _NAMED):
            folder, _, leaf = path.removeprefix(f"{_NAMED}/").rpartition("/")
            number = leaf.removesuffix(".json")
            found, _, style = folder.partition("/")
            if number.isdecimal():
                entries.setdefault((found, style), []).append(int(number))
        return entries

    def _read(self, voice: VoiceName) -> VoiceVersion:
        name = _object_name(voice)
        try:
            return _VERSION.validate_json(self._storage.read(name))
        except ValidationError as error:
            raise StorageError(
                f"{self._storage.uri(name)} cannot be read ({error.errors()[0]['msg']}); remove "
                "it, and add the voice again"
            ) from error

    def _restless(self, voice: VoiceName) -> StorageError:
        return StorageError(f"voice {voice.entry} is changed by others all the time; try again")


def _object_name(voice: VoiceName) -> str:
    folder = f"{voice.name}/{voice.style}" if voice.style else voice.name
    return f"{_NAMED}/{folder}/{voice.version:08d}.json"


def _user(voice: VoiceName) -> str:
    entry = voice.entry.replace(":", "~")
    return f"voice/{entry}/{voice.version}"
