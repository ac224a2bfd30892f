"""Storage in a local folder (or a shared file system that has hard links, such as NFS)."""

from __future__ import annotations

import errno
import os
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

from tts_tasks.errors import NotFoundError, StorageError
from tts_tasks.storage.base import (
    REMOVABLE_FOLDERS,
    ObjectInfo,
    check_hidden_folder,
    check_name,
    check_removable,
    check_replaceable,
    is_allowed,
    is_hidden,
)
from tts_tasks.storage.local_files import (
    TEMP_SUFFIX,
    check_regular,
    is_temporary,
    link_if_absent,
    lstat,
    make_folders,
    new_file,
    open_folder,
    read_regular,
    start_writing,
    walk,
    write_whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T")

_TEMP_FOLDER: Final = ".tts-tmp"
#: How often a folder is made again that `LocalStorage.remove` took away because it was empty.
_FOLDER_TRIES: Final = 10

_ADVICE: Final[dict[int, str]] = {
    errno.ENOSPC: "the disk is full: free space, or point TTS_STORAGE_URL elsewhere",
    errno.EDQUOT: "the quota is used up: free space, or point TTS_STORAGE_URL elsewhere",
    errno.EACCES: "give this user write permission to the folder",
    errno.EPERM: "give this user write permission, on a file system that has hard links",
    errno.EROFS: "the file system is read-only: remount it, or point TTS_STORAGE_URL elsewhere",
    errno.EXDEV: "a folder inside the root is another file system: keep the root on one",
    errno.EOPNOTSUPP: "this file system has no hard links: use another folder, or s3://",
    errno.ELOOP: "symbolic links are not followed below the storage root",
    errno.ENOTDIR: "a part of its folder is a file",
}


class LocalStorage:
    """Objects are files below ``root``.

    A file comes to be in the hidden folder ``.tts-tmp``, is synced, and gets its final name by
    ``link``, which fails when the name is taken, also between machines on NFS; then the folder is
    synced. A crash leaves at most a file in ``.tts-tmp`` (see `sweep`). Every folder on the way
    is opened relative to the one before without following symbolic links, so that no name leads
    out of the root, whoever changes the tree meanwhile. The root itself may be a link.
    """

    def __init__(self, root: Path) -> None:
        #: entries of folders that are on the disk: device, number of the parent, its own
        self._lasting: set[tuple[int, int, int]] = set()
        if not root.is_absolute():
            raise StorageError(f"storage root {root} is not an absolute path")
        try:
            make_folders(root)
            self.root = root.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise _storage_error(error, root) from error
        self._root_uri = self.root.as_uri().rstrip("/")
        if not self.root.is_dir():
            raise StorageError(f"storage root {root} is not a folder")

    def __repr__(self) -> str:
        return f"LocalStorage({str(self.root)!r})"

    def create(self, name: str, data: bytes) -> bool:
        """See `Storage.create`."""
        check_name(name)
        with self._errors(name):
            return _in_lasting_folder(lambda: self._create(name, data))

    def _create(self, name: str, data: bytes) -> bool:
        with self._folder_of(name, create=True) as (folder, leaf):
            if lstat(folder, leaf) is None:
                with self._temporary((data,)) as (temp_folder, temp):
                    created = link_if_absent(temp_folder, temp, folder, leaf)
                    os.fsync(folder)
                    return created
            # Its creator may have died between the link and this.
            os.fsync(folder)
            return False

    def create_many(self, objects: Sequence[tuple[str, bytes]]) -> list[bool]:
        """See `Storage.create_many`: what is written together is synced almost as fast as one."""
        for name, _ in objects:
            check_name(name)
        if len(objects) == 1 or any(name.startswith(REMOVABLE_FOLDERS) for name, _ in objects):
            return [self.create(name, data) for name, data in objects]  # folders may vanish
        with self._errors(objects[0][0] if objects else ""):
            return self._create_many(objects)

    def _create_many(self, objects: Sequence[tuple[str, bytes]]) -> list[bool]:
        with ExitStack() as opened:
            folders: dict[str, int] = {}
            for name, _ in objects:
                folder_name, _ = _split(name)
                if folder_name not in folders:
                    folder, _ = opened.enter_context(self._folder_of(name, create=True))
                    folders[folder_name] = folder
            places = [(folders[_split(name)[0]], _split(name)[1]) for name, _ in objects]
            with self._temporaries([(data,) for _, data in objects]) as temps:
                created = [
                    link_if_absent(*temp, *place) for temp, place in zip(temps, places, strict=True)
                ]
                for folder in folders.values():
                    os.fsync(folder)
        return created

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        check_name(name)
        with self._errors(name):
            try:
                with self._folder_of(name, create=False) as (folder, leaf):
                    return read_regular(folder, leaf, name)
            except FileNotFoundError:
                raise NotFoundError(f"there is no {name} in {self.root}") from None

    def stat(self, name: str) -> ObjectInfo | None:
        """See `Storage.stat`."""
        check_name(name)
        with self._errors(name):
            try:
                with self._folder_of(name, create=False) as (folder, leaf):
                    found = lstat(folder, leaf)
            except FileNotFoundError:
                return None
        if found is None:
            return None
        check_regular(found, name)
        return ObjectInfo(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def taken(self, names: Sequence[str]) -> set[str]:
        """See `Storage.taken`: each folder is opened once."""
        found: set[str] = set()
        for name in names:
            check_name(name)
        for folder_name, together in groupby(names, lambda name: _split(name)[0]):
            inside = f"{folder_name}/." if folder_name else "."
            with (
                self._errors(folder_name),
                suppress(FileNotFoundError),
                self._folder_of(inside, create=False) as (folder, _),
            ):
                found.update(name for name in together if lstat(folder, _split(name)[1]))
        return found

    def replace(self, name: str, data: bytes) -> None:
        """See `Storage.replace`: for reports and sidecars only, never for artifacts."""
        self.write(name, (data,))

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """See `Storage.write`."""
        check_replaceable(name)
        with self._errors(name), self._temporary(pieces) as (temp_folder, temp):
            _in_lasting_folder(lambda: self._move(temp_folder, temp, name))

    def _move(self, temp_folder: int, temp: str, name: str) -> None:
        with self._folder_of(name, create=True) as (folder, leaf):
            os.replace(temp, leaf, src_dir_fd=temp_folder, dst_dir_fd=folder)
            os.fsync(folder)

    def remove(self, names: Iterable[str]) -> None:
        """See `Storage.remove`. Folders that this empties go too."""
        for folder_name, together in groupby(_removable(names), lambda name: _split(name)[0]):
            with self._errors(folder_name), suppress(FileNotFoundError):
                with self._folder_of(f"{folder_name}/.", create=False) as (folder, _):
                    for name in together:
                        with suppress(FileNotFoundError):
                            os.unlink(_split(name)[1], dir_fd=folder)
                    os.fsync(folder)
                self._remove_empty(folder_name)

    def _remove_empty(self, folder: str) -> None:
        """Remove a folder, and those above it inside the removable ones, as far as empty."""
        while folder.startswith(REMOVABLE_FOLDERS):
            try:
                with self._folder_of(folder, create=False) as (parent, leaf):
                    os.rmdir(leaf, dir_fd=parent)
            except OSError:  # it holds something, or somebody else was faster
                return
            folder, _ = _split(folder)

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Storage.list`."""
        if prefix:
            check_name(prefix)
        return (name for name in self._names(prefix) if not is_hidden(name))

    def list_hidden(self, prefix: str) -> Iterator[str]:
        """See `Storage.list_hidden`."""
        check_hidden_folder(prefix)
        return filter(is_allowed, self._names(prefix))

    def _names(self, prefix: str) -> Iterator[str]:
        with self._errors(prefix):
            try:
                with self._folder_of(f"{prefix}/." if prefix else ".", create=False) as (top, _):
                    yield from walk(top, f"{prefix}/" if prefix else "")
            except FileNotFoundError:
                return

    def uri(self, name: str) -> str:
        """See `Storage.uri`: a ``file://`` URL."""
        check_name(name)
        return f"{self._root_uri}/{quote(name)}"

    def path(self, name: str) -> Path:
        """See `Storage.path`; raises `StorageError` where symbolic links lead out of the root."""
        check_name(name)
        path = self.root / name
        with self._errors(name):
            if not path.resolve().is_relative_to(self.root):
                raise StorageError(f"{path} leads out of {self.root} through a symbolic link")
        return path

    def tidy(self) -> None:
        """Remove the folder for temporary files if nobody uses it: in a folder of a person's."""
        with suppress(OSError):
            (self.root / _TEMP_FOLDER).rmdir()

    def sweep(self, older_than_s: float) -> int:
        """See `Storage.sweep`: unfinished files that nobody has written to for that long."""
        removed = 0
        with self._errors(_TEMP_FOLDER):
            try:
                with self._folder_of(f"{_TEMP_FOLDER}/.", create=False) as (folder, _):
                    for leaf in os.listdir(folder):  # noqa: PTH208 - by descriptor
                        found = lstat(folder, leaf)
                        if found is None or not is_temporary(leaf, found):
                            continue
                        # File times are wall-clock times; nothing but tidiness hangs on them.
                        if time.time() - found.st_mtime >= older_than_s:
                            with suppress(FileNotFoundError):
                                os.unlink(leaf, dir_fd=folder)
                                removed += 1
            except FileNotFoundError:
                return 0
        return removed

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to 3.12
            raise _storage_error(error, self.root / name) from error

    @contextmanager
    def _folder_of(
        self, name: str, *, create: bool, durable: bool = True
    ) -> Iterator[tuple[int, str]]:
        """Open the folder that holds a name; yields its descriptor and the last part."""
        *folders, leaf = name.split("/")
        try:
            fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StorageError(f"storage root {self.root} has vanished; is it mounted?") from error
        try:
            for folder in folders:
                child = open_folder(fd, folder, create=create)
                try:
                    if create and durable:
                        self._make_last(fd, child, removable=name.startswith(REMOVABLE_FOLDERS))
                finally:
                    os.close(fd)
                    fd = child
            yield fd, leaf
        finally:
            os.close(fd)

    def _make_last(self, parent: int, child: int, *, removable: bool) -> None:
        """Sync the entry of a folder, once: not only by who made it, who may die before that.

        Of folders that are removed nothing is remembered: a new one may have the same number.
        """
        above, below = os.fstat(parent), os.fstat(child)
        entry = (below.st_dev, above.st_ino, below.st_ino)
        if entry in self._lasting:
            return
        os.fsync(parent)
        if not removable:
            self._lasting.add(entry)

    @contextmanager
    def _temporary(self, pieces: Iterable[bytes]) -> Iterator[tuple[int, str]]:
        """Write and sync a temporary file; yields its folder and its name there."""
        with self._temporaries((pieces,)) as [temp]:
            yield temp

    @contextmanager
    def _temporaries(
        self, contents: Sequence[Iterable[bytes]]
    ) -> Iterator[Sequence[tuple[int, str]]]:
        """Write and sync temporary files; they are gone afterwards, whatever happened."""
        group = uuid.uuid4().hex
        temps = [f"{group}-{number}{TEMP_SUFFIX}" for number in range(len(contents))]
        with self._folder_of(f"{_TEMP_FOLDER}/.", create=True, durable=False) as (folder, _):
            try:
                written: list[int] = []
                try:
                    for temp, pieces in zip(temps, contents, strict=True):
                        written.append(new_file(folder, temp))
                        for piece in pieces:
                            write_whole(written[-1], piece)
                    if len(written) > 1:
                        start_writing(written)
                    for fd in written:
                        os.fsync(fd)
                finally:
                    for fd in written:
                        os.close(fd)
                yield [(folder, temp) for temp in temps]
            finally:
                for temp in temps:
                    with suppress(OSError):
                        os.unlink(temp, dir_fd=folder)


def _in_lasting_folder(effect: Callable[[], T]) -> T:
    """Do it again where `LocalStorage.remove` took the folder away, empty, before its use."""
    for _ in range(_FOLDER_TRIES - 1):
        with suppress(FileNotFoundError):
            return effect()
    return effect()


def _removable(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        check_removable(name)
        yield name


def _split(name: str) -> tuple[str, str]:
    folder, _, leaf = name.rpartition("/")
    return folder, leaf


def _storage_error(error: OSError | RuntimeError, path: Path) -> StorageError:
    if not isinstance(error, OSError) or error.errno is None:
        return StorageError(f"{path}: {error}")
    advice = _ADVICE.get(error.errno)
    return StorageError(f"{path}: {error.strerror}{f'; {advice}' if advice else ''}")
