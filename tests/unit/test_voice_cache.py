"""A worker encodes each voice once, and what it has encoded is there for the others."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from tts_tasks.errors import EngineError, RequestError, StorageError
from tts_tasks.requests import SpeechRequest
from tts_tasks.testing import MemoryStorage
from tts_tasks.voices import ReferenceStore, VoiceName, VoiceStore, pin_of
from tts_workers.engines.base import Capabilities, EngineVoice, VoiceReference
from tts_workers.voice_cache import VoiceCache

AUDIO = b"four seconds of speech"
SHA256 = hashlib.sha256(AUDIO).hexdigest()
CLONED = SpeechRequest(text="a", prompt_text="你好", prompt_audio=pin_of(SHA256))


class Engine:
    """Encodes voices, and packs them if it is a `Packing` one."""

    name, version = "cloner", "1"

    def __init__(self, *features: str) -> None:
        self.features = frozenset(features)
        self.encoded: list[VoiceReference] = []

    def capabilities(self) -> Capabilities:
        return Capabilities(("zh",), 24000, self.features)

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        if reference.name == "unknown":
            raise RequestError("voice", "there is none")
        self.encoded.append(reference)
        return EngineVoice(reference, f"{reference.sha256}")


class Packing(Engine):
    """One that can hand voices on."""

    packs = True

    def pack_voice(self, voice: EngineVoice) -> bytes:
        if not self.packs:
            raise EngineError("not this one")
        return str(voice.payload).encode()

    def unpack_voice(self, reference: VoiceReference, data: bytes) -> EngineVoice:
        if data.decode() != reference.sha256:
            raise EngineError("of another version")
        return EngineVoice(reference, data.decode())


class Worker:
    """A child with its engine, on a storage that workers share."""

    def __init__(self, storage: MemoryStorage, engine: Any = None, **how: Any) -> None:
        self.engine = engine or Engine("clone")
        self.storage = storage
        self.cache = VoiceCache(self.engine, how.pop("fingerprint", "f1"), storage, **how)

    def voice(self, request: SpeechRequest = CLONED) -> EngineVoice:
        self.cache.check(request)
        fetched = self.cache.fetch(request, lambda call: call())
        return self.cache.encoded(request, fetched, lambda call: call(), self.engine.encode_voice)


@pytest.fixture
def storage() -> MemoryStorage:
    storage = MemoryStorage()
    ReferenceStore(storage).put(AUDIO, "voice/alice/1")
    return storage


def packed(storage: MemoryStorage) -> list[str]:
    return list(storage.list_hidden(".tts/voices/encoded"))


# -- what a voice is known by ---------------------------------------------------------------------


def test_the_content_decides_and_not_the_name() -> None:
    """Two names of one recording are one voice; another transcript is another."""
    one = VoiceReference("alice@1", "你好", AUDIO)
    assert one.sha256 == replace(one, name="default").sha256
    assert one.sha256 != replace(one, prompt_text="您好").sha256
    assert one.sha256 != replace(one, prompt_audio=b"other").sha256
    assert VoiceReference("zh").sha256 != VoiceReference("en").sha256


# -- in memory ------------------------------------------------------------------------------------


def test_a_voice_is_encoded_once(storage: MemoryStorage) -> None:
    """By whatever name it is asked for."""
    worker = Worker(storage)
    voice = worker.voice()
    assert voice.reference.prompt_audio == AUDIO
    assert worker.voice(CLONED.model_copy(update={"voice": "alice@1"})) is voice
    assert worker.voice(SpeechRequest(text="b", voice="zh")).reference.name == "zh"
    assert worker.voice(SpeechRequest(text="c", voice="zh")).reference.name == "zh"
    assert len(worker.engine.encoded) == 2


def test_what_is_in_memory_is_not_read_again(storage: MemoryStorage) -> None:
    """A voice that is spoken with all the time costs no storage."""
    worker = Worker(storage)
    worker.voice()
    storage.objects.clear()
    assert worker.cache.fetch(CLONED, lambda call: call()) is None
    worker.voice()


def test_the_voices_longest_unused_are_let_go(storage: MemoryStorage) -> None:
    """As many are kept as were agreed."""
    worker = Worker(storage, kept=2)
    for name in ("a", "b", "a", "c", "a", "b"):
        worker.voice(SpeechRequest(text="x", voice=name))
    assert [reference.name for reference in worker.engine.encoded] == ["a", "b", "c", "b"]


def test_memory_that_is_needed_is_given_back(storage: MemoryStorage) -> None:
    """Also between the reading ahead and the encoding."""
    worker = Worker(storage)
    worker.voice()
    fetched = worker.cache.fetch(CLONED, lambda call: call())
    worker.cache.clear()
    worker.cache.encoded(CLONED, fetched, lambda call: call(), worker.engine.encode_voice)
    assert len(worker.engine.encoded) == 2


def test_a_voice_that_was_refused_is_refused_again(storage: MemoryStorage) -> None:
    """Nothing is kept of it."""
    worker = Worker(storage)
    for _ in range(2):
        with pytest.raises(RequestError):
            worker.voice(SpeechRequest(text="x", voice="unknown"))


# -- what is refused ------------------------------------------------------------------------------


def test_an_engine_that_imitates_nobody_says_so(storage: MemoryStorage) -> None:
    """Before anything is read; in the field that the caller has given."""
    worker = Worker(storage, Engine("speed"))
    for voice, field in (("default", "prompt_audio"), ("alice@1", "voice")):
        with pytest.raises(RequestError, match="lacks the feature 'clone'") as caught:
            worker.cache.check(CLONED.model_copy(update={"voice": voice}))
        assert caught.value.field == field


@pytest.mark.parametrize(
    "path", ["a.wav", "../../etc/passwd", "sha256:short", "sha256:" + "A" * 64]
)
def test_a_path_is_never_opened(storage: MemoryStorage, path: str) -> None:
    """Whoever sends one, and however it came into the ledger."""
    with pytest.raises(RequestError, match="is not pinned"):
        Worker(storage).voice(
            SpeechRequest(text="a", prompt_text="b").model_copy(update={"prompt_audio": path})
        )


def test_audio_that_is_gone_or_damaged_is_said(storage: MemoryStorage) -> None:
    """The first for good; the second may be another worker's storage playing up."""
    name = f".tts/voices/audio/{SHA256}.wav"
    storage.objects[name] = AUDIO[:-1]
    with pytest.raises(StorageError, match="damaged"):
        Worker(storage).voice()
    del storage.objects[name]
    with pytest.raises(RequestError, match="not in storage any more"):
        Worker(storage).voice()


def test_a_voice_of_the_store_that_was_not_pinned_is_explained(storage: MemoryStorage) -> None:
    """Whoever accepted the job has another storage; an unknown name stays the engine's affair."""
    worker = Worker(storage)
    with pytest.raises(RequestError, match="there is none") as caught:
        worker.voice(SpeechRequest(text="x", voice="unknown"))
    assert caught.value.__cause__ is None
    VoiceStore(storage).add(VoiceName("unknown"), text="你好", audio=AUDIO)
    with pytest.raises(RequestError, match="another TTS_STORAGE_URL"):
        worker.voice(SpeechRequest(text="x", voice="unknown"))


# -- for the other workers ------------------------------------------------------------------------


def test_a_packed_voice_is_not_encoded_again_elsewhere(storage: MemoryStorage) -> None:
    """By a worker of the same fingerprint; of another one it is."""
    first = Worker(storage, Packing("clone")).voice()
    second, third = (
        Worker(storage, Packing("clone")),
        Worker(storage, Packing("clone"), fingerprint="f2"),
    )
    assert second.voice().payload == first.payload
    assert second.engine.encoded == []
    third.voice()
    assert len(third.engine.encoded) == 1
    assert len(packed(storage)) == 2


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda _: b"", lambda data: data + b"x", lambda _: b"?" * 99],
)
def test_a_damaged_voice_is_encoded_anew_and_replaced(storage: MemoryStorage, damage: Any) -> None:
    """It is a cache: nothing is lost with it."""
    Worker(storage, Packing("clone")).voice()
    (name,) = packed(storage)
    good = storage.objects[name]
    storage.objects[name] = damage(good)
    second = Worker(storage, Packing("clone"))
    second.voice()
    assert len(second.engine.encoded) == 1
    assert storage.objects[name] == good


def test_a_voice_that_cannot_be_packed_is_spoken_with(storage: MemoryStorage) -> None:
    """Nor one whose packing cannot be stored; and built-in ones are never packed."""
    engine = Packing("clone")
    engine.packs = False
    Worker(storage, engine).voice()
    Worker(storage, Packing("clone")).voice(SpeechRequest(text="a", voice="zh"))
    assert packed(storage) == []


def test_a_fingerprint_of_any_form_makes_a_safe_name(storage: MemoryStorage) -> None:
    """It is the engine's own affair what it looks like."""
    Worker(storage, Packing("clone"), fingerprint="../../a b\n").voice()
    assert len(packed(storage)) == 1
