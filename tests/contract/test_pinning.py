"""What a request names is settled when it is accepted, and for a batch once and for all."""

from __future__ import annotations

import hashlib
import io
import wave
from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks.batches.manifest import Head, Manifest
from tts_tasks.errors import RequestError, StorageError
from tts_tasks.pinning import BatchPins, Recent, checking, pin_online, pinning_for_batch
from tts_tasks.requests import SpeechRequest
from tts_tasks.storage import LocalStorage
from tts_tasks.voices import ReferenceStore, VoiceName, VoiceStore, pin_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tts_tasks.storage import Storage

ALICE = VoiceName("alice")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def request(**fields: Any) -> SpeechRequest:
    return SpeechRequest(text="再见", **fields)


def add(storage: Storage, audio: bytes, name: str = "alice") -> None:
    voice = VoiceName.parse(name)
    assert voice is not None
    VoiceStore(storage).add(voice, text="你好", audio=audio)


def new_batch(storage: Storage, batch: str = "b1") -> None:
    Manifest(storage, batch).begin(Head(batch, "s", batch, "default", 0, 1.0))


def audio_of(path: str) -> bytes:
    """Return the reference audio that `Files` has of a path."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(path.encode().ljust(2 * 3 * 24_000, b"\0"))
    return target.getvalue()


class Files:
    """Reference audio by path; counts how often each is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, path: str) -> bytes:
        self.asked.append(path)
        if "bad" in path:
            raise RequestError("prompt_audio", "is silent")
        return audio_of(path)


# -- in a batch -----------------------------------------------------------------------------------


def test_a_named_voice_is_pinned_to_its_content(storage: Storage) -> None:
    """Version, transcript and hash travel with the request, and decide its sound."""
    add(storage, b"1")
    new_batch(storage)
    pinned = pinning_for_batch(storage, "b1").pin(request(voice="alice"))
    assert (pinned.voice, pinned.prompt_text) == ("alice@1", "你好")
    assert pinned.prompt_audio == pin_of(sha256(b"1"))
    assert pinned.text == "再见"
    assert pinned.sound_sha256() != request(voice="alice").sound_sha256()


def test_the_pins_of_a_batch_outlive_its_submitter(
    storage: Storage, open_again: Callable[[], Storage]
) -> None:
    """A newer version, or a removal, changes nothing: also where another process goes on."""
    add(storage, b"1")
    add(storage, b"h", "alice:happy")
    new_batch(storage)
    first = pinning_for_batch(storage, "b1").pin(request(voice="alice"))
    add(storage, b"2")
    again = pinning_for_batch(open_again(), "b1")
    assert again.pin(request(voice="alice")) == first
    VoiceStore(storage).remove(ALICE)
    assert again.pin(request(voice="alice")) == first
    assert pinning_for_batch(open_again(), "b1").pin(request(voice="alice")) == first
    assert again.pin(request(voice="alice:happy")).voice == "alice:happy"  # not in the store now
    assert BatchPins(storage, "b1").names("voice") == ["alice"]


def test_an_engines_voice_stays_one_and_a_refusal_a_refusal(storage: Storage) -> None:
    """Whatever is added while the batch is submitted, or submitted again."""
    add(storage, b"h", "alice:happy")
    new_batch(storage)
    pinning = pinning_for_batch(storage, "b1")
    for name in ("zh", "zh+f2", "default"):
        assert pinning.pin(request(voice=name)) == request(voice=name)
    with pytest.raises(RequestError, match="alice:sad, but alice:happy"):
        pinning.pin(request(voice="alice:sad"))
    add(storage, b"z", "zh")
    add(storage, b"s", "alice:sad")
    for one in (pinning, pinning_for_batch(storage, "b1")):
        assert one.pin(request(voice="zh")) == request(voice="zh")
        with pytest.raises(RequestError, match="alice:sad, but alice:happy"):
            one.pin(request(voice="alice:sad"))


def test_audio_of_a_batch_stays_as_long_as_the_batch(storage: Storage) -> None:
    """Named or in a file, and also where what it is pinned to was settled before."""
    add(storage, b"1")
    new_batch(storage)
    pinning_for_batch(storage, "b1").pin(request(voice="alice"))
    pinning = pinning_for_batch(storage, "b1", Files())
    pinning.pin(request(voice="alice"))
    pinning.pin(request(prompt_audio="a.wav", prompt_text="你好"))
    VoiceStore(storage).remove(ALICE)
    noted = sorted(storage.list_hidden(".tts/voices/uses/batch/b1"))
    wanted = sorted([sha256(b"1"), sha256(audio_of("a.wav"))])
    assert [name.rpartition("/")[2] for name in noted] == wanted
    Manifest(storage, "b1").remove()
    assert list(storage.list_hidden(".tts/voices/uses/batch/b1")) == []
    assert list(storage.list_hidden(".tts/batches/b1")) == []


def test_each_file_is_brought_once(storage: Storage) -> None:
    """A million lines name a handful of recordings; a bad one is bad in each line."""
    new_batch(storage)
    files = Files()
    pinning = pinning_for_batch(storage, "b1", files)
    for path in ("a.wav", "bad.wav", "b.wav") * 3:
        line = request(prompt_audio=path, prompt_text="你好")
        if path == "bad.wav":
            with pytest.raises(RequestError, match="prompt_audio: is silent"):
                pinning.pin(line)
        else:
            assert pinning.pin(line).prompt_audio == pin_of(sha256(audio_of(path)))
    assert files.asked == ["a.wav", "bad.wav", "b.wav"]
    assert ReferenceStore(storage).read(sha256(audio_of("a.wav"))) == audio_of("a.wav")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt_audio": "a.wav"}, "prompt_text"),
        ({"prompt_audio": "a.wav", "prompt_text": "你好", "voice": "alice"}, "voice"),
        ({"voice": "alice", "prompt_text": "你好"}, "prompt_text"),
        ({"prompt_audio": pin_of(sha256(b"gone")), "prompt_text": "你好"}, "prompt_audio"),
    ],
)
def test_what_contradicts_itself_or_is_not_there_is_refused(
    storage: Storage, fields: dict[str, str], field: str
) -> None:
    """Naming the field."""
    add(storage, b"1")
    new_batch(storage)
    for pinning in (pinning_for_batch(storage, "b1", Files()), checking(Files(), storage)):
        with pytest.raises(RequestError) as caught:
            pinning.pin(request(**fields))
        assert caught.value.field == field


def test_checking_finds_the_faults_and_keeps_nothing(storage: Storage) -> None:
    """With `--strict` nothing is to be accepted before all is known to be good."""
    add(storage, b"1")
    before = sorted(storage.list_hidden(".tts/voices"))
    pinning = checking(Files(), storage)
    pinning.pin(request(voice="alice"))
    pinning.pin(request(prompt_audio="a.wav", prompt_text="你好"))
    for bad in ({"voice": "alice:sad"}, {"prompt_audio": "bad.wav", "prompt_text": "你好"}):
        with pytest.raises(RequestError):
            pinning.pin(request(**bad))
    assert sorted(storage.list_hidden(".tts/voices")) == before
    assert checking(Files()).pin(request(voice="alice:sad")).voice == "alice:sad"


def test_a_damaged_pin_is_said(storage: Storage) -> None:
    """A guess could be another voice."""
    new_batch(storage)
    storage.create(".tts/batches/b1/pins/voice/alice.json", b"{")
    with pytest.raises(StorageError, match="submit its file again"):
        pinning_for_batch(storage, "b1").pin(request(voice="alice"))


# -- online ---------------------------------------------------------------------------------------


def test_an_online_job_is_pinned_to_what_there_is_now(tmp_path: Path) -> None:
    """And its audio is noted as needed today."""
    storage = LocalStorage(tmp_path)
    add(storage, b"1")
    pinned = pin_online(request(voice="alice"), str(tmp_path))
    assert pinned.voice == "alice@1"
    assert sha256(b"1") in str(list(storage.list_hidden(".tts/voices/uses/online")))


def test_without_a_name_no_storage_is_asked() -> None:
    """A caller that speaks with the default voice needs none."""
    assert pin_online(request(), "s3://no-such-bucket/at-all") == request()


def test_a_path_means_nothing_online(tmp_path: Path) -> None:
    """It would be one of whoever sent the request, or of the worker."""
    with pytest.raises(RequestError, match=r"is a path.*upload_reference"):
        pin_online(request(prompt_audio="a.wav", prompt_text="你好"), str(tmp_path))


def test_names_are_looked_up_again_after_a_second() -> None:
    """A caller that says a hundred sentences asks once; a new version counts soon."""
    now_s = 100.0
    recent = Recent(lambda: now_s)
    asked: list[str] = []

    def settle() -> dict[str, str]:
        asked.append("voice")
        return {"voice": f"alice@{len(asked)}"}

    assert [recent("voice", "alice", settle)["voice"] for _ in range(3)] == ["alice@1"] * 3
    now_s += 1.5
    assert recent("voice", "alice", settle) == {"voice": "alice@2"}
    assert recent("lexicon", "alice", settle) == {"voice": "alice@3"}
