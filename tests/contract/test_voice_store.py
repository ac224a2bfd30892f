"""Named voices in every storage: versions that never change, and numbers that never come again."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tts_tasks.errors import NotFoundError, RequestError, StorageError
from tts_tasks.voices import VoiceName, VoiceStore, named, pin_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.storage import Storage
    from tts_tasks.voices import VoiceVersion

ALICE = VoiceName("alice")
HAPPY = VoiceName("alice", "happy")


@pytest.fixture
def store(storage: Storage) -> VoiceStore:
    return VoiceStore(storage)


def add(store: VoiceStore, voice: VoiceName = ALICE, audio: bytes = b"1") -> VoiceVersion:
    return store.add(voice, text="你好", audio=audio, checks={"speech_s": 4.0})


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alice", ALICE),
        ("alice:happy", HAPPY),
        ("alice@3", VoiceName("alice", "", 3)),
        ("alice:happy@12", VoiceName("alice", "happy", 12)),
        ("a.b-c_9", VoiceName("a.b-c_9")),
    ],
)
def test_a_name_is_read_and_written(text: str, name: VoiceName) -> None:
    """NAME[:STYLE][@VERSION]."""
    assert VoiceName.parse(text) == name == named(text)
    assert str(name) == text


@pytest.mark.parametrize(
    "text",
    ["default", "zh+f2", ".a", "a/b", "a:", "a@0", "a@x", "a:b:c", "a:b.c", "", "a" * 49, "../a"],
)
def test_other_names_are_none_of_the_store(text: str) -> None:
    """They may be an engine's; nobody can give them to a voice."""
    assert VoiceName.parse(text) is None
    with pytest.raises(RequestError):
        named(text)


# -- versions -------------------------------------------------------------------------------------


def test_the_newest_version_is_what_a_name_means(
    store: VoiceStore, open_again: Callable[[], Storage]
) -> None:
    """For every process, at once."""
    assert add(store).spec == VoiceName("alice", "", 1)
    assert add(store, audio=b"2").version == 2
    other = VoiceStore(open_again())
    found = other.find(ALICE)
    assert found is not None
    assert found.pin() == {
        "voice": "alice@2",
        "prompt_text": "你好",
        "prompt_audio": pin_of(hashlib.sha256(b"2").hexdigest()),
    }
    first = other.find(ALICE.at(1))
    assert first is not None
    assert other.references.read(first.audio_sha256) == b"1"
    assert [v.version for v in other.versions(ALICE)] == [2, 1]


def test_the_same_again_is_no_new_version(store: VoiceStore) -> None:
    """But another text is, or consent that was not there."""
    first = add(store)
    assert add(store) == first
    agreed = store.add(ALICE, text="你好", audio=b"1", consent="Alice, 2026")
    assert agreed.version == 2
    assert add(store) == agreed  # who says nothing of consent takes none back
    assert store.add(ALICE, text="您好", audio=b"1").version == 3


def test_styles_have_versions_of_their_own(store: VoiceStore) -> None:
    """`alice:happy` is another recording, under the same name."""
    add(store)
    add(store, HAPPY, b"h")
    add(store, HAPPY, b"i")
    assert [str(v.spec) for v in store.all()] == ["alice@1", "alice:happy@2"]
    assert [str(v.spec) for v in store.all("alice")] == ["alice@1", "alice:happy@2"]


def test_unknown_names_are_left_and_unknown_styles_and_versions_refused(store: VoiceStore) -> None:
    """A name may be an engine's; a style of a voice that is here cannot."""
    assert store.find(ALICE) is None
    add(store, HAPPY)
    with pytest.raises(RequestError, match="no alice, but alice:happy"):
        store.find(ALICE)
    with pytest.raises(RequestError, match="no alice:sad, but alice:happy"):
        store.find(VoiceName("alice", "sad"))
    with pytest.raises(RequestError, match="no alice:happy@9; the newest is alice:happy@1"):
        store.find(HAPPY.at(9))
    assert store.find(VoiceName("alic")) is None


def test_versions_that_are_added_at_once_are_all_there(store: VoiceStore) -> None:
    """Each gets a number of its own, and keeps its audio."""
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: add(store, audio=b"%d" % n), range(4)))
    assert sorted(version.version for version in made) == [1, 2, 3, 4]
    for version in store.versions(ALICE):
        assert hashlib.sha256(store.references.read(version.audio_sha256)).hexdigest()


def test_a_damaged_version_is_said(store: VoiceStore, storage: Storage) -> None:
    """With what to do."""
    storage.create(".tts/voices/named/alice/00000001.json", b"{")
    with pytest.raises(StorageError, match="remove it, and add the voice again"):
        store.find(ALICE)


# -- removal --------------------------------------------------------------------------------------


def test_a_removed_voice_is_gone_and_its_numbers_stay_used(
    store: VoiceStore, storage: Storage
) -> None:
    """Nothing that names a version can ever mean another recording."""
    add(store)
    add(store, audio=b"2")
    assert [str(v.spec) for v in store.remove(ALICE)] == ["alice@2"]
    assert store.find(ALICE) is None
    assert store.all() == []
    with pytest.raises(NotFoundError):
        store.versions(ALICE)
    with pytest.raises(NotFoundError):
        store.remove(ALICE)
    kept = [storage.read(name) for name in storage.list_hidden(".tts/voices/named")]
    assert not any("你好".encode() in data for data in kept)
    assert add(store, audio=b"1").version == 4
    assert [v.version for v in store.versions(ALICE)] == [4]
    with pytest.raises(RequestError, match="no alice@2; the newest is alice@4"):
        store.find(ALICE.at(2))
    with pytest.raises(RequestError):
        store.find(ALICE.at(3))


def test_one_style_is_removed_alone(store: VoiceStore) -> None:
    """And the voice with all of them."""
    add(store)
    add(store, HAPPY, b"h")
    store.remove(HAPPY)
    assert [str(v.spec) for v in store.all()] == ["alice@1"]
    add(store, HAPPY, b"h")
    assert len(store.remove(ALICE)) == 2
    assert store.all() == []


def test_audio_that_somebody_was_told_of_outlives_the_voice(store: VoiceStore) -> None:
    """A job that is accepted at this moment can be spoken."""
    version = add(store)
    store.remove(ALICE)
    store.references.sweep(set)
    assert store.references.read(version.audio_sha256) == b"1"


def test_a_removal_that_died_is_completed_by_the_next_version(
    store: VoiceStore, storage: Storage
) -> None:
    """What was removed does not come back as an old version."""
    add(store)
    end = storage.read(".tts/voices/named/alice/00000001.json").replace(
        b'"removed": false', b'"removed": true'
    )
    storage.create(".tts/voices/named/alice/00000002.json", end.replace(b": 1,", b": 2,"))
    assert store.find(ALICE) is None
    assert add(store, audio=b"3").version == 3
    with pytest.raises(RequestError):
        store.find(ALICE.at(1))
