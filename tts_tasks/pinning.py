"""Pins what a request names: the very voice and lexicon are settled at acceptance (rule 5).

`Pinning.pin` turns a request whose fields name things that can change into one that says what they
stand for now. For a batch that is settled once and kept beside its manifest, so that all its lines
sound the same, and a file that is submitted again is pinned as it was. Proved by
``tests/contract/test_pinning.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, Protocol

from pydantic import TypeAdapter, ValidationError

from tts_tasks.batches.manifest import batch_folder
from tts_tasks.errors import NotFoundError, RequestError, StorageError
from tts_tasks.lexicons.store import LexiconName, LexiconStore
from tts_tasks.storage import open_storage
from tts_tasks.voices.names import DEFAULT_VOICE, VoiceName, pin_of, pinned_sha256
from tts_tasks.voices.references import ReferenceStore, batch_user
from tts_tasks.voices.store import VoiceStore
from tts_tasks.voices.transcripts import check_prompt, length_s

if TYPE_CHECKING:
    from tts_tasks.requests import SpeechRequest
    from tts_tasks.storage import Storage

#: Fields of a request that replace those that were given.
Pin = dict[str, str]

#: Returns the reference audio that a path means, checked and normalised; raises `RequestError`.
#: Where there is none, paths mean nothing.
Bring = Callable[[str], bytes]

#: What is kept of a name in a batch: the fields that replace it, or those of a `RequestError`.
_Settled = dict[Literal["pin", "refused"], Pin]
_SETTLED: Final = TypeAdapter(_Settled)

#: How long an online job may be spoken with what a name stood for before, in seconds.
_FRESH_S: Final = 1.0
#: Names, and paths, that are remembered by one process.
_REMEMBERED: Final = 4096
#: Stands for the colon in names, which is not welcome in file names everywhere.
_COLON: Final = "~"


class Kept(Protocol):
    """Remembers what names stand for."""

    def __call__(self, kind: str, name: str, settle: Callable[[], Pin], /) -> Pin:
        """Return what ``name`` was settled as; ``settle`` is called if it was not, or long ago."""
        ...


class References(Protocol):
    """Keeps reference audio: a `ReferenceStore`."""

    def put(self, data: bytes, user: str, /) -> str:
        """Keep audio for a user; returns its content hash."""
        ...

    def use(self, sha256: str, user: str, /) -> bool:
        """Note that a user needs audio; False if it is not there."""
        ...


class Pinning:
    """Pins requests, all for online jobs or all for one batch."""

    def __init__(
        self,
        voices: VoiceStore | None,
        references: References,
        kept: Kept,
        user: Callable[[], str] = str,
        bring: Bring | None = None,
        *,
        lexicons: LexiconStore | None = None,
    ) -> None:
        """Without ``voices`` any name may be one of an engine's, without ``lexicons`` any is there.

        ``user`` names whoever needs reference audio, see `ReferenceStore`.
        """
        self._voices = voices
        self._references = references
        self._kept = kept
        self._user = user
        self._bring = bring
        self._lexicons = lexicons
        #: paths → content hashes, and seconds of audio
        self._brought: dict[str, tuple[str, float] | RequestError] = {}
        self._uses: set[tuple[str, str]] = set()  #: that are noted

    def pin(self, request: SpeechRequest) -> SpeechRequest:
        """Return the request with what it names pinned; itself, where it names nothing.

        Raises `RequestError` for what is not there, and what storages raise.
        """
        pins = self._voice(request) | self._lexicon(request)
        return request.model_copy(update=pins) if pins else request

    def _voice(self, request: SpeechRequest) -> Pin:
        if request.prompt_audio is not None:
            return self._inline(request)
        name = VoiceName.parse(request.voice)
        if name is None:
            return {}
        pins = self._kept("voice", str(name), lambda: self._settled_voice(name))
        if not pins:
            return {}
        if request.prompt_text is not None:
            raise RequestError(
                "prompt_text", f"has no place beside the voice {request.voice}, which has its own"
            )
        if not self._use(pinned_sha256(pins["prompt_audio"]) or ""):
            raise RequestError("voice", f"the audio of {pins['voice']} is lost: add it again")
        return pins

    def _settled_voice(self, name: VoiceName) -> Pin:
        """Return what pins a voice of the store; nothing for what may be a name of an engine's."""
        found = self._voices.find(name) if self._voices else None
        return found.pin() if found else {}

    def _lexicon(self, request: SpeechRequest) -> Pin:
        name, lexicons = request.lexicon, self._lexicons
        if name is None or LexiconName.parse(name).sha256 is not None or lexicons is None:
            return {}  # it may be a pin already
        return self._kept("lexicon", name, lambda: {"lexicon": lexicons.find(name).pin})

    def _use(self, sha256: str) -> bool:
        """Note, once, that this audio is needed; False if it is not there."""
        use = (self._user(), sha256)
        if use not in self._uses:
            if len(self._uses) >= _REMEMBERED:
                self._uses.clear()
            if not self._references.use(sha256, self._user()):
                return False
            self._uses.add(use)
        return True

    def _inline(self, request: SpeechRequest) -> Pin:
        if request.prompt_text is None:
            raise RequestError("prompt_text", "is missing: say what is spoken in the prompt audio")
        sha256 = pinned_sha256(request.prompt_audio)
        if sha256 is not None:
            if not self._use(sha256):
                raise RequestError("prompt_audio", "is not in storage: upload it again")
            return {}
        if request.voice != DEFAULT_VOICE:
            raise RequestError("voice", "has no place beside prompt audio, which is a voice itself")
        sha256, audio_s = self._put(str(request.prompt_audio))
        check_prompt(request.prompt_text, audio_s)
        return {"prompt_audio": pin_of(sha256)}

    def _put(self, path: str) -> tuple[str, float]:
        """Bring the audio of a path into storage, once; returns its content hash and seconds."""
        if self._bring is None:
            raise RequestError(
                "prompt_audio",
                "is a path, which means nothing on a worker: give a pathlib.Path, the bytes of the "
                "file, or what `tts_tasks.client.upload_reference` returns",
            )
        if path not in self._brought:
            if len(self._brought) >= _REMEMBERED:
                self._brought.clear()
            try:
                audio = self._bring(path)
                sha256 = self._references.put(audio, self._user())
                self._brought[path] = sha256, length_s(audio)
            except RequestError as error:
                self._brought[path] = error
        found = self._brought[path]
        if isinstance(found, RequestError):
            raise RequestError(found.field, found.reason)
        return found


class BatchPins:
    """What the names in a batch stand for: settled by whoever comes first, kept with the batch."""

    def __init__(self, storage: Storage, batch_id: str) -> None:
        self._storage = storage
        self._folder = f"{batch_folder(batch_id)}/pins"
        self._known: dict[tuple[str, str], _Settled] = {}

    def __call__(self, kind: str, name: str, settle: Callable[[], Pin], /) -> Pin:
        """See `Kept`. What was refused stays refused."""
        if (kind, name) not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[kind, name] = self._settled(self._object_name(kind, name), settle)
        known = self._known[kind, name]
        if refused := known.get("refused"):
            raise RequestError(**refused)
        return known["pin"]

    def names(self, kind: str) -> list[str]:
        """Return what lines of this batch name of a kind, where it stands for something."""
        names = []
        for found in self._storage.list_hidden(f"{self._folder}/{kind}"):
            if self._read(found).get("pin"):
                leaf = found.rpartition("/")[2].removesuffix(".json")
                names.append(leaf.replace(_COLON, ":"))
        return sorted(names)

    def _object_name(self, kind: str, name: str) -> str:
        return f"{self._folder}/{kind}/{name.replace(':', _COLON)}.json"

    def _settled(self, object_name: str, settle: Callable[[], Pin]) -> _Settled:
        with suppress(NotFoundError):
            return self._read(object_name)
        settled: _Settled
        try:
            settled = {"pin": settle()}
        except RequestError as error:
            settled = {"refused": {"field": error.field, "reason": error.reason}}
        if self._storage.create(object_name, json.dumps(settled).encode()):
            return settled
        return self._read(object_name)  # somebody submits the same batch, and was faster

    def _read(self, object_name: str) -> _Settled:
        try:
            settled = _SETTLED.validate_json(self._storage.read(object_name))
        except ValidationError as error:
            raise StorageError(
                f"{self._storage.uri(object_name)} cannot be read; remove the batch and submit its "
                "file again"
            ) from error
        return settled


class Recent:
    """Remembers for a moment what names stood for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, Pin]] = {}

    def __call__(self, kind: str, name: str, settle: Callable[[], Pin], /) -> Pin:
        """See `Kept`."""
        now_s = self._clock()
        since_s, pin = self._known.get((kind, name), (float("-inf"), {}))
        if now_s - since_s <= _FRESH_S:
            return pin
        pin = settle()
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[kind, name] = (now_s, pin)
        return pin


def pinning_for_batch(storage: Storage, batch_id: str, bring: Bring | None = None) -> Pinning:
    """Return what pins the lines of a batch; its head must be in storage by then."""
    user = batch_user(batch_id)
    kept, lexicons = BatchPins(storage, batch_id), LexiconStore(storage)
    voices, references = VoiceStore(storage), ReferenceStore(storage)
    return Pinning(voices, references, kept, lambda: user, bring, lexicons=lexicons)


def checking(bring: Bring | None, storage: Storage | None = None) -> Pinning:
    """Return what finds the faults that pinning for a batch would, and keeps nothing.

    Without a storage only those of reference audio in files.
    """
    voices, lexicons = (VoiceStore(storage), LexiconStore(storage)) if storage else (None, None)
    return Pinning(voices, _NothingKept(storage), Recent(), bring=bring, lexicons=lexicons)


def looking_up(storage: Storage) -> Pinning:
    """Return what says what names stand for now, and notes no need of it."""
    return Pinning(
        VoiceStore(storage), _NothingKept(None), Recent(), lexicons=LexiconStore(storage)
    )


class _NothingKept:
    """`References` to which nothing is added."""

    def __init__(self, storage: Storage | None) -> None:
        self._there = ReferenceStore(storage).has if storage else lambda _: True

    def put(self, data: bytes, _user: str, /) -> str:
        return hashlib.sha256(data).hexdigest()

    def use(self, sha256: str, _user: str, /) -> bool:
        return self._there(sha256)


def pin_online(request: SpeechRequest, storage_url: str) -> SpeechRequest:
    """Pin the request of an online job.

    The storage is asked only by requests that name something; see `Pinning.pin`.
    """
    if (request.voice, request.prompt_audio, request.lexicon) == (DEFAULT_VOICE, None, None):
        return request
    return _online(storage_url, os.getpid()).pin(request)


def forget_recent() -> None:
    """Look names up again at once: this process has changed what they stand for."""
    _online.cache_clear()


@lru_cache(maxsize=4)
def _online(storage_url: str, _pid: int) -> Pinning:
    # a storage is of no use to a child that was forked
    storage = open_storage(storage_url)
    references, lexicons = ReferenceStore(storage), LexiconStore(storage)
    today = references.for_today
    return Pinning(VoiceStore(storage), references, Recent(), today, lexicons=lexicons)
