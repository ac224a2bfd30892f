"""`Storage` in memory."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tts_tasks.errors import NotFoundError
from tts_tasks.storage.base import (
    ObjectInfo,
    check_hidden_folder,
    check_name,
    check_removable,
    check_replaceable,
    is_hidden,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from tts_tasks.testing.store import Wire

P = ParamSpec("P")
T = TypeVar("T")


class MemoryStorage:
    """`Storage` in this process. ``objects`` may be shared by several, each with its own wire."""

    def __init__(
        self, objects: dict[str, bytes] | None = None, *, wire: Wire | None = None
    ) -> None:
        self.objects = {} if objects is None else objects
        self._mutex = threading.Lock()
        self._ask: Wire = wire or self._at_once

    def _at_once(self, effect: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._mutex:
            return effect(*args, **kwargs)

    def create(self, name: str, data: bytes) -> bool:
        """See `Storage.create`."""
        check_name(name)
        return self._ask(self._store_create, name, data)

    def create_many(self, objects: Sequence[tuple[str, bytes]]) -> list[bool]:
        """See `Storage.create_many`."""
        return [self.create(name, data) for name, data in objects]

    def _store_create(self, name: str, data: bytes) -> bool:
        if name in self.objects:
            return False
        self.objects[name] = data
        return True

    def _store_read(self, name: str) -> bytes | None:
        return self.objects.get(name)

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        check_name(name)
        data = self._ask(self._store_read, name)
        if data is None:
            raise NotFoundError(f"there is no {name} in memory")
        return data

    def stat(self, name: str) -> ObjectInfo | None:
        """See `Storage.stat`. When an object was modified is not kept: it is now."""
        check_name(name)
        data = self._ask(self._store_read, name)
        return None if data is None else ObjectInfo(name, len(data), datetime.now(UTC))

    def taken(self, names: Sequence[str]) -> set[str]:
        """See `Storage.taken`."""
        return {name for name in names if self.stat(name) is not None}

    def replace(self, name: str, data: bytes) -> None:
        """See `Storage.replace`: for reports and sidecars only, never for artifacts."""
        check_replaceable(name)
        self._ask(self._store_replace, name, data)

    def _store_replace(self, name: str, data: bytes) -> None:
        self.objects[name] = data

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """See `Storage.write`."""
        check_replaceable(name)
        self._ask(self._store_replace, name, b"".join(pieces))

    def remove(self, names: Iterable[str]) -> None:
        """See `Storage.remove`."""
        for name in names:
            check_removable(name)
            self._ask(self._store_delete, name)

    def _store_delete(self, name: str) -> None:
        self.objects.pop(name, None)

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Storage.list`."""
        if prefix:
            check_name(prefix)
        for name in sorted(self.objects):
            if (not prefix or name.startswith(f"{prefix}/")) and not is_hidden(name):
                yield name

    def list_hidden(self, prefix: str) -> Iterator[str]:
        """See `Storage.list_hidden`."""
        check_hidden_folder(prefix)
        return iter([name for name in sorted(self.objects) if name.startswith(f"{prefix}/")])

    def uri(self, name: str) -> str:
        """See `Storage.uri`."""
        check_name(name)
        return f"memory:///{name}"

    def path(self, name: str) -> Path | None:
        """See `Storage.path`: there is none."""
        check_name(name)
        return None

    def sweep(self, older_than_s: float) -> int:  # noqa: ARG002 - the Protocol's
        """See `Storage.sweep`: nothing is ever half-written here."""
        return 0
