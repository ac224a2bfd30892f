"""What a batch's manifest promises, on every storage: resumable, unchangeable, bounded."""

from __future__ import annotations

import io
import json
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_tasks.batches.manifest import (
    CHUNK_BYTES,
    CHUNK_LINES,
    Head,
    Manifest,
    ManifestLine,
    Summary,
)
from tts_tasks.batches.report import ReportParts
from tts_tasks.batches.submission import manifest_lines
from tts_tasks.errors import ConflictError, NotFoundError, RequestError, StorageError
from tts_tasks.jsonl import BatchLine, RejectedLine, read_batch
from tts_tasks.requests import parse_request
from tts_tasks.storage import LocalStorage, artifact_name
from tts_tasks.testing import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tts_tasks.storage import Storage

_HEAD = Head(
    batch="b", source="s1", output="out/b", pool="default", created_ms=1_795_000_000_123, priority=2
)


def _line(number: int, text: str = "你好") -> ManifestLine:
    return ManifestLine(
        line=number,
        id=f"n{number}",
        name=f"out/b/{number}.wav",
        chars=len(text),
        request={"text": text, "speed": 1.5},
    )


def _bad(number: int) -> ManifestLine:
    return ManifestLine(number, None, rejected={"field": "text", "reason": "is missing"})


def _lines(count: int) -> Iterator[ManifestLine]:
    """Yield so many lines, every tenth one rejected."""
    return (_bad(n) if n % 10 == 0 else _line(n) for n in range(1, count + 1))


class _Chunks:
    """Collects what `write` tells, and checks that it is in storage by then."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.seen: list[tuple[int, list[ManifestLine]]] = []

    def __call__(self, number: int, lines: list[ManifestLine]) -> None:
        assert self._manifest.chunk(number) == lines
        self.seen.append((number, lines))

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.seen]

    @property
    def lines(self) -> list[ManifestLine]:
        return [line for _, lines in self.seen for line in lines]


def _write(manifest: Manifest, lines: Iterable[ManifestLine]) -> tuple[Summary, _Chunks]:
    chunks = _Chunks(manifest)
    return manifest.write(lines, chunks), chunks


# -- head ------------------------------------------------------------------------------------------


def test_a_batch_begins_once(open_again: Callable[[], Storage]) -> None:
    """Whoever begins it again, in another process, gets the head in force."""
    assert Manifest(open_again(), "b").head() is None
    assert Manifest(open_again(), "b").begin(_HEAD) == _HEAD
    later = replace(_HEAD, created_ms=_HEAD.created_ms + 5000, priority=1, pool="other")
    assert Manifest(open_again(), "b").begin(later) == _HEAD
    assert Manifest(open_again(), "b").head() == _HEAD
    assert Manifest(open_again(), "c").head() is None


def test_the_head_is_where_the_design_says(storage: Storage) -> None:
    """Other programs may read it: plain JSON with these fields."""
    Manifest(storage, "b").begin(_HEAD)
    assert json.loads(storage.read(".tts/batches/b/head.json")) == {
        "batch": "b",
        "source": "s1",
        "output": "out/b",
        "pool": "default",
        "created_ms": 1_795_000_000_123,
        "priority": 2,
        "offers": [],
    }


@pytest.mark.parametrize("change", [{"source": "s2"}, {"output": "elsewhere"}])
def test_another_batch_under_the_same_id_is_a_conflict(
    storage: Storage, change: dict[str, Any]
) -> None:
    """Other content or another output under a taken id changes nothing."""
    manifest = Manifest(storage, "b")
    manifest.begin(_HEAD)
    with pytest.raises(ConflictError, match=r"batch b exists in .*another --id"):
        manifest.begin(replace(_HEAD, **change))
    assert manifest.head() == _HEAD


def test_racing_beginners_agree(open_again: Callable[[], Storage]) -> None:
    """Of ten that begin a batch at the same moment all get one head."""
    heads = [replace(_HEAD, created_ms=ms) for ms in range(10)]
    barrier = threading.Barrier(len(heads))

    def begin(head: Head) -> Head:
        manifest = Manifest(open_again(), "b")
        barrier.wait(30)
        return manifest.begin(head)

    with ThreadPoolExecutor(len(heads)) as pool:
        in_force = set(pool.map(begin, heads))
    assert len(in_force) == 1
    assert in_force <= set(heads)


@pytest.mark.parametrize("batch_id", ["", "a/b", "../b", ".b", "a b", "x" * 81])
def test_what_is_no_batch_id_gets_no_manifest(batch_id: str) -> None:
    """An id leads into a folder of its own, nowhere else."""
    with pytest.raises(RequestError):
        Manifest(MemoryStorage(), batch_id)
    with pytest.raises(RequestError):
        ReportParts(MemoryStorage(), batch_id)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b'{"batch": "b"}', b'{"chunks": "many", "lines": 1}']
)
def test_an_unreadable_head_or_summary_says_which_and_what_to_do(
    storage: Storage, data: bytes
) -> None:
    """Damaged by hand or by a disk: never taken for absent, never overwritten."""
    manifest = Manifest(storage, "b")
    storage.create(".tts/batches/b/head.json", data)
    storage.create(".tts/batches/b/manifest.json", data)
    for read in (manifest.head, lambda: manifest.begin(_HEAD)):
        with pytest.raises(StorageError, match=r"head\.json cannot be read .* submit the file"):
            read()
    with pytest.raises(StorageError, match=r"manifest\.json cannot be read .* remove it and"):
        manifest.summary()


# -- lines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, CHUNK_LINES - 1, CHUNK_LINES, CHUNK_LINES + 1, 1234])
def test_lines_are_written_in_chunks_and_read_back(storage: Storage, count: int) -> None:
    """Every line is in one chunk, in order; the summary counts them and comes last."""
    manifest = Manifest(storage, "b")
    assert manifest.summary() is None

    summary, chunks = _write(manifest, _lines(count))

    assert chunks.lines == list(_lines(count))
    assert chunks.numbers == list(range(1, summary.chunks + 1))
    assert [len(lines) for _, lines in chunks.seen[:-1]] == [CHUNK_LINES] * (summary.chunks - 1)
    assert summary == Summary(-(-count // CHUNK_LINES), count, count - count // 10, count // 10)
    assert manifest.summary() == summary
    assert [line for number in chunks.numbers for line in manifest.chunk(number)] == chunks.lines
    with pytest.raises(NotFoundError, match=f"manifest/{summary.chunks + 1:08d}"):
        manifest.chunk(summary.chunks + 1)
    assert list(storage.list()) == []  # nothing of it is among the artifacts


def test_a_chunk_is_jsonl_as_the_design_says(storage: Storage) -> None:
    """One object a line: a job with its name and request, or why it is none."""
    _write(Manifest(storage, "b"), [_line(1), _bad(2)])
    data = storage.read(".tts/batches/b/manifest/00000001.jsonl")
    assert [json.loads(line) for line in data.split(b"\n")[:-1]] == [
        {
            "line": 1,
            "id": "n1",
            "name": "out/b/1.wav",
            "chars": 2,
            "request": {"text": "你好", "speed": 1.5},
        },
        {"line": 2, "id": None, "rejected": {"field": "text", "reason": "is missing"}},
    ]
    assert "你好".encode() in data
    assert json.loads(storage.read(".tts/batches/b/manifest.json")) == {
        "chunks": 1,
        "lines": 2,
        "accepted": 1,
        "rejected": 1,
    }


def test_a_huge_line_has_a_chunk_of_its_own(storage: Storage) -> None:
    """A line that is larger than a chunk takes no other with it, before or behind."""
    lines = [
        _line(1),
        _line(2, "长" * CHUNK_BYTES),
        _line(3),
        _line(4),
        _line(5, "x" * CHUNK_BYTES),
    ]
    summary, chunks = _write(Manifest(storage, "b"), lines)
    assert [[line.line for line in some] for _, some in chunks.seen] == [[1], [2], [3, 4], [5]]
    assert chunks.lines == lines
    assert summary.chunks == 4


def test_chunks_stay_below_their_size(storage: Storage) -> None:
    """Lines of middle size make chunks of fewer lines, none too large or needlessly small."""
    size = CHUNK_BYTES // 10
    summary, _ = _write(Manifest(storage, "b"), (_line(n, "x" * size) for n in range(1, 31)))
    sizes = [
        len(storage.read(f".tts/batches/b/manifest/{number:08d}.jsonl"))
        for number in range(1, summary.chunks + 1)
    ]
    assert max(sizes) <= CHUNK_BYTES
    assert min(sizes[:-1]) > CHUNK_BYTES - size * 2


def test_any_text_comes_back_as_it_was(storage: Storage) -> None:
    """Line separators, quotes, characters outside the BMP; half a surrogate becomes "?"."""
    lines = [
        _line(1, "a\u2028b\x85c\n\r\"\\'😀\u0301\x7f"),
        ManifestLine(2, None, rejected={"field": "x", "reason": "\udfff😀"}),
    ]
    manifest = Manifest(storage, "b")
    manifest.write(lines, lambda *_: None)
    assert manifest.chunk(1) == [
        lines[0],
        replace(lines[1], rejected={"field": "x", "reason": "?😀"}),
    ]


@given(st.lists(st.integers(1, CHUNK_BYTES // 2) | st.sampled_from([0, CHUNK_BYTES * 2])))
def test_chunking_loses_nothing(sizes: list[int]) -> None:
    """Whatever the sizes of the lines are, their order and number stay, and chunks are bounded."""
    storage = MemoryStorage()
    lines = [_line(number, "x" * size) for number, size in enumerate(sizes, start=1)]
    _, chunks = _write(Manifest(storage, "b"), lines)
    assert chunks.lines == lines
    for number, some in chunks.seen:
        size = len(storage.read(f".tts/batches/b/manifest/{number:08d}.jsonl"))
        assert len(some) == 1 or (len(some) <= CHUNK_LINES and size <= CHUNK_BYTES)


# -- again -----------------------------------------------------------------------------------------


class _DiedError(Exception):
    pass


def test_a_write_that_died_is_resumed(open_again: Callable[[], Storage]) -> None:
    """After a crash between chunks the same call goes over them, and completes the manifest."""

    def die(number: int, lines: list[ManifestLine]) -> None:
        if number == 2:
            raise _DiedError

    with pytest.raises(_DiedError):
        Manifest(open_again(), "b").write(_lines(1600), die)
    manifest = Manifest(open_again(), "b")
    assert manifest.summary() is None
    assert [len(manifest.chunk(number)) for number in (1, 2)] == [CHUNK_LINES, CHUNK_LINES]
    with pytest.raises(NotFoundError):
        manifest.chunk(4)

    summary, chunks = _write(manifest, _lines(1600))
    assert chunks.numbers == [1, 2, 3, 4]
    assert chunks.lines == list(_lines(1600))
    assert manifest.summary() == summary == Summary(4, 1600, 1440, 160)


def test_a_source_that_fails_leaves_a_manifest_that_is_not_complete(storage: Storage) -> None:
    """A disk that cannot be read on: the chunks so far stay, the summary is not written."""

    def lines() -> Iterator[ManifestLine]:
        yield from _lines(700)
        raise RequestError("file", "cannot be read")

    manifest = Manifest(storage, "b")
    with pytest.raises(RequestError):
        manifest.write(lines(), lambda *_: None)
    assert len(manifest.chunk(1)) == CHUNK_LINES
    assert manifest.summary() is None


def test_a_complete_manifest_is_written_again_without_change(storage: Storage) -> None:
    """The same file submitted again goes over the same chunks and writes none."""
    manifest = Manifest(storage, "b")
    first, _ = _write(manifest, _lines(1100))
    names = sorted(storage.list_hidden(".tts/batches/b"))
    before = {name: storage.read(name) for name in names}
    again, chunks = _write(manifest, _lines(1100))
    assert again == first
    assert chunks.numbers == [1, 2, 3]
    assert {name: storage.read(name) for name in names} == before
    assert sorted(storage.list_hidden(".tts/batches/b")) == names


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ([*_lines(599), _line(600, "other")], [1]),
        ([_line(1, "other"), *list(_lines(600))[1:]], []),
        (list(_lines(599)), [1]),
        (list(_lines(1001)), [1]),
    ],
    ids=["last", "first", "fewer", "more"],
)
def test_other_lines_under_the_same_id_are_a_conflict(
    storage: Storage, other: list[ManifestLine], told: list[int]
) -> None:
    """What is there stays, and `on_chunk` hears of nothing that is not in storage."""
    manifest = Manifest(storage, "b")
    _write(manifest, _lines(600))
    chunks = _Chunks(manifest)
    with pytest.raises(ConflictError, match=r"exists with other content.*another --id"):
        manifest.write(other, chunks)
    assert chunks.numbers == told
    assert manifest.chunk(1) + manifest.chunk(2) == list(_lines(600))


def test_two_that_write_the_same_file_at_once_agree(open_again: Callable[[], Storage]) -> None:
    """Two submitters of one file do each other no harm; both see every chunk."""
    barrier = threading.Barrier(2)

    def submit(_: int) -> tuple[Summary, list[int]]:
        manifest = Manifest(open_again(), "b")
        barrier.wait(30)
        summary, chunks = _write(manifest, _lines(2600))
        return summary, chunks.numbers

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(submit, range(2))
    assert first == second == (Summary(6, 2600, 2340, 260), [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{\n",
        b"[]\n",
        b'{"line": 1, "id": "a", "request": {}}',
        b'{"line": 1, "id": "a"}\n',
        b'{"line": "x", "id": "a", "request": {}}\n',
        b'{"line": 1, "id": "a", "request": {}, "rejected": {}}\n',
        b'{"line": 1, "id": "a", "request": {}}\n\xff\n',
    ],
)
def test_an_unreadable_chunk_says_which_and_what_to_do(storage: Storage, data: bytes) -> None:
    """The message names the chunk and the summary to remove; having done so, a submit heals it."""
    manifest = Manifest(storage, "b")
    manifest.begin(_HEAD)
    _write(manifest, _lines(1100))
    chunk, summary = ".tts/batches/b/manifest/00000002.jsonl", ".tts/batches/b/manifest.json"
    storage.replace(chunk, data)
    with pytest.raises(StorageError, match=r"cannot be read .*; remove it and .*again") as caught:
        manifest.chunk(2)
    assert storage.uri(chunk) in str(caught.value)
    assert storage.uri(summary) in str(caught.value)
    assert manifest.chunk(1) == list(_lines(1100))[:500]

    storage.remove([chunk, summary])
    _, chunks = _write(manifest, _lines(1100))
    assert chunks.lines == list(_lines(1100))


# -- removal ---------------------------------------------------------------------------------------


def test_a_removed_batch_leaves_nothing_and_takes_nothing_else(storage: Storage) -> None:
    """Head, chunks, summary and report parts go; other batches and artifacts stay."""
    for batch in ("b", "bb"):
        manifest = Manifest(storage, batch)
        manifest.begin(replace(_HEAD, batch=batch))
        _write(manifest, _lines(600))
        ReportParts(storage, batch).write(1, [{"line": 1}])
    storage.create("out/b/1.wav", b"sound")
    storage.replace("out/b/b.report.jsonl", b"{}\n")

    Manifest(storage, "b").remove()
    Manifest(storage, "b").remove()

    assert list(storage.list_hidden(".tts/batches/b")) == []
    assert len(list(storage.list_hidden(".tts/batches/bb"))) == 5
    assert sorted(storage.list()) == ["out/b/1.wav", "out/b/b.report.jsonl"]
    assert Manifest(storage, "b").begin(replace(_HEAD, source="s2")).source == "s2"


@pytest.mark.parametrize("steps", [1, 2])
def test_a_removal_that_died_can_be_submitted_or_removed_again(steps: int) -> None:
    """The head goes last, so that what is left is a batch that is not complete."""

    class Dying(MemoryStorage):
        steps_left = steps

        def remove(self, names: Iterable[str]) -> None:
            if not self.steps_left:
                raise _DiedError
            self.steps_left -= 1
            super().remove(names)

    storage = Dying()
    manifest = Manifest(storage, "b")
    manifest.begin(_HEAD)
    _write(manifest, _lines(1100))
    with pytest.raises(_DiedError):
        manifest.remove()
    assert manifest.head() == _HEAD
    assert manifest.summary() is None

    assert manifest.begin(replace(_HEAD, created_ms=1)) == _HEAD
    _, chunks = _write(manifest, _lines(1100))
    assert chunks.lines == list(_lines(1100))
    storage.steps_left = 3
    manifest.remove()
    assert storage.objects == {}


# -- size ------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """50,000 lines take no more memory than a few chunks do."""
    manifest = Manifest(LocalStorage(tmp_path), "b")
    manifest.write(_lines(2000), lambda *_: None)  # imports and caches
    manifest.remove()
    tracemalloc.start()
    try:
        summary = manifest.write(_lines(50_000), lambda *_: None)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert summary.lines == 50_000
    assert peak_bytes < 5 * CHUNK_BYTES


# -- from the lines of a file ----------------------------------------------------------------------

_FILE = (
    '{"id": "a", "text": "你好。", "output_name": "ch1/001", "format": "mp3", "speed": 1}\n'
    '{"text": "再见", "sample_rate": 24000, "requires": {"engine": "espeak"}, "lexicon": "bank"}\n'
    "oops\n"
    "\n"
    '{"id": "x/1", "text": "a"}\n'
    '{"id": "a", "text": "b"}\n'
)


def test_lines_are_named_and_keep_what_they_give() -> None:
    """Names are those of `artifact_name` at the head's time; the request reads back the same."""
    lines = list(read_batch(io.BytesIO(_FILE.encode())))
    made = list(manifest_lines(lines, _HEAD))
    assert made[0] == ManifestLine(
        1,
        "a",
        "out/b/ch1/001.mp3",
        3,
        {"text": "你好。", "output_name": "ch1/001", "format": "mp3", "speed": 1.0},
    )
    assert made[1].request == {
        "text": "再见",
        "sample_rate": 24000,
        "requires": {"engine": "espeak"},
        "lexicon": "bank",
    }
    assert made[2] == ManifestLine(
        3,
        None,
        rejected={"field": "line", "reason": made[2].rejected["reason"]},  # type: ignore[index]
    )
    assert [line.line for line in made] == [1, 2, 3, 5, 6]
    assert made[4].rejected == {"field": "id", "reason": "'a' is already the id of line 1"}
    assert made[4].id == "a"
    for source, line in zip(lines, made, strict=True):
        if isinstance(source, RejectedLine):
            assert line.request is None
            continue
        assert isinstance(source, BatchLine)
        assert line.request is not None
        assert parse_request(line.request) == source.request
        assert line.name == artifact_name(
            prefix=_HEAD.output,
            output_name=source.request.output_name,
            audio_format=source.request.format,
            accepted_at=datetime.fromtimestamp(_HEAD.created_ms / 1000, UTC),
            job_id=source.id,
        )


@given(
    st.lists(
        st.binary(max_size=20)
        | st.sampled_from(
            [
                b'{"text": "a"}\n',
                b'{"text": "a\\ud800"}\n',
                b'{"id": "\\udc00", "text": "a"}\n',
                b'{"\\ud800": 1, "text": "a"}\n',
                b'{"text": "a", "format": "\\ud800"}\n',
                b'{"text": "a", "requires": {"\\ud800": "\\udfff"}}\n',
                b'{"text": "a", "output_name": "\\ud83d"}\n',
            ]
        )
    )
)
def test_no_line_whatever_stops_the_good_ones(pieces: list[bytes]) -> None:
    """Whatever a file holds, each of its lines gets into the manifest, and out again."""
    file = b"".join(pieces) + b'\n{"text": "good"}\n'
    foreign = (b"\xff\xfe", b"\xfe\xff", b"\x00", b"{\x00", b"\x1f\x8b", b"PK\x03\x04")
    if file.startswith(foreign):
        return  # no batch file at all
    lines = list(read_batch(io.BytesIO(file)))
    _, chunks = _write(Manifest(MemoryStorage(), "b"), manifest_lines(lines, _HEAD))
    assert [(line.line, line.id) for line in chunks.lines] == [
        (line.line, line.id) for line in lines
    ]


def test_a_resubmitted_file_has_the_names_of_the_head_in_force(
    open_again: Callable[[], Storage],
) -> None:
    """Hours later, in another process: the same names, so the same chunks, so no conflict."""

    def submit(created_ms: int) -> list[ManifestLine]:
        manifest = Manifest(open_again(), "b")
        head = manifest.begin(replace(_HEAD, created_ms=created_ms))
        lines = read_batch(io.BytesIO(_FILE.encode()))
        return _write(manifest, manifest_lines(lines, head))[1].lines

    first = submit(1_795_000_000_123)
    assert submit(1_795_009_999_999) == first
    accepted = datetime.fromtimestamp(1_795_000_000, UTC)
    assert first[1].name == f"out/b/tts_{accepted:%Y%m%dT%H%M%SZ}_2.wav"
