"""The local storage's durability and borders, the URLs, the artifact names, S3's refusals."""

from __future__ import annotations

import builtins
import errno
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_tasks.errors import ConfigurationError, StorageError
from tts_tasks.storage import LocalStorage, artifact_name, artifacts, base, check_name, open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ACCEPTED = datetime(2026, 11, 20, 12, 53, 1, 999_999, tzinfo=UTC)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """Return an empty local storage."""
    return LocalStorage(tmp_path / "store")


def _files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def _record(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[tuple[str, str]]:
    """Record what is synced, linked and unlinked, in order, by path below the root."""
    done: list[tuple[str, str]] = []
    real_fsync, real_link, real_unlink = os.fsync, os.link, os.unlink
    real_replace = os.replace

    def place(fd: int) -> str:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        name = str(path.relative_to(root))
        return "temp" if name.endswith(".part") else name

    def fsync(fd: int) -> None:
        real_fsync(fd)
        done.append(("fsync", place(fd)))

    def link(source: str, target: str, **options: Any) -> None:
        real_link(source, target, **options)
        done.append(("link", f"{place(options['dst_dir_fd'])}/{target}"))

    def unlink(name: str, *, dir_fd: int) -> None:
        real_unlink(name, dir_fd=dir_fd)
        done.append(("unlink", place(dir_fd)))

    def replace(source: str, target: str, **options: Any) -> None:
        real_replace(source, target, **options)
        done.append(("replace", f"{place(options['dst_dir_fd'])}/{target}"))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(os, "replace", replace)
    return done


def test_everything_is_synced_before_the_next_step_relies_on_it(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New folders, then the bytes, then the name are durable before `create` answers."""
    done = _record(monkeypatch, storage.root)

    storage.create("b/c/a.wav", b"sound")

    assert done.index(("fsync", "temp")) < done.index(("link", "b/c/a.wav"))
    after_link = done[done.index(("link", "b/c/a.wav")) + 1 :]
    assert after_link == [("fsync", "b/c"), ("unlink", ".tts-tmp")]
    before_link = done[: done.index(("link", "b/c/a.wav"))]
    assert {("fsync", "."), ("fsync", "b")} <= set(before_link)


def test_what_is_created_together_is_synced_together(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bytes are durable before any name is there, and all names before the answer."""
    done = _record(monkeypatch, storage.root)

    storage.create_many([("b/1.wav", b"1"), ("c/2.wav", b"2"), ("b/3.wav", b"3")])

    links = [place for place, (what, _) in enumerate(done) if what == "link"]
    assert done[: links[0]].count(("fsync", "temp")) == 3
    assert {what for what, _ in done[links[0] : links[-1] + 1]} == {"link"}
    assert done[links[-1] + 1 :] == [("fsync", "b"), ("fsync", "c"), *[("unlink", ".tts-tmp")] * 3]


@pytest.mark.parametrize("together", [False, True])
def test_what_somebody_else_created_is_made_durable_too(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """Its creator may have died between link and sync, and the second finisher relies on it."""
    storage.create("b/a.wav", b"sound")
    done = _record(monkeypatch, storage.root)
    if together:
        assert storage.create_many([("b/a.wav", b"other"), ("b/c.wav", b"new")]) == [False, True]
        done = done[: done.index(("unlink", ".tts-tmp"))]
    else:
        assert not storage.create("b/a.wav", b"other")
    assert done[-1] == ("fsync", "b")


def test_a_report_is_synced_before_and_after_it_gets_its_name(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New folders and all the bytes, then the name, then the folder that holds it."""
    done = _record(monkeypatch, storage.root)

    storage.write("b/c/report.jsonl", [b"one", b"two"])

    move = done.index(("replace", "b/c/report.jsonl"))
    assert {("fsync", "temp"), ("fsync", "."), ("fsync", "b")} <= set(done[:move])
    assert done[move + 1] == ("fsync", "b/c")


def test_a_removal_is_durable(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder is synced after the last name of it that was removed."""
    names = [f".tts/batches/b/{folder}/{number}" for folder in "xy" for number in "123"]
    for name in names:
        storage.create(name, b"x")
    done = _record(monkeypatch, storage.root)

    storage.remove(names[:2] + names[3:5])

    x, y = ".tts/batches/b/x", ".tts/batches/b/y"
    assert done == [("unlink", x)] * 2 + [("fsync", x)] + [("unlink", y)] * 2 + [("fsync", y)]


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
    assert _files(storage.root) == [".tts/staging/x/new"]


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


def test_foreign_files_are_not_listed_as_ours(storage: LocalStorage) -> None:
    """What no method takes as a name (an NFS placeholder) is not listed for removal."""
    storage.create(".tts/batches/b/head.json", b"x")
    (storage.root / ".tts/batches/b/.nfs0001").write_bytes(b"x")
    assert list(storage.list_hidden(".tts/batches")) == [".tts/batches/b/head.json"]


def test_a_link_reported_as_failed_but_made_is_a_success(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS answers EEXIST for its own link when the first reply was lost; the link count tells."""
    real_link = os.link

    def link_whose_reply_is_lost(*args: Any, **options: Any) -> None:
        real_link(*args, **options)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", link_whose_reply_is_lost)
    assert storage.create("a.wav", b"sound")
    assert storage.read("a.wav") == b"sound"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("method", ["create", "replace", "write"])
def test_a_failing_disk_leaves_nothing_behind(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, code: int, advice: str, method: str
) -> None:
    """A full or broken disk is a StorageError with path and advice, and no temporary stays."""
    storage.create("b/other.wav", b"sound")
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().suffix == ".part":
            raise OSError(code, os.strerror(code))
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match=advice) as caught:
        getattr(storage, method)("b/report.jsonl", [b"x"] if method == "write" else b"x")
    assert str(storage.root / "b/report.jsonl") in str(caught.value)
    assert _files(storage.root) == ["b/other.wav"]


def test_a_write_that_the_kernel_cuts_short_leaves_nothing(storage: LocalStorage) -> None:
    """A real refusal in the middle of the bytes is an error, and no temporary stays."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * 1024, old[1]))
    try:
        with pytest.raises(StorageError, match="File too large"):
            storage.create("a.wav", b"x" * (2 * 1024 * 1024))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert _files(storage.root) == []


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EXDEV, "another file system"),
        (errno.EPERM, "hard links"),
        (errno.EOPNOTSUPP, "no hard links"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "write permission"),
    ],
)
def test_a_file_system_that_cannot_link_says_what_to_do(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    """Where create-if-absent is impossible nothing is written and the way out is named."""

    def link(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StorageError, match=advice):
        storage.create("a.wav", b"sound")
    assert _files(storage.root) == []


_DIE_AT = """
import os, signal, sys
from pathlib import Path
from tts_tasks.storage import LocalStorage

root, step = Path(sys.argv[1]), sys.argv[2]
storage = LocalStorage(root)
real_link, real_fsync = os.link, os.fsync

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def fsync(fd):
    if step == "written" and Path(f"/proc/self/fd/{fd}").readlink().suffix == ".part":
        die()
    real_fsync(fd)

def link(*args, **options):
    if step == "synced":
        die()
    real_link(*args, **options)
    if step == "linked":
        die()

os.fsync, os.link = fsync, link
storage.create("b/a.wav", b"x" * 3_000_000)
"""


@pytest.mark.parametrize(
    ("step", "present"), [("written", False), ("synced", False), ("linked", True)]
)
def test_kill_9_in_the_middle_leaves_no_partial_artifact(
    tmp_path: Path, step: str, present: bool
) -> None:
    """After SIGKILL at any step the name is absent or whole, and `sweep` removes the rest."""
    root = tmp_path / "store"
    died = subprocess.run(
        [sys.executable, "-c", _DIE_AT, str(root), step],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL

    storage = LocalStorage(root)
    assert list(storage.list()) == (["b/a.wav"] if present else [])
    assert len([name for name in _files(root) if name.endswith(".part")]) == 1
    assert storage.create("b/a.wav", b"again") is not present
    assert storage.read("b/a.wav") == (b"x" * 3_000_000 if present else b"again")
    assert storage.sweep(older_than_s=0) == 1
    assert _files(root) == ["b/a.wav"]


_CREATE_FOREVER = """
import itertools, sys
from pathlib import Path
from tts_tasks.storage import LocalStorage

storage = LocalStorage(Path(sys.argv[1]))
for number in itertools.count():
    storage.create(f"b/{number}.wav", b"x" * 1_000_000)
    print(number, flush=True)
"""


_WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from tts_tasks.storage import LocalStorage

def pieces():
    for number in range(4):
        yield b"new" * 1_000_000
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

LocalStorage(Path(sys.argv[1])).write("b/report.jsonl", pieces())
"""


@pytest.mark.parametrize("piece", [0, 3])
def test_kill_9_while_writing_leaves_the_old_report(tmp_path: Path, piece: int) -> None:
    """A writer that dies between two pieces has changed nothing; `sweep` removes its rest."""
    storage = LocalStorage(tmp_path / "store")
    storage.replace("b/report.jsonl", b"old")
    died = subprocess.run(
        [sys.executable, "-c", _WRITE_AND_DIE, str(storage.root), str(piece)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    assert storage.read("b/report.jsonl") == b"old"
    assert storage.sweep(older_than_s=0) == 1
    assert _files(storage.root) == ["b/report.jsonl"]


def test_kill_9_at_any_moment_leaves_only_whole_artifacts(tmp_path: Path) -> None:
    """A writer killed in full flight has published whole artifacts only."""
    root = tmp_path / "store"
    with subprocess.Popen(
        [sys.executable, "-c", _CREATE_FOREVER, str(root)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            assert writer.stdout.readline()
        writer.kill()
    storage = LocalStorage(root)
    names = list(storage.list())
    assert len(names) >= 20
    assert all(storage.read(name) == b"x" * 1_000_000 for name in names)


def test_sweep_leaves_fresh_and_foreign_files_alone(storage: LocalStorage) -> None:
    """Only our own temporaries that are old enough go."""
    temps = storage.root / ".tts-tmp"
    assert storage.sweep(older_than_s=0) == 0
    temps.mkdir()
    for name in ("old.part", "fresh.part", "notes.txt"):
        (temps / name).write_bytes(b"x")
    (temps / "folder.part").mkdir()
    long_ago = datetime.now(UTC).timestamp() - 7200
    for name in ("old.part", "notes.txt", "folder.part"):
        os.utime(temps / name, (long_ago, long_ago))
    assert storage.sweep(older_than_s=3600) == 1
    assert sorted(path.name for path in temps.iterdir()) == [
        "folder.part",
        "fresh.part",
        "notes.txt",
    ]


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
    assert _files(outside) == ["secret.wav"]


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


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}", "{}", "{}/"])
def test_local_urls(tmp_path: Path, form: str) -> None:
    """A file URL and a bare absolute path open the same folder, made if missing."""
    storage = open_storage(form.format(tmp_path / "x" / "y"))
    assert isinstance(storage, LocalStorage)
    assert storage.root == (tmp_path / "x" / "y").resolve()


def test_a_file_url_is_percent_decoded(tmp_path: Path) -> None:
    """Spaces and Chinese in a folder survive the URL."""
    folder = tmp_path / "语音 100%"
    storage = open_storage(folder.as_uri())
    assert storage.path("a.wav") == folder / "a.wav"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "is of no known form"),
        ("relative/path", "is of no known form"),
        ("file://relative/path", "names no absolute folder"),
        ("file:", "names no absolute folder"),
        ("file:///a?b", r"holds \? or #"),
        ("/a\x00b", "NUL"),
        ("file:///a%00b", "NUL"),
        ("http://example.org/x", "is of no known form"),
        ("s3:///prefix", "is of no known form"),
        ("s3://bucket/a/../b", "prefix of the storage URL"),
        ("s3://[bucket", "storage URL"),
    ],
)
def test_a_url_of_another_form_is_refused(url: str, reason: str) -> None:
    """What is no local folder and no bucket is a configuration error that names the forms."""
    with pytest.raises(ConfigurationError, match=reason):
        open_storage(url)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    """A secret in the URL does not get into the logs through the message."""
    with pytest.raises(ConfigurationError, match="AWS_") as caught:
        open_storage("s3://key:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)


def test_s3_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where obstore is not installed the message says what to install."""
    real_import = builtins.__import__

    def without_obstore(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "obstore":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **options)

    monkeypatch.delitem(sys.modules, "tts_tasks.storage.s3", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_obstore)
    with pytest.raises(ConfigurationError, match=r"pip install 'tts-tasks\[s3\]'"):
        open_storage("s3://bucket/prefix")


def test_s3_without_tls_is_for_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http goes to this machine, or elsewhere only where the operator says so."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio.internal:9000")
    with pytest.raises(ConfigurationError, match="AWS_ALLOW_HTTP=true"):
        open_storage("s3://bucket")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    open_storage("s3://bucket")
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    for endpoint in ("http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        open_storage("s3://bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(ConfigurationError, match="is no http"):
        open_storage("s3://bucket")


def test_a_local_s3_needs_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys a server on this machine is refused before any metadata address is asked."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=r"needs AWS_SECRET_ACCESS_KEY$"):
        open_storage("s3://bucket")


class _ConflictFirst(BaseHTTPRequestHandler):
    """S3's answer to a conditional write that met another one: 409, then 200."""

    puts = 0

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).puts += 1
        assert self.headers["If-None-Match"] == "*"
        self._answer(409 if self.puts == 1 else 200)

    def do_HEAD(self) -> None:
        self._answer(404)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def conflicting_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve `_ConflictFirst` on loopback."""
    _ConflictFirst.puts = 0
    server = HTTPServer(("127.0.0.1", 0), _ConflictFirst)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield
    server.shutdown()
    thread.join(30)
    server.server_close()


@pytest.mark.usefixtures("conflicting_s3")
def test_a_409_of_s3_without_an_object_is_tried_again() -> None:
    """A write that lost against one that came to nothing is not taken for "already there"."""
    assert open_storage("s3://bucket/x").create("a.wav", b"sound")
    assert _ConflictFirst.puts == 2


def _name(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "prefix": "batch",
        "output_name": None,
        "audio_format": "wav",
        "accepted_at": _ACCEPTED,
        "job_id": "7",
        **changes,
    }
    return artifact_name(**fields)


def test_artifact_names() -> None:
    """Named jobs keep their name; unnamed ones are called by the time of acceptance and id."""
    assert _name(output_name="ch1/005", audio_format="mp3") == "batch/ch1/005.mp3"
    assert _name() == "batch/tts_20261120T125301Z_7.wav"
    assert _name(prefix="") == "tts_20261120T125301Z_7.wav"
    shanghai = _ACCEPTED.astimezone(timezone(timedelta(hours=8)))
    assert _name(accepted_at=shanghai) == _name()
    with pytest.raises(ValueError, match="time zone"):
        _name(accepted_at=_ACCEPTED.replace(tzinfo=None))
    with pytest.raises(StorageError, match="storage name"):
        _name(prefix="../elsewhere")


def test_ids_become_file_names_without_meeting() -> None:
    """Unsafe and long ids get a hash, so that two ids never share a name; plain ones stay."""
    ids = ["a_b", "a/b", "a b", "a:b", "a\\b", "e\u0301", "é", "公告-1", "x" * 150, "x" * 151, ".."]
    names = [_name(job_id=job_id) for job_id in ids]
    assert len(set(names)) == len(ids)
    assert names[0] == "batch/tts_20261120T125301Z_a_b.wav"
    assert names[7] == "batch/tts_20261120T125301Z_公告-1.wav"
    assert all(name.count("/") == 1 and len(name.encode()) < 180 for name in names)


_NEVER = re.compile("(?!)")
_SOME_TEXT = st.text("aB9-_/. \\\n中e\u0301", max_size=12) | st.sampled_from(
    ["x" * 120, "x" * 121, "x" * 250, "x" * 251, "x/" * 125 + "x", "x/" * 255 + "x"]
)


@given(_SOME_TEXT)
def test_a_plain_name_is_answered_as_the_long_way_answers(name: str) -> None:
    """What is recognised at a glance is nothing that the full check refuses."""

    def answer() -> str:
        try:
            check_name(name)
        except StorageError as error:
            return str(error)
        return "fine"

    quick = answer()
    with mock.patch.object(base, "_PLAIN", _NEVER):
        assert answer() == quick


@given(_SOME_TEXT.filter(bool))
def test_a_plain_id_is_named_as_the_long_way_names_it(job_id: str) -> None:
    """What is recognised at a glance is exactly what needs no change."""
    quick = _name(job_id=job_id)
    with mock.patch.object(artifacts, "_PLAIN_ID", _NEVER):
        assert _name(job_id=job_id) == quick


def test_the_second_time_of_an_hour_that_comes_twice_is_another_name() -> None:
    """Times are told apart in UTC, also where clocks are put back."""
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 30, tzinfo=berlin)
    assert _name(accepted_at=first) == "batch/tts_20261025T003000Z_7.wav"
    assert _name(accepted_at=first.replace(fold=1)) == "batch/tts_20261025T013000Z_7.wav"
