"""Named lexicons in storage, in versions that never change.

``.tts/lexicons/<name>/<version>.jsonl``: a line that says what the version is, then the lexicon.

A version is written once, by create-if-absent under the next number; the newest one is what the
name means. A removal is a version too, and the versions before it stay: jobs that were accepted
with one of them are spoken with it, and numbers are not used again.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from pydantic import TypeAdapter, ValidationError

from tts_tasks.errors import NotFoundError, RequestError, StorageError
from tts_tasks.lexicons.forms import parse_lexicon
from tts_tasks.storage.base import SIDECAR_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.lexicons.lexicon import Lexicon
    from tts_tasks.storage import Storage

LEXICONS_FOLDER: Final = f"{SIDECAR_FOLDER}/lexicons"

_SPEC: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,47})"
    r"(?:@(?P<version>[1-9][0-9]{0,7})(?:\+(?P<sha256>[0-9a-f]{64}))?)?"
)
_FILE: Final = re.compile(r"([^/]+)/([0-9]{8})\.jsonl")
#: Nobody adds to a lexicon so often while it is looked up.
_TRIES: Final = 20
#: Lexicons that a worker keeps: jobs of a few batches and callers take turns.
_KEPT: Final = 8


@dataclass(frozen=True, slots=True)
class LexiconName:
    """``NAME``, ``NAME@VERSION``, or a pin: ``NAME@VERSION+SHA256``."""

    name: str
    version: int | None = None
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name; raises `RequestError`."""
        found = _SPEC.fullmatch(text)
        if found is None:
            raise RequestError(
                "lexicon",
                f"{text[:120]!r} is not NAME or NAME@VERSION: letters, digits and . _ - (a letter "
                "or digit first, at most 48), then the number of a version",
            )
        version = int(found["version"]) if found["version"] else None
        return cls(found["name"], version, found["sha256"])


@dataclass(frozen=True, slots=True)
class LexiconVersion:
    """One version of a lexicon."""

    name: str
    version: int
    created_at: str  #: UTC, ISO 8601
    sha256: str = ""  #: of the content
    entries: int = 0
    removed: bool = False  #: from here on there is no such lexicon

    @property
    def spec(self) -> str:
        """Its full name."""
        return f"{self.name}@{self.version}"

    @property
    def pin(self) -> str:
        """What stands in the request of a job that is spoken with it."""
        return f"{self.spec}+{self.sha256}"


_HEADER: Final = TypeAdapter(LexiconVersion)


class LexiconStore:
    """The lexicons of a storage. Every call raises as the methods of `Storage` do.

    What a pin names never changes (rule 5), so two workers with the same pin read the same text
    the same way. Proved by ``tests/contract/test_lexicon_store.py``.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def add(
        self,
        name: str,
        lexicon: Lexicon,
        *,
        on_made: Callable[[LexiconVersion], None] = lambda _made: None,
    ) -> LexiconVersion:
        """Make a lexicon the newest version of its name.

        Where the newest one is the same already, nothing is written, and it is returned.
        ``on_made`` is told of a version only if this call has made it.
        """
        if not lexicon.entries:
            raise RequestError("lexicon", "holds no entry")
        for _ in range(_TRIES):
            newest = self._newest(name)
            if newest is not None and newest.sha256 == lexicon.sha256:
                return newest
            made = LexiconVersion(
                name,
                newest.version + 1 if newest else 1,
                datetime.now(UTC).isoformat(timespec="seconds"),
                lexicon.sha256,
                len(lexicon.entries),
            )
            if self._create(made, lexicon.to_jsonl()):
                on_made(made)
                return made
        raise StorageError(f"lexicon {name} is changed by others all the time; try again")

    def remove(self, name: str) -> LexiconVersion:
        """Let nobody use a lexicon any more; jobs that were accepted with it still do."""
        for _ in range(_TRIES):
            newest = self._newest(name)
            if newest is None or newest.removed:
                raise NotFoundError(f"there is no lexicon {name}; `ttsctl lexicon ls` lists them")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            made = LexiconVersion(name, newest.version + 1, now, removed=True)
            if self._create(made, ""):
                return made
        raise StorageError(f"lexicon {name} is changed by others all the time; try again")

    def find(self, name: str) -> LexiconVersion:
        """Return the version that a name means; raises `RequestError` where there is none."""
        wanted = LexiconName.parse(name)
        found = newest = None
        if wanted.sha256 is None:
            found = newest = self._newest(wanted.name)
        if wanted.version is not None:
            found = self._header(wanted.name, wanted.version)
        # a pin stays good when the name is gone
        if found is None or found.removed or (newest is not None and newest.removed):
            known = ", ".join(one.name for one in self.all()[:20]) or "none"
            raise RequestError("lexicon", f"there is no lexicon {name}; there is: {known}")
        if wanted.sha256 not in (None, found.sha256):
            raise RequestError("lexicon", f"{found.spec} has other content than {wanted.sha256}")
        return found

    def all(self) -> list[LexiconVersion]:
        """Return the newest version of each lexicon, by name."""
        found = (self._newest(name) for name in sorted(self._numbers()))
        return [version for version in found if version is not None and not version.removed]

    def versions(self, name: str) -> list[LexiconVersion]:
        """Return all versions of a lexicon, the oldest first."""
        name = LexiconName.parse(name).name
        numbers = self._numbers(name).get(name, [])
        found = (self._header(name, number) for number in sorted(numbers))
        return [version for version in found if version is not None]

    def read(self, name: str) -> Lexicon:
        """Return the content of what a name or a pin means; raises `RequestError`."""
        version = self.find(name)
        data = self._storage.read(_file_name(version.name, version.version))
        lexicon = parse_lexicon(data.partition(b"\n")[2])
        if lexicon.sha256 != version.sha256:
            where = self._storage.uri(_file_name(version.name, version.version))
            raise StorageError(f"{where} is damaged: its content is not what its first line says")
        return lexicon

    def _newest(self, name: str) -> LexiconVersion | None:
        wanted = LexiconName.parse(name)
        if wanted.version is not None:
            raise RequestError("lexicon", f"{name!r}: say it without a version")
        numbers = self._numbers(name).get(name)
        return self._header(name, max(numbers)) if numbers else None

    def _numbers(self, name: str = "") -> dict[str, list[int]]:
        folder = f"{LEXICONS_FOLDER}/{name}" if name else LEXICONS_FOLDER
        numbers: dict[str, list[int]] = {}
        for path in self._storage.list_hidden(folder):
            if match := _FILE.fullmatch(path.removeprefix(f"{LEXICONS_FOLDER}/")):
                numbers.setdefault(match[1], []).append(int(match[2]))
        return numbers

    def _header(self, name: str, version: int) -> LexiconVersion | None:
        file = _file_name(name, version)
        try:
            line = self._storage.read(file).partition(b"\n")[0]
            return _HEADER.validate_json(line)
        except NotFoundError:
            return None
        except ValidationError as error:
            raise StorageError(
                f"{self._storage.uri(file)} cannot be read ({error.error_count()} faults in its "
                "first line); restore it, or add the lexicon under another name"
            ) from None

    def _create(self, version: LexiconVersion, content: str) -> bool:
        header = json.dumps(asdict(version), ensure_ascii=False)
        data = f"{header}\n{content}".encode()
        return self._storage.create(_file_name(version.name, version.version), data)


class KeptLexicons:
    """The lexicons that a worker was asked for last, by their pins: each is read once."""

    def __init__(self, storage: Storage) -> None:
        self._store = LexiconStore(storage)
        self._kept: OrderedDict[str, Lexicon] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Lexicon:
        """Return a lexicon; raises `RequestError`, and as the methods of `Storage` do."""
        is_pin = LexiconName.parse(name).sha256 is not None
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        lexicon = self._store.read(name)
        if is_pin:  # what else a name means may change
            with self._lock:
                self._kept[name] = lexicon
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return lexicon


def _file_name(name: str, version: int) -> str:
    return f"{LEXICONS_FOLDER}/{name}/{version:08d}.jsonl"
