"""A local folder as a storage: folders that come and go, and what is not ours in it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.folders import files_below
from tts_tasks.errors import StorageError
from tts_tasks.storage import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Callable


# -- folders that come and go ---------------------------------------------------------------------


def test_emptied_folders_go_and_no_other(storage: LocalStorage) -> None:
    """Removing a batch leaves no empty folders behind; the two top ones stay."""
    (storage.root / ".tts/batches/other").mkdir(parents=True)
    storage.create(".tts/batches/b/manifest/1", b"x")
    storage.create(".tts/batches/b/head.json", b"x")
    storage.remove([".tts/batches/b/manifest/1"])
    assert sorted(os.listdir(storage.root / ".tts/batches/b")) == ["head.json"]  # noqa: PTH208
    storage.remove([".tts/batches/b/head.json"])
    storage.remove([".tts/batches/b/head.json"])
    assert sorted(os.listdir(storage.root / ".tts/batches")) == ["other"]  # noqa: PTH208
    (storage.root / ".tts/batches/other").rmdir()
    storage.create(".tts/batches/b", b"x")
    storage.remove([".tts/batches/b"])
    assert (storage.root / ".tts/batches").is_dir()


@pytest.mark.parametrize("method", ["create", "replace", "write"])
def test_a_folder_that_is_taken_away_meanwhile_is_made_again(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Somebody who removes the folder's last name takes the folder; a writer does not mind."""
    moves = {"create": "link", "replace": "replace", "write": "replace"}
    real_move = getattr(os, moves[method])
    storage.create(".tts/staging/x/old", b"x")
    removals = iter([".tts/staging/x/old"])

    def move(*args: Any, **options: Any) -> None:
        for name in removals:
            storage.remove([name])
        real_move(*args, **options)

    monkeypatch.setattr(os, moves[method], move)
    data: Any = iter([b"n", b"ew"]) if method == "write" else b"new"
    getattr(storage, method)(".tts/staging/x/new", data)
    assert storage.read(".tts/staging/x/new") == b"new"
    assert files_below(storage.root) == [".tts/staging/x/new"]


def test_writers_and_removers_of_one_folder_do_no_harm(tmp_path: Path) -> None:
    """While two create and two remove in the same folder, what was created is there."""
    storage = LocalStorage(tmp_path / "store")
    errors: list[Exception] = []

    def come_and_go(who: int) -> None:
        for number in range(150):
            name = f".tts/staging/x/y/{who}-{number}"
            try:
                assert storage.create(name, b"x")
                assert storage.read(name) == b"x"
                storage.remove([name])
            except Exception as error:  # noqa: BLE001 - reported by the test
                errors.append(error)

    threads = [threading.Thread(target=come_and_go, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert list(storage.list_hidden(".tts/staging")) == []


def test_listing_survives_folders_that_vanish(storage: LocalStorage) -> None:
    """A folder that is removed while it is listed hides no other one."""
    for folder in "abc":
        storage.create(f".tts/batches/{folder}/head.json", b"x")
    first, second, third = storage.list_hidden(".tts/batches")
    names = storage.list_hidden(".tts/batches")
    assert next(names) == first
    storage.remove([second])
    assert list(names) == [third]


# -- its borders ----------------------------------------------------------------------------------


def test_foreign_files_are_not_listed_as_ours(storage: LocalStorage) -> None:
    """What no method takes as a name (an NFS placeholder) is not listed for removal."""
    storage.create(".tts/batches/b/head.json", b"x")
    (storage.root / ".tts/batches/b/.nfs0001").write_bytes(b"x")
    assert list(storage.list_hidden(".tts/batches")) == [".tts/batches/b/head.json"]


def test_symbolic_links_below_the_root_are_not_followed(
    storage: LocalStorage, tmp_path: Path
) -> None:
    """Neither a linked folder nor a linked file leads out of the root, through any method."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.wav").write_bytes(b"secret")
    (storage.root / "folder").symlink_to(outside)
    (storage.root / ".tts").mkdir()
    (storage.root / ".tts/batches").symlink_to(outside)
    (storage.root / "secret.wav").symlink_to(outside / "secret.wav")
    (storage.root / "dangling.wav").symlink_to(outside / "new.wav")
    (storage.root / ".tts-tmp").symlink_to(outside)

    doors: list[Callable[[], object]] = [
        lambda: storage.create("folder/a.wav", b"x"),
        lambda: storage.replace("folder/report.jsonl", b"x"),
        lambda: storage.write("folder/report.jsonl", [b"x"]),
        lambda: storage.remove([".tts/batches/secret.wav"]),
        lambda: list(storage.list_hidden(".tts/batches")),
        lambda: storage.read("folder/secret.wav"),
        lambda: storage.stat("folder/secret.wav"),
        lambda: storage.path("folder/secret.wav"),
        lambda: list(storage.list("folder")),
        lambda: storage.read("secret.wav"),
        lambda: storage.stat("secret.wav"),
        lambda: storage.path("secret.wav"),
        lambda: storage.create("fine.wav", b"x"),
        lambda: storage.sweep(0),
    ]
    for door in doors:
        with pytest.raises(StorageError, match=r"link|no regular file"):
            door()
    assert not storage.create("dangling.wav", b"x")
    assert list(storage.list()) == []
    assert files_below(outside) == ["secret.wav"]


def test_what_is_no_file_is_refused_without_waiting(storage: LocalStorage) -> None:
    """A folder or a FIFO under the name is an error at once, never a hang, never replaced."""
    (storage.root / "folder.wav").mkdir()
    os.mkfifo(storage.root / "fifo.wav")
    for name in ("folder.wav", "fifo.wav"):
        assert not storage.create(name, b"x")
        with pytest.raises(StorageError, match="no regular file"):
            storage.read(name)
        with pytest.raises(StorageError, match="no regular file"):
            storage.stat(name)


def test_a_file_in_the_place_of_a_folder_is_named(storage: LocalStorage) -> None:
    """`a/b` cannot be created where `a` is a file."""
    storage.create("a", b"x")
    with pytest.raises(StorageError, match="a part of its folder is a file"):
        storage.create("a/b.wav", b"x")


def test_artifacts_are_readable_as_the_umask_says(storage: LocalStorage) -> None:
    """A web server under another user can read them: the umask decides, not a private default."""
    old = os.umask(0o022)
    try:
        storage.create("a.wav", b"x")
        storage.replace("report.jsonl", b"x")
    finally:
        os.umask(old)
    for name in ("a.wav", "report.jsonl"):
        assert (storage.root / name).stat().st_mode & 0o777 == 0o644


def test_a_root_that_vanished_is_not_an_empty_storage(storage: LocalStorage) -> None:
    """An unmounted root is an error for reading too: nothing there is not "no artifact"."""
    storage.root.rmdir()
    doors: list[Callable[[], object]] = [
        lambda: storage.create("a.wav", b"x"),
        lambda: storage.read("a.wav"),
        lambda: storage.stat("a.wav"),
        lambda: list(storage.list()),
    ]
    for door in doors:
        with pytest.raises(StorageError, match="has vanished; is it mounted"):
            door()


def test_a_root_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """A relative root, a file, and a folder below a file are errors with their path."""
    (tmp_path / "file").write_bytes(b"")
    for root in (Path("relative"), tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(StorageError, match=str(root)):
            LocalStorage(root)


def test_no_descriptor_is_left_open(storage: LocalStorage) -> None:
    """Thousands of artifacts do not use up the process's descriptors, errors included."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not used
    for number in range(20):
        storage.create(f"b/c/{number}.wav", b"x")
        storage.create("b/c/0.wav", b"x")
        storage.create_many([(f"{folder}/{number}.wav", b"x") for folder in "bcd"])
        storage.stat(f"none/{number}.wav")
        with pytest.raises(StorageError):
            storage.create("b/c/0.wav/x", b"x")
        with pytest.raises(StorageError):
            storage.create_many([("b/c/x.wav", b"x"), ("b/c/0.wav/x", b"x")])
        next(iter(storage.list()))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
