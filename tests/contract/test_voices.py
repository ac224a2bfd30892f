"""Voices as callers have them: added, pinned by jobs and batches, refused to go while in use."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Task

from tests.recordings import encoded, recording, speech
from tts_tasks import client, synthesize
from tts_tasks.batches.manifest import Manifest
from tts_tasks.errors import ConfigurationError, ConflictError, NotFoundError, RequestError
from tts_tasks.ledger import BatchBook, JobLedger
from tts_tasks.pinning import forget_recent
from tts_tasks.requests import SpeechRequest
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage
from tts_tasks.voices import ReferenceStore, pinned_sha256

if TYPE_CHECKING:
    from tts_tasks.ledger import JobRecord

PINNED = ("voice", "prompt_text", "prompt_audio")


@pytest.fixture(autouse=True)
def _nothing_in_storage(redis_url: str) -> None:
    root = Path(get_settings().storage_url.removeprefix("file://"))
    shutil.rmtree(root, ignore_errors=True)
    forget_recent()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what messages carry; none is sent."""
    messages: list[dict[str, Any]] = []

    def apply_async(_: Task, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        messages.append({"args": args, "kwargs": kwargs, **options})

    monkeypatch.setattr(Task, "apply_async", apply_async)
    return messages


@pytest.fixture
def take(tmp_path: Path) -> Path:
    """Return a good recording in a file."""
    path = tmp_path / "take.wav"
    path.write_bytes(recording())
    return path


def job(message: dict[str, Any]) -> JobRecord:
    record = JobLedger(get_settings().redis_url).get(message["task_id"])
    assert record is not None
    return record


def stored(request: dict[str, Any]) -> bytes:
    sha256 = pinned_sha256(request["prompt_audio"])
    assert sha256 is not None
    return ReferenceStore(open_storage(get_settings().storage_url)).read(sha256)


def manifest(batch: str) -> list[Any]:
    return Manifest(open_storage(get_settings().storage_url), batch).chunk(1)


def write_batch(folder: Path, *items: dict[str, Any]) -> Path:
    path = folder / "batch.jsonl"
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8")
    return path


# -- adding ---------------------------------------------------------------------------------------


def test_a_voice_is_added_listed_and_shown(take: Path) -> None:
    """With what was measured of it, and who agreed."""
    made = client.voice_add("alice", take, text="你好，世界。", consent="Alice, by letter")
    assert (str(made.spec), made.text, made.consent) == (
        *("alice@1", "你好，世界。"),
        "Alice, by letter",
    )
    assert made.checks["speech_s"] == pytest.approx(4.0, abs=0.1)
    client.voice_add("alice", recording(seed=2), text="你好")
    client.voice_add("alice:happy", recording(seed=3), text="你好")
    assert [str(v.spec) for v in client.voice_list()] == ["alice@2", "alice:happy@1"]
    assert [v.version for v in client.voice_versions("alice")] == [2, 1]
    assert client.voice_versions("alice@1") == [made]
    with pytest.raises(NotFoundError, match="no alice@7; the newest is alice@2"):
        client.voice_versions("alice@7")


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("default", "你好", "voice"),
        ("../a", "你好", "voice"),
        ("alice@2", "你好", "voice"),
        ("alice", "", "text"),
        ("alice", "a\x07", "text"),
        ("alice", "x" * 4001, "text"),
        ("alice", "你好世界" * 16, "text"),  # in 4 s
    ],
)
def test_a_bad_name_or_transcript_is_refused(take: Path, name: str, text: str, field: str) -> None:
    """Nothing is kept of it."""
    with pytest.raises(RequestError) as caught:
        client.voice_add(name, take, text=text)
    assert caught.value.field == field
    assert client.voice_list() == []


def test_a_bad_recording_is_refused_with_what_was_measured() -> None:
    """The checks are those of all reference audio."""
    with pytest.raises(RequestError, match=r"2\.0 s of speech"):
        client.voice_add("alice", recording(2.0), text="你好")
    assert client.voice_list() == []


# -- online jobs ----------------------------------------------------------------------------------


def test_an_online_job_is_pinned_to_the_version_of_its_acceptance(
    sent: list[dict[str, Any]], take: Path
) -> None:
    """In the ledger and in its message; what is added later does not change it."""
    made = client.voice_add("alice", take, text="你好")
    synthesize.delay("再见", voice="alice")
    client.submit_job(SpeechRequest(text="再见", voice="alice@1"))
    client.voice_add("alice", recording(seed=2), text="你好")
    for message in sent:
        pinned = {name: job(message).request[name] for name in PINNED}
        assert pinned == made.pin()
        assert {name: message["kwargs"][name] for name in PINNED} == made.pin()


def test_audio_of_the_callers_own_is_brought_into_storage(
    sent: list[dict[str, Any]], take: Path
) -> None:
    """As bytes, as a path, or once for many jobs; a message holds only its hash."""
    synthesize.delay("再见", prompt_audio=take.read_bytes(), prompt_text="你好")
    synthesize.delay("再见", prompt_audio=take, prompt_text="你好")
    reference = client.upload_reference(take)
    client.submit_job(SpeechRequest(text="再见", prompt_audio=reference, prompt_text="你好"))
    assert [job(message).request["prompt_audio"] for message in sent] == [reference] * 3
    assert [message["kwargs"]["prompt_audio"] for message in sent] == [reference] * 3
    assert stored(job(sent[0]).request)[:4] == b"RIFF"


@pytest.mark.parametrize("audio", ["take.wav", "/etc/hostname", "../take.wav", "http://a/b.wav"])
def test_a_path_as_text_is_refused(sent: list[dict[str, Any]], audio: str) -> None:
    """It may come from who knows whom: only a `Path` is the caller's own word."""
    with pytest.raises(RequestError) as caught:
        synthesize.delay("再见", prompt_audio=audio, prompt_text="你好")
    assert caught.value.field == "prompt_audio"
    assert sent == []


def test_a_job_with_the_default_voice_carries_what_was_given(sent: list[dict[str, Any]]) -> None:
    """And needs no storage."""
    synthesize.delay("再见", speed=1.5, requires={"language": "zh"})
    (message,) = sent
    assert message["kwargs"] == {"speed": 1.5, "requires": {"language": "zh"}}


# -- batches --------------------------------------------------------------------------------------


def test_the_lines_of_a_batch_are_pinned_with_the_audio_beside_the_file(
    sent: list[dict[str, Any]], tmp_path: Path
) -> None:
    """In the dialect of the articles, as they are written there; bad ones are rejected lines."""
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "a.wav").write_bytes(recording())
    (tmp_path / "voices" / "quiet.wav").write_bytes(encoded(speech() * 0))
    (tmp_path / "out.wav").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe.wav")
    audio = ["voices/a.wav", "voices/quiet.wav", "out.wav", "pipe.wav", "../x.wav", "/x.wav"]
    items = [
        {"prompt_text": "你好", "prompt_audio": path, "input_text": "再见", "output_name": "same"}
        for path in (*reversed(audio), audio[0])
    ]
    status = client.submit_batch(write_batch(tmp_path, *items, {"input_text": "再见"}), id="b1")
    assert (status.total, status.rejected) == (8, 6)
    *lines, plain = manifest("b1")
    good = lines[5]
    assert stored(good.request)[:4] == b"RIFF"
    assert plain.request.get("prompt_audio") is None
    rejected = [(line.line, line.rejected["field"]) for line in lines if line.rejected]
    # the last one only as its output name is taken: no rejected line has taken it before
    assert rejected == [(n, "prompt_audio") for n in range(1, 6)] + [(7, "output_name")]
    assert "is silent" in lines[4].rejected["reason"]


def test_a_transcript_that_nobody_can_say_in_the_recording_is_refused(
    sent: list[dict[str, Any]], take: Path
) -> None:
    """It is the text of something else; each line is judged by its own, the audio is read once."""
    for audio in (take, take.read_bytes()):
        with pytest.raises(RequestError, match="too long for") as caught:
            synthesize.delay("再见", prompt_audio=audio, prompt_text="好" * 200)
        assert caught.value.field == "prompt_text"
    assert sent == []
    items = [
        {"text": "再见", "prompt_text": text, "prompt_audio": take.name}
        for text in ("你好", "好" * 200, "你好。")
    ]
    client.submit_batch(items, id="b1", audio_root=take.parent)
    rejected = [line.rejected and line.rejected["field"] for line in manifest("b1")]
    assert rejected == [None, "prompt_text", None]


def test_glm_tts_files_are_written_relative_to_another_root(
    sent: list[dict[str, Any]], tmp_path: Path
) -> None:
    """`audio_root` says where; the field is named as the file names it."""
    checkout = tmp_path / "checkout"
    (checkout / "examples").mkdir(parents=True)
    (checkout / "examples" / "a.wav").write_bytes(recording())
    line = {"uttid": "u1", "prompt_text": "你好", "syn_text": "再见"}
    path = write_batch(
        tmp_path,
        {**line, "prompt_speech": "examples/a.wav"},
        {**line, "uttid": "u2", "prompt_speech": "examples/b.wav"},
    )
    client.submit_batch(path, id="b1", audio_root=checkout)
    good, bad = manifest("b1")
    assert stored(good.request)
    assert bad.rejected["field"] == "prompt_speech"


def test_a_list_of_requests_names_uploads_or_a_root(sent: list[dict[str, Any]], take: Path) -> None:
    """Without a root a path means nothing."""
    items = [
        {"text": "再见", "prompt_text": "你好", "prompt_audio": audio}
        for audio in (client.upload_reference(take), take.name)
    ]
    client.submit_batch(items, id="b1")
    first, second = manifest("b1")
    assert stored(first.request)
    assert "upload_reference" in second.rejected["reason"]
    client.submit_batch(items, id="b2", audio_root=take.parent)
    assert [line.rejected for line in manifest("b2")] == [None, None]


def test_strict_refuses_a_file_over_its_voices_before_anything_is_accepted(
    sent: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A recording that is no good is a bad line like any other."""
    (tmp_path / "a.wav").write_bytes(recording(1.0))
    path = write_batch(tmp_path, {"text": "再见", "prompt_text": "你好", "prompt_audio": "a.wav"})
    with pytest.raises(RequestError, match=r"line 1: prompt_audio: holds 1\.0 s"):
        client.submit_batch(path, id="b1", strict=True)
    assert BatchBook(get_settings().redis_url).all() == []


def test_without_the_extra_the_submission_stops_and_can_be_completed(
    sent: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the client's fault, not the line's."""
    (tmp_path / "a.wav").write_bytes(recording())
    path = write_batch(tmp_path, {"text": "b", "prompt_text": "a", "prompt_audio": "a.wav"})
    with monkeypatch.context() as patch:
        for name in ("tts_tasks.reference_audio", "tts_tasks.audio"):
            patch.delitem(sys.modules, name, raising=False)
        patch.setitem(sys.modules, "soundfile", None)
        with pytest.raises(ConfigurationError, match=r"soundfile.*tts-tasks\[worker\]"):
            client.submit_batch(path, id="b1")
    assert client.submit_batch(path, id="b1").rejected == 0


def test_a_batch_that_is_submitted_again_keeps_its_voice(
    sent: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer version in between is no conflict, and not heard."""
    client.voice_add("alice", recording(seed=1), text="你好")
    path = write_batch(tmp_path, {"text": "一", "voice": "alice"})
    with monkeypatch.context() as patch:
        patch.setattr(BatchBook, "seal", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            client.submit_batch(path, id="b1")
    client.voice_add("alice", recording(seed=2), text="你好")
    assert client.submit_batch(path, id="b1").total == 1
    assert [line.request["voice"] for line in manifest("b1")] == ["alice@1"]


def test_another_files_lines_leave_nothing_with_a_batch(
    sent: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A conflict is found before anything is pinned."""
    client.voice_add("alice", recording(), text="你好")
    client.submit_batch(write_batch(tmp_path, {"text": "一"}), id="b1")
    with pytest.raises(ConflictError):
        client.submit_batch(write_batch(tmp_path, {"text": "一", "voice": "alice"}), id="b1")
    client.voice_remove("alice")


# -- removing -------------------------------------------------------------------------------------


def test_a_voice_in_use_is_not_removed(sent: list[dict[str, Any]], tmp_path: Path) -> None:
    """By a batch or a job that has not ended; by force it is, and they keep their audio."""
    client.voice_add("alice", recording(seed=1), text="你好")
    client.voice_add("alice:happy", recording(seed=2), text="你好")
    client.voice_add("bob", recording(seed=3), text="你好")
    client.submit_batch(write_batch(tmp_path, {"text": "一", "voice": "alice"}), id="b1")
    synthesize.delay("再见", voice="alice")
    with pytest.raises(ConflictError, match=rf"batch b1, job {sent[-1]['task_id']}"):
        client.voice_remove("alice")
    assert [str(v.spec) for v in client.voice_remove("alice:happy")] == ["alice:happy@1"]
    assert [str(v.spec) for v in client.voice_remove("bob")] == ["bob@1"]
    assert [str(v.spec) for v in client.voice_remove("alice", force=True)] == ["alice@1"]
    assert client.voice_list() == []
    assert stored(job(sent[-1]).request) == stored(manifest("b1")[0].request)
    with pytest.raises(NotFoundError):
        client.voice_remove("alice")


def test_a_voice_is_free_when_its_work_is_cancelled_or_done(
    sent: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A cancelled batch can still be resumed with it."""
    client.voice_add("alice", recording(), text="你好")
    client.submit_batch(write_batch(tmp_path, {"text": "一", "voice": "alice"}), id="b1")
    with pytest.raises(ConflictError):
        client.voice_remove("alice")
    client.batch_cancel("b1")
    client.voice_remove("alice")
    assert stored(manifest("b1")[0].request)
