"""Files and folders by the descriptor of the folder they are in, without following links."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tts_tasks.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: What an unfinished file's name ends with.
TEMP_SUFFIX: Final = ".part"
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def link_if_absent(temp_folder: int, temp: str, folder: int, leaf: str) -> bool:
    """Give a synced file its final name, unless that is taken; tells whether it was given."""
    try:
        os.link(temp, leaf, src_dir_fd=temp_folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        # NFS may report a failure for a link that it made (a lost reply, sent again): the count
        # of links tells.
        if os.stat(temp, dir_fd=temp_folder, follow_symlinks=False).st_nlink > 1:
            return True
        if error.errno == errno.EEXIST:
            return False
        raise
    return True


def new_file(folder: int, leaf: str) -> int:
    """Open a file that was not there before, for writing; returns its descriptor.

    The umask decides who may read it: artifacts are read by web servers under another user.
    """
    return os.open(leaf, _NEW_FILE, 0o666, dir_fd=folder)


def write_whole(fd: int, data: bytes) -> None:
    """Write all of it, without a buffer of Python's: files of a batch are many and short."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def start_writing(fds: Sequence[int]) -> None:
    """Have files written to the disk together, before each of them is synced.

    A file system gives a file its place when it is written. On ext4 the first sync then commits
    the places of all; without it each one is a commit of its own, which takes twice as long.
    """
    for fd in fds:
        # despite its name: what is not written yet begins to be, and stays in memory until it is
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def open_folder(parent: int, folder: str, *, create: bool) -> int:
    """Open a folder inside another one."""
    try:
        return os.open(folder, _OPEN_FOLDER, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
        with suppress(FileExistsError):
            os.mkdir(folder, dir_fd=parent)
        return os.open(folder, _OPEN_FOLDER, dir_fd=parent)
    except NotADirectoryError:
        found = lstat(parent, folder)
        if found is not None and stat.S_ISLNK(found.st_mode):
            raise StorageError(
                f"{folder!r} is a symbolic link; links are not followed below the storage root"
            ) from None
        if create:
            raise
        # Below a file there is nothing, as in S3.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder) from None


def make_folders(root: Path) -> None:
    """Make a root with the folders above it, durably."""
    missing = [path for path in (root, *root.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def lstat(folder: int, leaf: str) -> os.stat_result | None:
    """Describe what has a name; None where nothing has it."""
    try:
        return os.stat(leaf, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_temporary(leaf: str, found: os.stat_result) -> bool:
    """Whether a file is one that a writer has not finished."""
    return leaf.endswith(TEMP_SUFFIX) and stat.S_ISREG(found.st_mode)


def check_regular(found: os.stat_result, name: str) -> None:
    """Refuse what is no regular file; raises `StorageError`."""
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(f"{name} is no regular file: {stat.filemode(found.st_mode)}")


def read_regular(folder: int, leaf: str, name: str) -> bytes:
    """Return the bytes of a regular file."""
    # O_NONBLOCK: a FIFO somebody put there must not stop us.
    fd = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        check_regular(os.fstat(fd), name)
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def walk(top: int, prefix: str) -> Iterator[str]:
    """Yield the names of the regular files below a folder."""

    def stop(error: OSError) -> None:
        # A folder that was removed meanwhile holds nothing; the others are still to be listed.
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, _, leaves, folder_fd in os.fwalk(".", dir_fd=top, onerror=stop):
        inner = "" if folder == "." else f"{folder.removeprefix('./')}/"
        for leaf in leaves:
            name = f"{inner}{leaf}"
            found = lstat(folder_fd, leaf)
            if found is not None and stat.S_ISREG(found.st_mode):
                yield f"{prefix}{name}"
