"""What a batch's report promises, on every storage: composed of parts, whole, safe to open."""

from __future__ import annotations

import csv
import io
import json
import re
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_tasks.batches.manifest import CHUNK_LINES, Head, ManifestLine
from tts_tasks.batches.report import (
    CSV_COLUMNS,
    ReportParts,
    compose,
    line_without_job,
    report_line,
)
from tts_tasks.errors import StorageError
from tts_tasks.ledger import JobMeta, JobRecord
from tts_tasks.storage import LocalStorage
from tts_tasks.testing import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tts_tasks.storage import Storage

_HEAD = Head(batch="b", source="s", output="out/b", pool="default", created_ms=1, priority=1.0)


def _record(state: str, result: dict[str, Any]) -> JobRecord:
    return JobRecord(
        id="b:7",
        state=state,
        attempt=2,
        worker="w1",
        request={},
        meta=JobMeta(queue="q", name="out/b/7.wav", batch="b", line=7, item_id="n7"),
        result=result,
        accepted_ms=1,
        claimed_ms=2,
        finished_ms=3,
        segments_done=1,
        segments=1,
    )


_RESULT = {
    "uri": "file:///store/out/b/7.wav",
    "sha256": "ab" * 32,
    "duration_s": 1.25,
    "worker": "w2",
    "name": "out/b/7.wav",
    "size_bytes": 40_044,
    "sample_rate_hz": 16_000,
    "format": "wav",
    "engine": "espeak",
    "fingerprint": "f1",
    "adopted": True,
    "subtitles": {"srt": "b/7.srt"},
}
_GOOD = report_line(_record("succeeded", _RESULT))
_FAILED = report_line(
    _record("failed", {"error": {"code": "engine", "reason": '词 "x", 第 2 行\n下一行'}})
)
_REJECTED = line_without_job(
    ManifestLine(9, None, rejected={"field": "text", "reason": "is missing"}), "accepted"
)


def _rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def _jsonl(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def _numbered(chunk: int, count: int = CHUNK_LINES) -> list[dict[str, Any]]:
    first = (chunk - 1) * CHUNK_LINES + 1
    return [{**_GOOD, "line": first + place, "id": f"n{place}"} for place in range(count)]


# -- parts -----------------------------------------------------------------------------------------


def test_a_part_is_written_read_and_written_again(open_again: Callable[[], Storage]) -> None:
    """Each chunk has its own part; the last writer of one wins, for all write the same."""
    parts = ReportParts(open_again(), "b")
    assert parts.read(1) is None
    assert not parts.has(1)
    parts.write(1, [_GOOD])
    parts.write(1, [_GOOD, _FAILED, _REJECTED])
    parts.write(3, [])
    again = ReportParts(open_again(), "b")
    assert again.read(1) == [_GOOD, _FAILED, _REJECTED]
    assert again.read(3) == []
    assert [again.has(chunk) for chunk in (1, 2, 3)] == [True, False, True]
    assert ReportParts(open_again(), "c").read(1) is None
    assert list(open_again().list()) == []


@pytest.mark.parametrize("data", [b"{}", b"{\n", b"[]\n", b"\xff\n", b'{"line": 1}\n\n', b"1\n"])
def test_an_unreadable_part_says_which_and_what_to_do(storage: Storage, data: bytes) -> None:
    """Reading it and composing with it name the part; no report is touched."""
    parts = ReportParts(storage, "b")
    for chunk in (1, 2, 3):
        parts.write(chunk, [_GOOD])
    compose(storage, _HEAD, 3)
    before = {name: storage.read(name) for name in storage.list()}
    damaged = ".tts/batches/b/report/00000002.jsonl"
    storage.replace(damaged, data)
    for read in (lambda: parts.read(2), lambda: compose(storage, _HEAD, 3)):
        with pytest.raises(
            StorageError, match=r"cannot be read .*; remove it and.*again"
        ) as caught:
            read()
        assert storage.uri(damaged) in str(caught.value)
    assert {name: storage.read(name) for name in storage.list()} == before


def test_a_missing_part_is_named_and_no_report_is_written(storage: Storage) -> None:
    """A report is composed of all parts or not at all."""
    parts = ReportParts(storage, "b")
    for chunk in (1, 3):
        parts.write(chunk, [_GOOD])
    with pytest.raises(StorageError, match=r"00000002\.jsonl is missing"):
        compose(storage, _HEAD, 3)
    assert list(storage.list()) == []


# -- the report ------------------------------------------------------------------------------------


def test_a_report_is_all_parts_in_order(storage: Storage) -> None:
    """JSONL and CSV have one line for each line of the file, in its order."""
    parts = ReportParts(storage, "b")
    chunks = [_numbered(1), _numbered(2), [_FAILED, _REJECTED]]
    for chunk, lines in reversed(list(enumerate(chunks, start=1))):
        parts.write(chunk, lines)

    uri = compose(storage, _HEAD, 3)

    assert uri == storage.uri("out/b/b.report.jsonl")
    assert sorted(storage.list()) == ["out/b/b.report.csv", "out/b/b.report.jsonl"]
    lines = [line for chunk in chunks for line in chunk]
    assert _jsonl(storage.read("out/b/b.report.jsonl")) == lines
    rows = _rows(storage.read("out/b/b.report.csv"))
    assert [row["line"] for row in rows] == [str(line["line"]) for line in lines]


def test_a_report_is_composed_again_over_the_old_one(storage: Storage) -> None:
    """After a retry the parts have changed, and so does the report."""
    parts = ReportParts(storage, "b")
    parts.write(1, [_FAILED])
    first = compose(storage, _HEAD, 1)
    parts.write(1, [_GOOD])
    assert compose(storage, _HEAD, 1) == first
    assert _jsonl(storage.read("out/b/b.report.jsonl")) == [_GOOD]
    assert _rows(storage.read("out/b/b.report.csv"))[0]["state"] == "succeeded"


def test_a_batch_without_lines_has_a_report_without_lines(storage: Storage) -> None:
    """The CSV has its header even then."""
    compose(storage, _HEAD, 0)
    assert storage.read("out/b/b.report.jsonl") == b""
    assert storage.read("out/b/b.report.csv").decode("utf-8-sig") == ",".join(CSV_COLUMNS) + "\r\n"


def test_the_csv_has_every_field_of_the_jsonl() -> None:
    """Columns are the fields of a report line; an error is its code and its reason."""
    fields = [*_GOOD]
    at = fields.index("error")
    assert [*fields[:at], "error_code", "error_reason", *fields[at + 1 :]] == list(CSV_COLUMNS)


def test_the_cells_of_the_csv(storage: Storage) -> None:
    """Numbers and truths as JSON writes them, nothing for null, quotes and line ends quoted."""
    ReportParts(storage, "b").write(1, [_GOOD, _FAILED, _REJECTED])
    compose(storage, _HEAD, 1)
    good, failed, rejected = _rows(storage.read("out/b/b.report.csv"))
    assert good == {
        **{key: str(value) for key, value in _GOOD.items() if key != "error"},
        "adopted": "true",
        "subtitles": '{"srt": "b/7.srt"}',
        "error_code": "",
        "error_reason": "",
    }
    assert (failed["error_code"], failed["error_reason"]) == ("engine", '词 "x", 第 2 行\n下一行')
    assert (failed["uri"], failed["duration_s"], failed["name"]) == ("", "", "")
    assert (rejected["id"], rejected["attempt"]) == ("", "0")
    assert (rejected["error_code"], rejected["error_reason"]) == ("rejected", "text: is missing")


def test_spreadsheets_know_that_the_csv_is_utf_8(storage: Storage) -> None:
    """It begins with a byte order mark, and only there; lines end as RFC 4180 says."""
    ReportParts(storage, "b").write(1, [_GOOD])
    ReportParts(storage, "b").write(2, [_GOOD])
    compose(storage, _HEAD, 2)
    data = storage.read("out/b/b.report.csv")
    assert data.startswith(b"\xef\xbb\xbfline,")
    assert data.count(b"\xef\xbb\xbf") == 1
    assert data.count(b"\r\n") == data.count(b"\n") == 3


@pytest.mark.parametrize(
    ("given_id", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\uff1dcmd", "'\uff1dcmd"),
        ("\t=1", "'\t'=1"),
        (" =1", "' =1"),
        ("\u00a0=1", "'\u00a0=1"),
        ('"=1', "'\"=1"),
        ("a;=1", "a;'=1"),
        ('a";"=1', 'a";\'"=1'),
        ("a\r\n@x", "a\r\n'@x"),
        ("a\r@x", "a\r'@x"),
        ("plain", "plain"),
        ("a-b+c=d@e", "a-b+c=d@e"),
        ("a,=1", "a,=1"),
        ("2026-11-20", "2026-11-20"),
        ("公告；＝", "公告；＝"),
    ],
)
def test_text_is_never_a_formula(given_id: str, cell: str) -> None:
    """What a spreadsheet would calculate begins with an apostrophe; other text is as it was."""
    storage = MemoryStorage()
    line = {**_FAILED, "id": given_id, "error": {"code": "x", "reason": given_id}}
    ReportParts(storage, "b").write(1, [line])
    compose(storage, _HEAD, 1)
    row = _rows(storage.read("out/b/b.report.csv"))[0]
    assert (row["id"], row["error_reason"]) == (cell, cell)
    assert _jsonl(storage.read("out/b/b.report.jsonl"))[0]["id"] == given_id


_HOSTILE = st.text(
    st.sampled_from("=+-@＝＋－＠'\";,\t\r\n \u00a0a1|") | st.characters(), max_size=12
)


@given(_HOSTILE, _HOSTILE)
def test_no_text_whatever_breaks_out_of_its_cell(one: str, other: str) -> None:
    """Any reader gets the cells back, and none begins like a formula, whatever separates them."""
    storage = MemoryStorage()
    line = {**_FAILED, "id": one, "worker": other, "error": {"code": "x", "reason": one}}
    ReportParts(storage, "b").write(1, [line])
    compose(storage, _HEAD, 1)
    row = _rows(storage.read("out/b/b.report.csv"))[0]
    assert set(row) == set(CSV_COLUMNS)
    for text, cell in ((one, row["id"]), (other, row["worker"]), (one, row["error_reason"])):
        shown = text.encode("utf-8", "replace").decode()
        assert re.sub("'", "", cell) == re.sub("'", "", shown)
        for piece in re.split(r"[;\t\r\n]", cell):
            assert not re.match(r"[\s\"]*[=+\-@＝＋－＠]", piece)


def test_memory_does_not_grow_with_the_batch(tmp_path: Path) -> None:
    """A report of 50,000 lines takes no more memory than a few parts do."""
    storage = LocalStorage(tmp_path)
    parts = ReportParts(storage, "b")
    short = [{"line": place, "id": f"n{place}", "error": None} for place in range(CHUNK_LINES)]
    for chunk in range(1, 101):
        parts.write(chunk, short)
    compose(storage, _HEAD, 2)  # imports and caches
    part_bytes = len(storage.read(".tts/batches/b/report/00000001.jsonl"))
    tracemalloc.start()
    try:
        compose(storage, _HEAD, 100)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    found = storage.stat("out/b/b.report.jsonl")
    assert found is not None
    assert found.size_bytes == 100 * part_bytes
    assert peak_bytes < 40 * part_bytes
