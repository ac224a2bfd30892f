"""What every storage promises: a local folder, S3 over real HTTP, and the one in memory."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.racing import race
from tests.s3_server import BUCKET, use_s3
from tts_tasks.errors import NotFoundError, StorageError, UnavailableError
from tts_tasks.names import safe_output_name
from tts_tasks.storage import (
    Ownership,
    Storage,
    artifact_name,
    open_storage,
    publish,
)
from tts_tasks.storage.epochs import BLOCK, EpochMarks
from tts_tasks.testing import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_MINE = Ownership("batch/1", "s1")
_OTHER = Ownership("other/9", "s9")
_WRITERS = 10
_ROUNDS = 10


@pytest.mark.parametrize(
    "name",
    [
        "a.wav",
        "batch/chapter 1/005.wav",
        "第一批/公告（一）.wav",
        "100%.wav",
        "a%20b.wav",
        "a#b?c&d=e+f.wav",
        "[x]*'\".wav",
        "~x.wav",
        "e\u0301.wav",
        "x" * 250,
    ],
)
def test_an_object_is_found_under_exactly_its_name(storage: Storage, name: str) -> None:
    """What is created can be read, described, listed and located, whatever its name."""
    before = datetime.now(UTC) - timedelta(minutes=1)
    assert storage.stat(name) is None

    assert storage.create(name, b"sound")

    assert storage.read(name) == b"sound"
    info = storage.stat(name)
    assert info is not None
    assert (info.name, info.size_bytes) == (name, 5)
    assert before < info.modified < before + timedelta(minutes=10)
    assert list(storage.list()) == [name]
    path = storage.path(name)
    if path is None:
        assert storage.uri(name).startswith(("s3://", "memory:///"))
        assert storage.uri(name).endswith(f"/{name}")
    else:
        assert path.read_bytes() == b"sound"
        assert storage.uri(name) == path.as_uri()


@pytest.mark.parametrize("size_bytes", [0, 1, 12 * 1024 * 1024])
def test_any_size_is_created_once(storage: Storage, size_bytes: int) -> None:
    """Empty and large objects are created whole, and the second creator changes nothing."""
    assert storage.create("a.wav", b"x" * size_bytes)
    assert not storage.create("a.wav", b"other")
    assert storage.read("a.wav") == b"x" * size_bytes


def test_racing_creators_have_exactly_one_winner(open_again: Callable[[], Storage]) -> None:
    """Of ten that create one name at the same moment one wins, and its bytes are there."""
    storages = [open_again() for _ in range(_WRITERS)]
    for number in range(_ROUNDS):
        name = f"race/{number}.wav"
        data = [bytes([writer]) * 100_000 for writer in range(_WRITERS)]
        created = race(
            [partial(one.create, name, data[place]) for place, one in enumerate(storages)]
        )
        assert created.count(True) == 1
        assert storages[0].read(name) == data[created.index(True)]
    assert len(list(storages[0].list("race"))) == _ROUNDS


def test_several_are_created_together(storage: Storage) -> None:
    """Each as if alone: what is there stays, and the answers are in the order of the objects."""
    storage.create("b/old.wav", b"old")
    objects = [("a.wav", b"1"), ("b/old.wav", b"2"), ("b/new.wav", b""), ("b/c/d.wav", b"3" * 9999)]
    assert storage.create_many(objects) == [True, False, True, True]
    assert [storage.read(name) for name, _ in objects] == [b"1", b"old", b"", b"3" * 9999]
    assert storage.create_many(objects) == [False] * 4
    assert storage.create_many([]) == []
    assert (
        storage.create_many([(".tts/staging/x/1", b"x"), (".tts/staging/x/2", b"x")]) == [True] * 2
    )


def test_many_names_are_asked_about_at_once(storage: Storage) -> None:
    """Those that there is something under are told, in whatever folders; none of it is an error."""
    made = ["a/one.wav", "a/.tts/one.wav.json", "two.wav", "b/c/three.wav"]
    for name in made:
        storage.create(name, b"x")
    others = ["a/two.wav", "none/one.wav", "three.wav", "two.wav/below.wav"]
    assert storage.taken([*made, *others, "a/one.wav"]) == set(made)
    assert storage.taken([]) == set()
    with pytest.raises(StorageError, match="is absolute, empty"):
        storage.taken(["a/one.wav", "/etc/passwd"])


def test_an_object_is_never_seen_partial(open_again: Callable[[], Storage]) -> None:
    """Somebody who keeps looking sees nothing at all, then all of it."""
    data = b"x" * (6 * 1024 * 1024)
    writer, reader = open_again(), open_again()
    started = threading.Event()

    def look() -> list[bytes | None]:
        seen: list[bytes | None] = []
        while not seen or seen[-1] is None:
            try:
                seen.append(reader.read("a.wav"))
            except NotFoundError:
                seen.append(None)
            started.set()
        return seen

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        assert started.wait(30)
        writer.create("a.wav", data)
        seen = looking.result(30)
    assert seen[0] is None
    assert seen[-1] == data


def test_what_is_not_there(storage: Storage) -> None:
    """Reading raises, describing answers None, listing is empty; also below an object."""
    storage.create("a.wav", b"x")
    for name in ("b.wav", "none/b.wav", "a.wav/b.wav"):
        assert storage.stat(name) is None
        with pytest.raises(NotFoundError, match=r"b\.wav"):
            storage.read(name)
    assert list(storage.list("none")) == []
    assert list(storage.list("a.wav")) == []


def test_listing_is_by_folder_and_leaves_hidden_names_out(storage: Storage) -> None:
    """A prefix is a whole folder name; sidecars are not listed."""
    for name in ("a/1.wav", "a/b/2.wav", "ab/3.wav", "a/.tts/1.wav.json"):
        storage.create(name, b"x")
    assert sorted(storage.list("a")) == ["a/1.wav", "a/b/2.wav"]
    assert sorted(storage.list("a/b")) == ["a/b/2.wav"]
    assert sorted(storage.list()) == ["a/1.wav", "a/b/2.wav", "ab/3.wav"]


def test_a_report_is_replaced_an_artifact_never(storage: Storage) -> None:
    """`replace` and `write` go over a report and refuse every audio suffix."""
    storage.replace("batch/report.jsonl", b"one")
    storage.replace("batch/report.jsonl", b"two")
    assert storage.read("batch/report.jsonl") == b"two"
    storage.write("batch/report.jsonl", [b"th", b"ree"])
    assert storage.read("batch/report.jsonl") == b"three"
    storage.create("batch/a.wav", b"sound")
    for name in ("batch/a.wav", "batch/b.MP3"):
        with pytest.raises(StorageError, match="created once, never replaced"):
            storage.replace(name, b"other")
        with pytest.raises(StorageError, match="created once, never replaced"):
            storage.write(name, [b"other"])
    assert storage.read("batch/a.wav") == b"sound"


@pytest.mark.parametrize("pieces", [[], [b""], [b"x"], [b"12345"] * 7, [b"x" * 3_000_000] * 9])
def test_what_comes_in_pieces_is_written_whole(storage: Storage, pieces: list[bytes]) -> None:
    """No piece, empty ones, many, and more than one part of a multipart upload."""
    storage.write("batch/report.jsonl", iter(pieces))
    assert storage.read("batch/report.jsonl") == b"".join(pieces)
    assert list(storage.list()) == ["batch/report.jsonl"]


@pytest.mark.parametrize("size_bytes", [10, 3_000_000])
def test_pieces_may_come_out_of_the_same_storage(storage: Storage, size_bytes: int) -> None:
    """A report is composed of its parts, which are read while it is written."""
    parts = [f".tts/batches/b/report/{number}" for number in range(5)]
    for number, part in enumerate(parts):
        storage.replace(part, bytes([number]) * size_bytes)
    storage.write("batch/report.jsonl", map(storage.read, parts))
    assert storage.read("batch/report.jsonl") == b"".join(map(storage.read, parts))


@pytest.mark.parametrize("size_bytes", [10, 3_000_000])
@pytest.mark.parametrize("error", [NotFoundError("part 8"), ValueError("x")], ids=["ours", "other"])
def test_pieces_that_fail_leave_everything_as_it_was(
    storage: Storage, size_bytes: int, error: Exception
) -> None:
    """The error comes through, what was there stays, and nothing new appears."""

    def pieces() -> Iterator[bytes]:
        yield from [b"x" * size_bytes] * 7
        raise error

    storage.replace("batch/old.jsonl", b"old")
    for name in ("batch/old.jsonl", "batch/new.jsonl"):
        with pytest.raises(type(error), match=str(error)):
            storage.write(name, pieces())
    assert storage.read("batch/old.jsonl") == b"old"
    assert list(storage.list()) == ["batch/old.jsonl"]


@pytest.mark.parametrize("open_again", ["local", "s3"], indirect=True)
def test_memory_does_not_grow_with_what_is_written(storage: Storage) -> None:
    """Of 60 MB in pieces, half at most are held at any moment."""
    alive = 0
    most = 0

    class Piece(bytes):
        def __init__(self, *_: object) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    storage.write("batch/report.jsonl", (Piece(b"x" * 100_000) for _ in range(600)))
    found = storage.stat("batch/report.jsonl")
    assert found is not None
    assert found.size_bytes == 60_000_000
    assert most <= 300


# -- removing ----------------------------------------------------------------------------------


def test_what_is_kept_of_batches_can_be_listed_and_removed(storage: Storage) -> None:
    """Hidden names are listed by folder; removing takes what it is told, present or not."""
    kept = [".tts/batches/b/head.json", ".tts/batches/b/manifest/00000001.jsonl"]
    others = [".tts/batches/bb/head.json", ".tts/staging/x/1", ".tts/epochs/default.0/1"]
    for name in (*kept, *others, "b/a.wav"):
        storage.create(name, b"x")
    assert sorted(storage.list_hidden(".tts/batches")) == sorted([*kept, others[0]])
    assert sorted(storage.list_hidden(".tts/batches/b")) == kept
    assert list(storage.list(".tts/batches")) == []
    assert list(storage.list_hidden(".tts/batches/none")) == []

    storage.remove([kept[0], ".tts/batches/b/never", ".tts/staging/none/never"])
    assert list(storage.list_hidden(".tts/batches/b")) == [kept[1]]
    storage.remove(storage.list_hidden(".tts/batches/b"))
    storage.remove(kept)
    assert list(storage.list_hidden(".tts/batches")) == [others[0]]
    assert storage.stat(kept[0]) is None
    assert all(storage.stat(name) for name in (*others, "b/a.wav"))


def test_thousands_are_removed_in_one_call(storage: Storage) -> None:
    """More than S3 takes in one request."""
    names = [f".tts/staging/x/{number}" for number in range(1100)]
    for name in names[::50]:
        storage.create(name, b"x")
    storage.remove(iter(names))
    assert list(storage.list_hidden(".tts/staging")) == []


def test_a_removed_name_is_free_again(storage: Storage) -> None:
    """What was removed can be created anew, also where its folder went with it."""
    for content in (b"one", b"two"):
        assert storage.create(".tts/batches/b/head.json", content)
        assert storage.read(".tts/batches/b/head.json") == content
        storage.remove([".tts/batches/b/head.json"])


@pytest.mark.parametrize(
    "name",
    [
        "a.wav", "b/a.wav", "b/report.jsonl", "b/.tts/a.wav.json", ".tts/a.wav.json",
        ".tts/epochs/default.0/1", ".tts/batches", ".tts/batches2/x", ".tts/staging2/x",
        ".tts/batches/../a.wav", ".tts/batches/", "b/.tts/batches/x", "", "/etc/passwd",
    ],
)  # fmt: skip
def test_nothing_else_is_ever_removed(storage: Storage, name: str) -> None:
    """Artifacts, sidecars, reports, marks of epochs: no name of theirs is taken."""
    with suppress(StorageError):
        storage.create(name, b"x")
    before = sorted(storage.list())
    with pytest.raises(StorageError):
        storage.remove([name])
    assert sorted(storage.list()) == before
    if before:
        assert storage.read(before[0]) == b"x"


_NAME_PARTS = st.text("ab.-_ /{}\\~文\u0301", max_size=12) | st.sampled_from(
    [".tts", ".tts/batches", ".tts/staging/x", "batches", "staging"]
)


@given(prefix=_NAME_PARTS, output_name=_NAME_PARTS | st.none(), job_id=_NAME_PARTS)
def test_artifact_names_are_never_removable(
    prefix: str, output_name: str | None, job_id: str
) -> None:
    """Whatever prefix, name and id a request has, `remove` takes neither it nor its sidecar."""
    try:
        name = artifact_name(
            prefix=safe_output_name(prefix) if prefix else "",
            output_name=None if output_name is None else safe_output_name(output_name),
            audio_format="wav",
            accepted_at=datetime(2026, 11, 20, tzinfo=UTC),
            job_id=job_id,
        )
    except (ValueError, StorageError):
        return
    folder, _, leaf = name.rpartition("/")
    storage = MemoryStorage()
    publish(storage, name, b"sound", _MINE)
    sidecar = f"{folder}/.tts/{leaf}.json".removeprefix("/")
    assert set(storage.objects) == {name, sidecar}
    for one in (name, sidecar):
        with pytest.raises(StorageError, match="nothing else is ever removed"):
            storage.remove([one])


@pytest.mark.parametrize("prefix", ["", ".tts", "b", "b/.tts", ".tts/../b", ".tts2/x", ".ttsx/y"])
def test_only_hidden_folders_are_listed_as_hidden(storage: Storage, prefix: str) -> None:
    """`list_hidden` is for what is inside the root's own ``.tts``."""
    with pytest.raises(StorageError):
        list(storage.list_hidden(prefix))


@pytest.mark.parametrize(
    "name",
    [
        "", "/etc/passwd", "../a.wav", "a/../../b.wav", "a/./b", ".", "a//b", "a/", ".hidden",
        ".tts", "a/.tts", ".tts-tmp/a.part", "a\\b", "a\x00b", "a\nb", "a\ud800",
        "x" * 251, "x/" * 256 + "x",
    ],
)  # fmt: skip
def test_an_unsafe_name_is_refused_by_every_door(storage: Storage, name: str) -> None:
    """No method takes a name that could leave the root or mean something else."""
    doors: list[Callable[[], object]] = [
        lambda: storage.create(name, b"x"),
        lambda: storage.create_many([("ok.wav", b"x"), (name, b"x")]),
        lambda: storage.read(name),
        lambda: storage.stat(name),
        lambda: storage.replace(name, b"x"),
        lambda: storage.write(name, [b"x"]),
        lambda: storage.remove([name]),
        lambda: list(storage.list_hidden(name)),
        lambda: storage.uri(name),
        lambda: storage.path(name),
        lambda: publish(storage, name, b"x", _MINE),
    ]
    if name:
        doors.append(lambda: list(storage.list(name)))
    for door in doors:
        with pytest.raises(StorageError, match="storage name"):
            door()


def test_an_s3_that_cannot_be_reached_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listening is `UnavailableError`, on every method, within seconds."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        use_s3(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}")
        storage = open_storage(f"s3://{BUCKET}/x")
        for call in (
            lambda: storage.create("a.wav", b"x"),
            lambda: storage.read("a.wav"),
            lambda: storage.stat("a.wav"),
            lambda: list(storage.list()),
            lambda: storage.write("a.jsonl", [b"x"]),
            lambda: storage.write("a.jsonl", [b"x" * 9_000_000] * 2),
            lambda: storage.remove([".tts/staging/x"]),
        ):
            with pytest.raises(UnavailableError, match=r"^s3://artifacts/x.*127\.0\.0\.1"):
                call()


def test_a_missing_bucket_is_named(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that does not exist is said to be missing, not the object."""
    use_s3(monkeypatch, s3_endpoint)
    storage = open_storage("s3://nobody")
    for call in (
        lambda: storage.create("a.wav", b"x"),
        lambda: storage.read("a.wav"),
        lambda: list(storage.list()),
    ):
        with pytest.raises(StorageError, match="there is no bucket 'nobody'"):
            call()


# -- marks of epochs --------------------------------------------------------------------------


def test_epochs_that_were_published_under_are_never_below_the_floor(storage: Storage) -> None:
    """Whoever asks later, in another process, learns at least the highest one."""
    marks = EpochMarks(storage, "default.0")
    assert marks.floor() == 0
    for epoch in (1, 7, BLOCK, BLOCK + 1, 3 * BLOCK + 5):
        marks.cover(epoch)
        assert EpochMarks(storage, "default.0").floor() >= epoch
    assert EpochMarks(storage, "other.0").floor() == 0


def test_a_late_writer_does_not_lower_the_floor(storage: Storage) -> None:
    """Marks are created, never replaced: an old primary that wakes up changes nothing."""
    late = EpochMarks(storage, "default.0")
    late.cover(1)
    EpochMarks(storage, "default.0").cover(5 * BLOCK)
    late.cover(2)
    late.cover(BLOCK + 1)
    assert EpochMarks(storage, "default.0").floor() == 5 * BLOCK


def test_marks_are_no_artifacts(storage: Storage) -> None:
    """They are hidden from who lists what was published."""
    EpochMarks(storage, "default.0").cover(1)
    assert list(storage.list()) == []
