"""Reference audio in every storage: what is needed stays, what is not goes."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks.batches.manifest import Head, Manifest
from tts_tasks.errors import NotFoundError, StorageError, UnavailableError
from tts_tasks.testing import MemoryStorage
from tts_tasks.voices.references import (
    ENCODED_FOLDER,
    VOICES_FOLDER,
    ReferenceStore,
    batch_user,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tts_tasks.storage import Storage

AUDIO = b"four seconds of speech"
SHA256 = hashlib.sha256(AUDIO).hexdigest()


def nothing() -> set[str]:
    return set()


class Calendar:
    """A clock that is moved by hand, from the time of the storage's on."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
def store(storage: Storage, calendar: Calendar) -> ReferenceStore:
    return ReferenceStore(storage, now=calendar)


def test_audio_is_kept_once_and_read_by_its_content(
    store: ReferenceStore, storage: Storage
) -> None:
    """Whoever brings the same brings nothing new."""
    assert store.put(AUDIO, "voice/a/1") == SHA256
    assert store.put(AUDIO, "voice/b/1") == SHA256
    assert store.read(SHA256) == AUDIO
    audio = [n for n in storage.list_hidden(VOICES_FOLDER) if n.endswith(".wav")]
    assert audio == [f".tts/voices/audio/{SHA256}.wav"]
    assert list(storage.list()) == []


def test_what_is_not_there_or_damaged_is_said(store: ReferenceStore, storage: Storage) -> None:
    """A job must never be spoken with something else."""
    with pytest.raises(NotFoundError):
        store.read(SHA256)
    assert not store.use(SHA256, "voice/a/1")
    storage.create(f".tts/voices/audio/{SHA256}.wav", AUDIO[:-1])
    with pytest.raises(StorageError, match="is damaged"):
        store.read(SHA256)


def test_audio_stays_while_any_user_needs_it(store: ReferenceStore, calendar: Calendar) -> None:
    """A voice, a batch, the online jobs of the last days, an open job."""
    store.put(AUDIO, "voice/a/1")
    assert store.use(SHA256, batch_user("b1"))
    assert store.sweep(nothing) == 0
    store.drop("voice/a/1")
    store.drop(batch_user("b1"))
    assert store.sweep(nothing) == 0  # whoever was told of it may still accept a job
    calendar.now += timedelta(days=3)
    assert store.sweep(lambda: {SHA256}) == 0
    assert store.read(SHA256) == AUDIO
    assert store.sweep(nothing) == 1
    with pytest.raises(NotFoundError):
        store.read(SHA256)


def test_a_removed_batch_needs_nothing_more(
    store: ReferenceStore, storage: Storage, calendar: Calendar
) -> None:
    """Its notes go with its manifest."""
    manifest = Manifest(storage, "b1")
    manifest.begin(Head("b1", "s", "b1", "default", 0, 1.0))
    store.put(AUDIO, batch_user("b1"))
    manifest.remove()
    assert store.sweep(nothing) == 1


def test_sweeping_leaves_nothing_of_it_behind(
    store: ReferenceStore, storage: Storage, calendar: Calendar
) -> None:
    """Neither notes, nor what engines have made of it; and nothing of others goes with it."""
    store.put(AUDIO, store.for_today())
    other = store.put(b"another", "voice/a/1")
    for sha256 in (SHA256, other):
        storage.create(f"{ENCODED_FOLDER}/f1/{sha256}/r", b"encoded")
    calendar.now += timedelta(days=3)
    assert store.sweep(nothing) == 1
    left = sorted(storage.list_hidden(VOICES_FOLDER))
    assert left == [
        f".tts/voices/audio/{other}.wav",
        f".tts/voices/encoded/f1/{other}/r",
        f".tts/voices/uses/voice/a/1/{other}",
    ]


class Interrupting(MemoryStorage):
    """A storage in which somebody else does something before the n-th call of one kind."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(objects)
        self.before: dict[str, list[Callable[[], Any]]] = {}

    def _meanwhile(self, kind: str) -> None:
        if self.before.get(kind):
            self.before[kind].pop(0)()

    def create(self, name: str, data: bytes) -> bool:
        self._meanwhile("create")
        return super().create(name, data)

    def remove(self, names: Iterable[str]) -> None:
        self._meanwhile("remove")
        super().remove(names)

    def list_hidden(self, prefix: str) -> Any:
        self._meanwhile("list")
        return super().list_hidden(prefix)


@pytest.mark.parametrize("how", ["put", "use"])
@pytest.mark.parametrize(
    ("kind", "step"),
    [(k, n) for k, steps in {"create": 2, "list": 6, "remove": 6}.items() for n in range(steps)],
)
def test_whoever_needs_audio_that_is_being_swept_has_it_or_is_told(
    kind: str, step: int, how: str
) -> None:
    """At whatever moment of the sweep it comes: what was promised is there afterwards."""
    objects: dict[str, bytes] = {}
    user = ReferenceStore(MemoryStorage(objects), patience_s=0.0)
    ReferenceStore(MemoryStorage(objects)).put(AUDIO, "online/20200101")
    promised: list[bool] = []

    def come() -> None:
        try:
            if how == "put":
                promised.append(user.put(AUDIO, "batch/b1") == SHA256)
            else:
                promised.append(user.use(SHA256, "batch/b1"))
        except UnavailableError:
            promised.append(False)

    storage = Interrupting(objects)
    storage.before[kind] = [lambda: None] * step + [come]
    ReferenceStore(storage).sweep(nothing)
    assert len(promised) == (not storage.before[kind])
    if promised and promised[0]:
        assert ReferenceStore(MemoryStorage(objects)).sweep(nothing) == 0
        assert user.read(SHA256) == AUDIO


def test_two_sweeps_at_once_take_nothing_that_was_promised() -> None:
    """The second one does not end the warning of the first."""
    objects: dict[str, bytes] = {}
    user = ReferenceStore(MemoryStorage(objects), patience_s=0.0)
    user.put(AUDIO, "online/20200101")
    told: list[type] = []

    def second_sweep_then_user() -> None:
        ReferenceStore(MemoryStorage(objects)).sweep(nothing)
        try:
            user.put(AUDIO, "batch/b1")
        except UnavailableError as error:
            told.append(type(error))

    storage = Interrupting(objects)
    # the first sweep has looked for users for the last time, and is about to remove
    storage.before["remove"] = [lambda: None, lambda: None, lambda: None, second_sweep_then_user]
    ReferenceStore(storage).sweep(nothing)
    assert told == [UnavailableError] or user.read(SHA256) == AUDIO


def test_what_a_dead_sweep_condemned_can_be_used_again(
    store: ReferenceStore, storage: Storage, calendar: Calendar
) -> None:
    """After an hour; until then whoever needs it is told to come again."""
    store.put(AUDIO, "voice/a/1")
    storage.create(f".tts/voices/condemned/{SHA256}/who", b"\n")
    impatient = ReferenceStore(storage, patience_s=0.1)
    with pytest.raises(UnavailableError, match="try again"):
        impatient.use(SHA256, "voice/b/1")
    store.sweep(nothing)
    with pytest.raises(UnavailableError, match="try again"):
        impatient.put(AUDIO, "voice/b/1")
    if not isinstance(storage, MemoryStorage):  # which keeps no times
        calendar.now += timedelta(hours=2)
        store.sweep(nothing)
        assert impatient.use(SHA256, "voice/b/1")
