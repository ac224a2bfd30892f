"""Subtitles are there when the artifact is, once, and of the same job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks.errors import ConflictError, StorageError, TTSError
from tts_tasks.storage import Ownership, find_published
from tts_tasks.testing import MemoryStorage
from tts_workers.attempts import Publication, publish_all
from tts_workers.rendering import Encoded

if TYPE_CHECKING:
    from tts_tasks.storage import Published

MINE, OTHER = Ownership("b/1", "s1"), Ownership("b/2", "s2")
ENCODED = Encoded(b"sound", 1.0, 8000, {"srt": b"1", "json": b"{}"})


def publish(
    storage: MemoryStorage,
    owner: Ownership = MINE,
    encoded: Encoded = ENCODED,
    name: str = "b/a.wav",
) -> Published:
    mine = Publication.of(name, encoded, owner, {"duration_s": 1.0})
    (told,) = publish_all(storage, [mine], lambda call: call())
    if isinstance(told, TTSError):
        raise told
    return told


def test_subtitles_stand_beside_the_artifact_and_are_named_in_its_record() -> None:
    """Under its name with their own suffix."""
    storage = MemoryStorage({})
    published = publish(storage)
    assert sorted(storage.list("b")) == ["b/a.json", "b/a.srt", "b/a.wav"]
    assert published.details["subtitles"] == {"srt": "b/a.srt", "json": "b/a.json"}
    found = find_published(storage, "b/a.wav", MINE)
    assert found is not None
    assert found.details == published.details


def test_who_finds_the_artifact_finds_the_subtitles(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that dies on the way leaves no artifact; the next one adopts what is there."""
    for dies_at in range(1, 6):
        storage = MemoryStorage({})
        create, calls = storage.create, 0

        def failing(name: str, data: bytes, create: Any = create, dies_at: int = dies_at) -> bool:
            nonlocal calls
            calls += 1
            if calls >= dies_at:
                raise StorageError("the disk is full")
            return bool(create(name, data))

        monkeypatch.setattr(storage, "create", failing)
        with pytest.raises(StorageError):
            publish(storage)
        assert "b/a.wav" not in storage.list("b")
        monkeypatch.setattr(storage, "create", create)
        publish(storage)
        assert storage.read("b/a.srt") == b"1"
        assert storage.read("b/a.wav") == b"sound"


def test_subtitles_of_somebody_else_are_a_conflict_before_the_artifact_is_there() -> None:
    """Two jobs that would share a subtitle file do not: nothing is overwritten."""
    storage = MemoryStorage({})
    publish(storage, OTHER, Encoded(b"other", 1.0, 8000, {"srt": b"2"}))
    with pytest.raises(ConflictError, match=r"b/a\.srt"):
        publish(storage, name="b/a.mp3")
    assert "b/a.mp3" not in storage.list("b")
    assert storage.read("b/a.srt") == b"2"


def test_without_subtitles_the_record_is_as_it_was() -> None:
    """Nothing is said of subtitles where there are none."""
    assert dict(publish(MemoryStorage({}), encoded=Encoded(b"sound", 1.0, 8000)).details) == {
        "duration_s": 1.0
    }


def test_a_conflict_over_subtitles_is_one_jobs_affair() -> None:
    """Of several that are published together the others are not touched by it."""
    storage = MemoryStorage({})
    publish(storage, OTHER, Encoded(b"other", 1.0, 8000, {"srt": b"2"}))
    names = ["b/0.wav", "b/a.mp3", "b/1.wav"]
    mine = [Publication.of(name, ENCODED, Ownership(name, "s"), {}) for name in names]
    told = publish_all(storage, mine, lambda call: call())
    assert [type(one).__name__ for one in told] == ["Published", "ConflictError", "Published"]
    assert "b/a.mp3" not in storage.list("b")
    for name in names[::2]:
        found = find_published(storage, name, Ownership(name, "s"))
        assert found is not None
        assert all(storage.read(one) for one in found.details["subtitles"].values())
