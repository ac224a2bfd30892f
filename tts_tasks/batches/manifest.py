"""The manifest of a batch: its lines, checked and named, in storage, in chunks.

::

    .tts/batches/<batch>/head.json                first: what the batch is, by create-if-absent
    .tts/batches/<batch>/manifest/00000001.jsonl  chunks of lines, in the order of the file
    .tts/batches/<batch>/manifest.json            last: all lines are in

Redis holds numbers of chunks only, so that a file of millions of lines does not fill it, and
after it was emptied the same submit finds here what was accepted, under the same names.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from tts_tasks import keys
from tts_tasks.errors import ConflictError, NotFoundError, StorageError
from tts_tasks.storage.base import SIDECAR_FOLDER
from tts_tasks.voices.references import uses_of_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tts_tasks.storage import Storage

T = TypeVar("T")

#: A chunk ends before the line with which it would be larger than either.
CHUNK_LINES: Final = 500
CHUNK_BYTES: Final = 256 * 1024

_encoded: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class ManifestLine:
    """One line of the file that is not blank: a job, or why it is none."""

    line: int  #: physical line in the file, from 1
    id: str | None
    name: str = ""  #: the artifact's final name in storage; empty for a rejected line
    chars: int = 0  #: length of the text
    request: dict[str, Any] | None = None  #: the fields that the line gives, checked
    rejected: dict[str, Any] | None = None  #: ``{"field", "reason"}``


@dataclass(frozen=True, slots=True)
class Head:
    """What a batch is. ``created_ms`` is in the names of artifacts without an output name."""

    batch: str
    source: str  #: identifies the content of the file
    output: str  #: prefix of the artifacts in storage
    pool: str
    created_ms: int
    priority: float
    #: what the pool's workers could do when the batch was submitted, as `Offer` writes it: lines
    #: are held to that, so that who submits the file again rejects the same ones
    offers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """What a complete manifest holds."""

    chunks: int
    lines: int
    accepted: int
    rejected: int


_HEAD: Final = TypeAdapter(Head)
_SUMMARY: Final = TypeAdapter(Summary)
_LINE: Final = TypeAdapter(ManifestLine)


def batch_folder(batch_id: str) -> str:
    """Return the hidden folder of a batch; raises `RequestError` for what is no batch id."""
    return f"{SIDECAR_FOLDER}/batches/{keys.check_batch_id(batch_id)}"


class Manifest:
    """The manifest of one batch. Every call raises as the methods of `Storage` do.

    Invariant: what has been created is never changed, so whoever writes the same file again, at
    any time and any number at once, writes the same or is told of the conflict. Proved by
    ``tests/contract/test_manifest.py``.
    """

    def __init__(self, storage: Storage, batch_id: str) -> None:
        self._storage = storage
        self._batch_id = batch_id
        self._folder = batch_folder(batch_id)
        self._head_name = f"{self._folder}/head.json"
        self._summary_name = f"{self._folder}/manifest.json"

    def begin(self, head: Head) -> Head:
        """Create the batch, or find it; returns the head in force, with its ``created_ms``.

        Raises `ConflictError` where the batch is there with another source or output.
        """
        data = _encoded(asdict(head)).encode()
        while True:
            if self._storage.create(self._head_name, data):
                return head
            found = self.head()
            if found is not None:  # else it was removed in between
                break
        if (found.source, found.output) != (head.source, head.output):
            raise ConflictError(
                f"batch {self._batch_id} exists in {self._storage.uri(self._folder)} with other "
                "content or another output; nothing was changed: submit this file under another "
                f"--id, or forget that batch first (ttsctl batch rm {self._batch_id})"
            )
        return found

    def head(self) -> Head | None:
        """Return what the batch is; None if there is none."""
        remedy = f"remove {self._storage.uri(self._folder)} and submit the file again"
        return self._read(self._head_name, _HEAD, remedy)

    def summary(self) -> Summary | None:
        """Return what the manifest holds; None while not all lines are in."""
        return self._read(self._summary_name, _SUMMARY, "remove it and submit the file again")

    def chunk(self, number: int) -> list[ManifestLine]:
        """Return the lines of a chunk (from 1); raises `NotFoundError`."""
        name = self._chunk_name(number)
        *lines, rest = self._storage.read(name).split(b"\n")
        try:
            parsed = [_LINE.validate_json(line) for line in lines]
        except ValidationError as error:
            raise self._unreadable_chunk(name, _first(error)) from error
        if rest or not parsed:
            raise self._unreadable_chunk(name, "it ends in the middle of a line")
        if any((line.request is None) is (line.rejected is None) for line in parsed):
            raise self._unreadable_chunk(name, "a line is neither a job nor rejected")
        return parsed

    def write(
        self,
        lines: Iterable[ManifestLine],
        on_chunk: Callable[[int, list[ManifestLine]], None],
    ) -> Summary:
        """Write the lines down, chunk by chunk, and the summary last.

        ``on_chunk(number, lines)`` is called for each chunk that is in storage, in order, also
        for those that were there already: after a crash the same call goes over the same chunks.
        Other lines under the same number are a `ConflictError`, and nothing is written after
        them. Memory does not grow with the file.
        """
        chunks = total = rejected = 0
        for chunk in self._written(lines):
            chunks += 1
            on_chunk(chunks, chunk)
            total += len(chunk)
            rejected += sum(line.rejected is not None for line in chunk)
        summary = Summary(chunks, total, total - rejected, rejected)
        self._create(self._summary_name, _encoded(asdict(summary)).encode())
        return summary

    def remove(self) -> None:
        """Remove everything that is kept of the batch here, report parts too; not its artifacts.

        The head goes last: a removal that was interrupted leaves a batch whose lines are not all
        in, which a submit completes and another removal removes.
        """
        self._storage.remove([self._summary_name])
        uses = self._storage.list_hidden(uses_of_batch(self._batch_id))
        names = chain(self._storage.list_hidden(self._folder), uses)
        self._storage.remove(name for name in names if name != self._head_name)
        self._storage.remove([self._head_name])

    def _written(self, lines: Iterable[ManifestLine]) -> Iterator[list[ManifestLine]]:
        """Yield each chunk once it is in storage: while one is written, the next one is made."""
        written: list[ManifestLine] = []
        with ThreadPoolExecutor(1) as writer:
            writing = None
            for number, (chunk, data) in enumerate(_chunks(lines), start=1):
                if writing:
                    writing.result()
                writing = writer.submit(self._create, self._chunk_name(number), data)
                if written:
                    yield written
                written = chunk
            if writing:
                writing.result()
                yield written

    def _chunk_name(self, number: int) -> str:
        return f"{self._folder}/manifest/{number:08d}.jsonl"

    def _create(self, name: str, data: bytes) -> None:
        if self._storage.create(name, data) or self._storage.read(name) == data:
            return
        raise ConflictError(
            f"{self._storage.uri(name)} exists with other content: the lines are not those that "
            f"batch {self._batch_id} was submitted with; nothing was overwritten: submit this "
            "file under another --id"
        )

    def _read(self, name: str, adapter: TypeAdapter[T], remedy: str) -> T | None:
        try:
            return adapter.validate_json(self._storage.read(name))
        except NotFoundError:
            return None
        except ValidationError as error:
            where = self._storage.uri(name)
            raise StorageError(f"{where} cannot be read ({_first(error)}); {remedy}") from error

    def _unreadable_chunk(self, name: str, why: str) -> StorageError:
        return StorageError(
            f"{self._storage.uri(name)} cannot be read ({why}); remove it and "
            f"{self._storage.uri(self._summary_name)}, and submit the file of batch "
            f"{self._batch_id} again: the chunk is written anew"
        )


def _chunks(lines: Iterable[ManifestLine]) -> Iterator[tuple[list[ManifestLine], bytes]]:
    chunk: list[ManifestLine] = []
    pieces: list[bytes] = []
    size_bytes = 0
    for line in lines:
        piece = _line_bytes(line)
        if chunk and (len(chunk) == CHUNK_LINES or size_bytes + len(piece) > CHUNK_BYTES):
            yield chunk, b"".join(pieces)
            chunk, pieces, size_bytes = [], [], 0
        chunk.append(line)
        pieces.append(piece)
        size_bytes += len(piece)
    if chunk:
        yield chunk, b"".join(pieces)


def _line_bytes(line: ManifestLine) -> bytes:
    if line.rejected is not None:
        fields = {"line": line.line, "id": line.id, "rejected": line.rejected}
        # Half a surrogate, which UTF-8 cannot hold, becomes "?"; requests have none.
        return f"{_encoded(fields)}\n".encode("utf-8", "replace")
    fields = {
        "line": line.line,
        "id": line.id,
        "name": line.name,
        "chars": line.chars,
        "request": line.request,
    }
    return to_json(fields) + b"\n"


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
