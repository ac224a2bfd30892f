"""The voices that a worker's engine has encoded: each once, found again by its content.

A request is pinned: it carries the hash of its reference audio, and nothing that is a path is ever
opened here. What an engine has made of a voice is kept in memory, and, if the engine can pack it,
in storage for the other workers of the same fingerprint.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from tts_tasks.errors import EngineError, NotFoundError, RequestError, TTSError
from tts_tasks.voices.names import VoiceName, pinned_sha256, reference_sha256
from tts_tasks.voices.references import ENCODED_FOLDER, VOICES_FOLDER, ReferenceStore
from tts_tasks.voices.store import VoiceStore
from tts_workers.engines.base import PacksVoices, VoiceReference

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.requests import SpeechRequest
    from tts_tasks.storage import Storage
    from tts_workers.engines.base import Engine, EngineVoice
    from tts_workers.rendering import Insist

logger = logging.getLogger(__name__)

#: Encoded voices that are kept in memory. One of GLM-TTS takes about a megabyte of the device.
KEPT: Final = 64
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class VoiceCache:
    """Encodes voices for one engine.

    `encoded` is called in the thread that the engine speaks in; the others in any. Proved by
    ``tests/unit/test_voice_cache.py``.
    """

    def __init__(
        self, engine: Engine, fingerprint: str, storage: Storage, *, kept: int = KEPT
    ) -> None:
        self._engine = engine
        self._storage = storage
        self._references = ReferenceStore(storage)
        plain = _PLAIN.fullmatch(fingerprint)
        name = fingerprint if plain else hashlib.sha256(fingerprint.encode()).hexdigest()
        self._folder = f"{ENCODED_FOLDER}/{name}"
        self._kept = kept
        self._voices: OrderedDict[str, EngineVoice] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, request: SpeechRequest) -> None:
        """Raise `RequestError` where the engine can do nothing with the voice of a request."""
        audio = request.prompt_audio
        if audio is None:
            return
        if pinned_sha256(audio) is None:
            raise RequestError(
                "prompt_audio",
                "is not pinned: a path means nothing on a worker; submit it with `ttsctl submit`, "
                "`submit_batch` or `tts_tasks.client.upload_reference`",
            )
        if "clone" not in self._engine.capabilities().features:
            field = "prompt_audio" if request.voice == "default" else "voice"
            raise RequestError(
                field,
                f"is reference audio, and {self._engine.name} cannot imitate a voice (it lacks the "
                "feature 'clone'): name one of its own voices, or send the request to a pool whose "
                "engine can",
            )

    def fetch(self, request: SpeechRequest, insist: Insist) -> VoiceReference | None:
        """Read ahead what `encoded` will need; None if that is in memory already."""
        with self._lock:
            if _key(request) in self._voices:
                return None
        return self._reference(request, insist)

    def encoded(
        self,
        request: SpeechRequest,
        fetched: VoiceReference | None,
        insist: Insist,
        encode: Callable[[VoiceReference], EngineVoice],
    ) -> EngineVoice:
        """Return the voice of a request as the engine wants it.

        ``encode`` has the engine encode a voice that nobody has kept. Raises `RequestError` and
        what engines and storages raise.
        """
        key = _key(request)
        with self._lock:
            if key in self._voices:
                self._voices.move_to_end(key)
                return self._voices[key]
        reference = fetched or self._reference(request, insist)
        voice = self._unpacked(reference, insist)
        if voice is None:
            try:
                voice = encode(reference)
            except RequestError as error:
                if (why := self._why_unknown(reference)) is None:
                    raise
                raise why from error
            self._pack(voice)
        with self._lock:
            self._voices[key] = voice
            while len(self._voices) > self._kept:
                self._voices.popitem(last=False)
        return voice

    def clear(self) -> None:
        """Let go what is in memory."""
        with self._lock:
            self._voices.clear()

    def _why_unknown(self, reference: VoiceReference) -> RequestError | None:
        """Say why a voice of the store reaches an engine that does not know its name."""
        name = VoiceName.parse(reference.name) if reference.prompt_audio is None else None
        try:
            if name is None or VoiceStore(self._storage).find(name) is None:
                return None
        except TTSError:
            return None
        return RequestError(
            "voice",
            f"{reference.name} is in {self._storage.uri(VOICES_FOLDER)}, but this job was accepted "
            "before it was, or by a client with another TTS_STORAGE_URL",
        )

    def _reference(self, request: SpeechRequest, insist: Insist) -> VoiceReference:
        sha256 = pinned_sha256(request.prompt_audio)
        if sha256 is None:
            return VoiceReference(name=request.voice, prompt_text=request.prompt_text)
        try:
            audio = insist(lambda: self._references.read(sha256))
        except NotFoundError:
            raise RequestError(
                "prompt_audio", "is not in storage any more: add the voice, or submit it, again"
            ) from None
        return VoiceReference(request.voice, request.prompt_text, audio)

    # -- what is kept for other workers ---------------------------------------------------------

    def _object_name(self, reference: VoiceReference) -> str:
        audio_sha256 = hashlib.sha256(reference.prompt_audio or b"").hexdigest()
        return f"{self._folder}/{audio_sha256}/{reference.sha256}"

    def _unpacked(self, reference: VoiceReference, insist: Insist) -> EngineVoice | None:
        if reference.prompt_audio is None or not isinstance(self._engine, PacksVoices):
            return None
        name = self._object_name(reference)
        try:
            data = insist(lambda: self._storage.read(name))
        except NotFoundError:
            return None
        try:
            return self._engine.unpack_voice(reference, _intact(data))
        except EngineError as error:
            logger.warning("%s is of no use (%s): encoded anew", name, error)
            self._storage.remove([name])
            return None

    def _pack(self, voice: EngineVoice) -> None:
        """Keep a voice for the others; it can always be encoded again."""
        if voice.reference.prompt_audio is None or not isinstance(self._engine, PacksVoices):
            return
        name = self._object_name(voice.reference)
        try:
            packed = self._engine.pack_voice(voice)
            self._storage.create(name, _with_digest(packed))
        except TTSError as error:
            logger.warning("%s is not kept for other workers: %s", name, error)


def _with_digest(packed: bytes) -> bytes:
    return hashlib.sha256(packed).digest() + packed


def _intact(data: bytes) -> bytes:
    packed = data[_DIGEST_BYTES:]
    if _with_digest(packed) != data:
        raise EngineError("it is damaged")
    return packed


def _key(request: SpeechRequest) -> str:
    return _key_of(request.voice, request.prompt_text, request.prompt_audio)


@lru_cache(maxsize=256)  # asked several times for each of many short lines
def _key_of(voice: str, prompt_text: str | None, prompt_audio: str | None) -> str:
    sha256 = pinned_sha256(prompt_audio)
    if sha256 is None:
        return VoiceReference(voice, prompt_text).sha256
    return reference_sha256(prompt_text, sha256)
