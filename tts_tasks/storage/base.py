"""What a storage is: the Protocol, and the check of names that every storage makes again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence  # noqa: TC003 - part of the Protocol users may resolve
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - a dataclass field
from pathlib import Path  # noqa: TC003 - part of the Protocol users may resolve
from typing import Final, Protocol, runtime_checkable

from tts_tasks.errors import StorageError
from tts_tasks.formats import AUDIO_FORMATS

#: S3 takes keys of 1,024 bytes; half of that leaves room for the storage's own prefix.
MAX_NAME_BYTES: Final = 512
#: Linux takes 255 bytes a part; a sidecar adds ``.json``.
MAX_PART_BYTES: Final = 250
#: The only hidden folder in storage names: what is known of the artifacts beside it.
SIDECAR_FOLDER: Final = ".tts"
#: Where objects may be removed: what is kept of batches and voices, and what is not published yet.
REMOVABLE_FOLDERS: Final = tuple(
    f"{SIDECAR_FOLDER}/{folder}/" for folder in ("batches", "staging", "voices")
)

_FORBIDDEN = re.compile("[\x00-\x1f\x7f\\\\\ud800-\udfff]")
# Names in which nothing is wrong, if they are short: the most of them by far.
_PLAIN_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_PLAIN = re.compile(rf"(?:(?:{_PLAIN_PART}|{re.escape(SIDECAR_FOLDER)})/)*{_PLAIN_PART}")
_AUDIO_SUFFIXES = tuple(f".{name}" for name in AUDIO_FORMATS)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of a stored object without reading it."""

    name: str
    size_bytes: int
    modified: datetime  #: in UTC, by the storage's clock


@runtime_checkable
class Storage(Protocol):
    """Named objects under one root. Names are relative, ``/`` between the parts.

    Every method raises `StorageError` when the storage refuses (permission, space, a name that is
    not allowed) and `UnavailableError` when it cannot be reached.
    """

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object, atomically and durably, if nothing has the name.

        True: this call created it. False: something is there, untouched (after a lost reply of
        the network it may be this very call's). Either way what is there is whole and durable.
        """
        ...

    def create_many(self, objects: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Do as `create` with each of some small objects (name, bytes), and wait for all at once.

        Returns what `create` would, in their order. After an error some may have been created.
        """
        ...

    def read(self, name: str) -> bytes:
        """Return an object's bytes; raises `NotFoundError`."""
        ...

    def stat(self, name: str) -> ObjectInfo | None:
        """Describe an object; None when there is none."""
        ...

    def taken(self, names: Sequence[str]) -> set[str]:
        """Return those of the names that there is something under: `stat`, for many at once."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write an object, atomically and durably, over what may be there.

        For reports and sidecars only, never for artifacts: names with an audio suffix are refused.
        """
        ...

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Do as `replace` with an object that comes in pieces; memory does not grow with it.

        An error that ``pieces`` raises leaves everything as it was, and is passed on.
        """
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects below `REMOVABLE_FOLDERS`, durably; one that is not there is fine.

        Any other name raises `StorageError`: artifacts and their sidecars are never removed.
        Names before it may be gone by then.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the names below a folder, in no promised order, hidden ones left out."""
        ...

    def list_hidden(self, prefix: str) -> Iterator[str]:
        """Yield the names below a folder inside the root's ``.tts``, in no promised order."""
        ...

    def uri(self, name: str) -> str:
        """Return where the object is, for people and other programs."""
        ...

    def path(self, name: str) -> Path | None:
        """Return the object's path on this machine; None when it is elsewhere."""
        ...

    def sweep(self, older_than_s: float) -> int:
        """Remove what writers that died left behind; returns how many."""
        ...


def check_name(name: str) -> None:
    """Refuse a name that could leave the root or mean something else; raises `StorageError`."""
    if len(name) <= MAX_PART_BYTES and _PLAIN.fullmatch(name):
        return
    if reason := _name_fault(name):
        text = repr(name) if len(name) <= 200 else f"{name[:200]!r}..."
        raise StorageError(f"storage name {text} {reason}")


def is_allowed(name: str) -> bool:
    """Tell whether `check_name` takes a name: others may lie about in a folder."""
    return _name_fault(name) is None


def check_replaceable(name: str) -> None:
    """Refuse to overwrite an artifact (rule 4); raises `StorageError`."""
    check_name(name)
    if name.lower().endswith(_AUDIO_SUFFIXES):
        raise StorageError(f"{name} is an artifact: artifacts are created once, never replaced")


def check_removable(name: str) -> None:
    """Refuse to remove what may be an artifact or its sidecar (rule 4); raises `StorageError`."""
    check_name(name)
    if not name.startswith(REMOVABLE_FOLDERS):
        raise StorageError(
            f"{name} is not below {' or '.join(REMOVABLE_FOLDERS)}: nothing else is ever removed"
        )


def check_hidden_folder(prefix: str) -> None:
    """Refuse what is no folder inside the root's ``.tts``; raises `StorageError`."""
    check_name(prefix)
    if not prefix.startswith(f"{SIDECAR_FOLDER}/"):
        raise StorageError(f"{prefix} is no folder inside {SIDECAR_FOLDER}")


def is_hidden(name: str) -> bool:
    """Tell whether a name is one of ours for bookkeeping, not something that was published."""
    return any(part.startswith(".") for part in name.split("/"))


def _name_fault(name: str) -> str | None:
    if found := _FORBIDDEN.search(name):
        return f"holds U+{ord(found.group()):04X} at character {found.start() + 1}"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    parts = name.split("/")
    if "" in parts:
        return "is absolute, empty, or holds an empty part"
    for place, part in enumerate(parts):
        if part.startswith(".") and (part != SIDECAR_FOLDER or place == len(parts) - 1):
            return f"holds the part {part!r}; '.', '..' and hidden parts are refused"
        if len(part.encode()) > MAX_PART_BYTES:
            return f"holds a part longer than {MAX_PART_BYTES} bytes"
    return None
