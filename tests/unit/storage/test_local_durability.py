"""A local folder keeps what was written, through full disks and SIGKILL, and nothing by halves."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.folders import files_below
from tts_tasks.errors import StorageError
from tts_tasks.storage import LocalStorage

# -- the order of syncs ---------------------------------------------------------------------------


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


# -- disks and file systems that fail -------------------------------------------------------------


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
    assert files_below(storage.root) == ["b/other.wav"]


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
    assert files_below(storage.root) == []


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
    assert files_below(storage.root) == []


# -- writers that are killed ----------------------------------------------------------------------


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
    assert len([name for name in files_below(root) if name.endswith(".part")]) == 1
    assert storage.create("b/a.wav", b"again") is not present
    assert storage.read("b/a.wav") == (b"x" * 3_000_000 if present else b"again")
    assert storage.sweep(older_than_s=0) == 1
    assert files_below(root) == ["b/a.wav"]


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
    assert files_below(storage.root) == ["b/report.jsonl"]


_CREATE_FOREVER = """
import itertools, sys
from pathlib import Path
from tts_tasks.storage import LocalStorage

storage = LocalStorage(Path(sys.argv[1]))
for number in itertools.count():
    storage.create(f"b/{number}.wav", b"x" * 1_000_000)
    print(number, flush=True)
"""


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
