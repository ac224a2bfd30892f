"""A batch file: one JSON object a line, in one of three dialects, streamed and checked at the door.

A bad line never stops the good ones: each line becomes a `BatchLine` or a `RejectedLine` that
says the line, the field and the reason. Only what makes the whole file unreadable raises
(`RequestError` with the field ``file``). Every decided answer stands in
``docs/reference/jsonl.md``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn, Self

from tts_tasks.dialects import DIALECTS, OURS, Dialect, recognise
from tts_tasks.errors import RequestError
from tts_tasks.first_lines import FirstLines
from tts_tasks.names import safe_id
from tts_tasks.requests import SpeechRequest, parse_request
from tts_tasks.voices.names import pinned_sha256
from tts_tasks.wording import did_you_mean, kind, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Longest line that is read, in bytes without its line end. `MAX_TEXT_CHARS` Chinese characters
#: written as ``\uXXXX`` are 12 MB.
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
_SKIP_CHUNK_BYTES: Final = 1024 * 1024

#: Pins what a request names, see `tts_tasks.pinning`; raises `RequestError` for a bad line.
Pin = Callable[[SpeechRequest], SpeechRequest]

_BOM: Final = "\ufeff"
_BOM_BYTES: Final = _BOM.encode()
#: How a file begins that is no UTF-8 text, and what to do with it.
_FOREIGN_FILES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\xff\xfe", "is UTF-16 or UTF-32; save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16; save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "is UTF-32; save it as UTF-8"),
    (b"{\x00", "is UTF-16 or UTF-32; save it as UTF-8"),
    (b"\x00{", "is UTF-16; save it as UTF-8"),
    (b"\x1f\x8b", "is gzip-compressed; decompress it first"),
    (b"PK\x03\x04", "is a zip archive or an office document; a batch is a JSONL text file"),
)


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A good line: its number in the file (from 1), its id, its request."""

    line: int
    id: str
    request: SpeechRequest


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A bad line; ``field`` is named as the file names it, ``line`` when it is all of it."""

    line: int
    id: str | None  #: as given in the line, if that much could be read
    field: str
    reason: str


def read_batch(
    source: Path | BinaryIO, *, audio_root: Path | None = None, pin: Pin | None = None
) -> Iterator[BatchLine | RejectedLine]:
    """Read a batch file line by line; memory does not grow with it.

    Reference audio is looked for below ``audio_root``, by default the folder of the file; with a
    stream and no ``audio_root`` its existence is not checked. ``pin`` is the last check of a
    request, and what it returns is the line's. Raises `RequestError` with the field ``file`` when
    the file cannot be opened, is no UTF-8 text, or holds no line at all.
    """
    if not isinstance(source, Path):
        with _Batch(audio_root, pin) as batch:
            yield from _read_stream(source, batch)
        return
    try:
        stream = source.open("rb")
    except OSError as error:
        raise RequestError("file", f"cannot open {source}: {error.strerror}") from error
    with stream, _Batch(audio_root or source.parent, pin) as batch:
        yield from _read_stream(stream, batch)


def parse_items(
    items: Iterable[Mapping[str, Any]],
    *,
    audio_root: Path | None = None,
    pin: Pin | None = None,
) -> Iterator[BatchLine | RejectedLine]:
    """Check requests that are Python objects already, exactly as `read_batch` checks lines.

    ``line`` is the item's number, from 1. An empty iterable yields nothing.
    """
    with _Batch(audio_root, pin) as batch:
        for number, item in enumerate(items, start=1):
            yield batch.take(number, item)


def file_sha256(path: Path) -> str:
    """Hash a file's bytes as they are, as hex: what tells whether a batch is the same batch.

    Raises `RequestError` with the field ``file``.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RequestError("file", f"cannot read {path}: {error.strerror}") from error


def _read_stream(stream: BinaryIO, batch: _Batch) -> Iterator[BatchLine | RejectedLine]:
    empty = True
    for number, raw in _lines(stream):
        if number == 1 and raw is not None:
            _check_file_start(raw)
        if raw is not None and not raw.removeprefix(_BOM_BYTES).strip():
            continue
        empty = False
        yield _read_line(number, raw, batch)
    if empty:
        raise RequestError("file", "holds no line; a batch is one JSON object a line")


def _read_line(number: int, raw: bytes | None, batch: _Batch) -> BatchLine | RejectedLine:
    if raw is None:
        reason = f"is longer than {MAX_LINE_BYTES} bytes; split its text into several jobs"
        return RejectedLine(number, None, "line", reason)
    try:
        item = _parse_json(raw)
    except RequestError as error:
        return RejectedLine(number, None, error.field, error.reason)
    return batch.take(number, item)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line's number and bytes, or None for one that is too long to be read."""
    number = 0
    try:
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) <= MAX_LINE_BYTES or raw.endswith(b"\n"):
                yield number, raw
                continue
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(_SKIP_CHUNK_BYTES)
            yield number, None
    except OSError as error:
        raise RequestError("file", f"cannot be read: {error.strerror or error}") from error


def _check_file_start(raw: bytes) -> None:
    for start, reason in _FOREIGN_FILES:
        if raw.startswith(start):
            raise RequestError("file", reason)


def _parse_json(raw: bytes) -> object:
    try:
        # A BOM may begin any line: files are joined with `cat`.
        text = raw.decode("utf-8").removeprefix(_BOM).strip()
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of it"
        raise RequestError("line", reason) from None
    if text == "[":
        raise RequestError("line", "begins a JSON array; write one object a line (jq -c '.[]')")
    try:
        return _decode(text)
    except json.JSONDecodeError as error:
        reason = f"is not JSON: {error.msg.removesuffix(' at')} at character {error.colno}"
        raise RequestError("line", reason) from None
    except RecursionError:
        raise RequestError("line", "is nested too deeply; a request is a flat object") from None
    except ValueError:
        # Python refuses to convert integers of more than 4,300 digits.
        raise RequestError("line", "holds a number of thousands of digits") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RequestError(_field_name(key), "is given twice in this line")
            seen.add(key)
    return fields


def _no_constant(name: str) -> NoReturn:
    raise RequestError("line", f"holds {name}, which is not JSON")


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_no_constant
).decode


def _field_name(key: object) -> str:
    return key if isinstance(key, str) and key.isidentifier() and len(key) <= 80 else shown(key)


class _Batch:
    """What the lines so far have settled: the dialect, and who has which id and which name.

    Only good lines take an id or a name, so that a bad line never makes a good one a duplicate.
    """

    def __init__(self, audio_root: Path | None, pin: Pin | None = None) -> None:
        self._audio_root = audio_root
        self._pin = pin
        self._audio_faults: dict[str, str | None] = {}
        self._dialect: Dialect | None = None
        self._dialect_line = 0
        self._ids = FirstLines()
        self._names = FirstLines()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ids.close()
        self._names.close()

    def take(self, line: int, item: object) -> BatchLine | RejectedLine:
        given_id: str | None = None
        try:
            fields = _mapping(item)
            dialect = self._dialect_for(line, fields)
            given_id = _given_id(fields, dialect)
            request = _request(_translate(fields, dialect), dialect)
            self._check_audio(request, dialect)
            request = self._pinned(request, dialect)
            job_id = self._claim(line, given_id, request, dialect)
        except RequestError as error:
            return RejectedLine(line, given_id, error.field, error.reason)
        return BatchLine(line, job_id, request)

    def _dialect_for(self, line: int, item: Mapping[Any, Any]) -> Dialect:
        settled = self._dialect
        if settled and settled.text_field in item and item.keys() <= settled.fields.keys():
            return settled  # as `recognise` would say: no dialect has another one's text field
        guess = recognise(item)
        if self._dialect is None:
            if guess is None:
                known = ", ".join(f"{one.text_field} ({one.name})" for one in DIALECTS)
                raise RequestError("line", f"is of no known dialect; the text is one of {known}")
            self._dialect, self._dialect_line = guess, line
        elif guess not in (None, self._dialect):
            raise RequestError(
                guess.text_field if guess.text_field in item else "line",
                f"belongs to the {guess.name} dialect, but line {self._dialect_line} made this "
                f"file one of the {self._dialect.name} dialect; a file holds one dialect",
            )
        return self._dialect

    def _check_audio(self, request: SpeechRequest, dialect: Dialect) -> None:
        path, root = request.prompt_audio, self._audio_root
        if path is None or root is None or pinned_sha256(path):
            return
        # A batch of a million lines names a handful of voices: look at each file once.
        if path not in self._audio_faults:
            if len(self._audio_faults) >= 4096:
                self._audio_faults.clear()
            self._audio_faults[path] = _audio_fault(root, path)
        if fault := self._audio_faults[path]:
            raise RequestError(dialect.named("prompt_audio"), fault)

    def _pinned(self, request: SpeechRequest, dialect: Dialect) -> SpeechRequest:
        if self._pin is None:
            return request
        try:
            return self._pin(request)
        except RequestError as error:
            raise RequestError(dialect.named(error.field), error.reason) from None

    def _claim(
        self, line: int, given_id: str | None, request: SpeechRequest, dialect: Dialect
    ) -> str:
        job_id = given_id or str(line)
        if (first := self._ids.claim(job_id, line)) != line:
            raise RequestError(
                dialect.named("id"),
                f"{shown(job_id)} is already the id of line {first}"
                if given_id
                else f"is missing, and its default, {job_id}, is already the id of line {first}",
            )
        if request.output_name is not None:
            claimed: list[str] = []
            for kind in _files_of(request):
                name = f"{request.output_name}.{kind}"
                if (first := self._names.claim(name, line)) != line:
                    self._ids.free(job_id)
                    for mine in claimed:
                        self._names.free(mine)
                    raise RequestError(
                        dialect.named("output_name"),
                        f"{shown(name)} is already made by line {first}",
                    )
                claimed.append(name)
        return job_id


def _files_of(request: SpeechRequest) -> tuple[str, ...]:
    """Return the suffixes of the files that are made of a request."""
    return (request.format, *request.subtitles)


def _mapping(item: object) -> Mapping[Any, Any]:
    if not isinstance(item, dict | Mapping):  # dict is the quicker question
        raise RequestError("line", f"must be a JSON object, not {kind(item)}")
    return item


def _translate(item: Mapping[Any, Any], dialect: Dialect) -> dict[str, Any]:
    """Return the request's fields under our names, without the id; null counts as not given."""
    fields: dict[str, Any] = {}
    for key, value in item.items():
        ours = dialect.fields.get(key)
        if ours is None:
            hint = did_you_mean(key, dialect.fields) if isinstance(key, str) else ""
            if not hint and key in OURS.fields:
                hint = "; only the tts-tasks dialect has it"
            reason = f"is no field of the {dialect.name} dialect{hint}"
            raise RequestError(_field_name(key), reason)
        for name in ours if value is not None else ():
            # A field that is the id and the name (uttid) may be a number, as an id may.
            fields[name] = _spelled(value) if key == dialect.id_field else value
    fields.pop("id", None)
    return fields


def _given_id(item: Mapping[Any, Any], dialect: Dialect) -> str | None:
    """Return the id that the line gives; a whole number is as good as a string."""
    field = dialect.id_field
    value = item.get(field) if field else None
    if field is None or value is None:
        return None
    try:
        return safe_id(_spelled(value))
    except ValueError as error:
        raise RequestError(field, str(error)) from None


def _spelled(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
        return str(value)
    raise ValueError(f"must be a string, not {shown(value)}")


def _request(fields: dict[str, Any], dialect: Dialect) -> SpeechRequest:
    try:
        request = parse_request(fields)
    except RequestError as error:
        raise RequestError(dialect.named(error.field), error.reason) from None
    if request.deadline_s is not None:
        raise RequestError("deadline_s", "is for online jobs; a batch is spoken as time allows")
    return request


def _audio_fault(root: Path, path: str) -> str | None:
    """Say what is wrong with a reference audio file; None when nothing is."""
    try:
        file = (root / path).resolve()
        if not file.is_relative_to(root.resolve()):
            return f"leads out of {root} through a symbolic link"
        if not file.is_file():
            return f"there is no file {shown(path, 200)} below {root}"
        size_bytes = file.stat().st_size
    except (OSError, RuntimeError) as error:
        return f"cannot be looked at below {root}: {error}"
    return None if size_bytes else f"{shown(path, 200)} is empty"
