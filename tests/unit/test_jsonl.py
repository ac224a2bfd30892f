"""Reading a batch: dialects, bad lines, duplicates, encodings, sizes, streaming."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_tasks.dialects import DIALECTS, recognise
from tts_tasks.errors import RequestError
from tts_tasks.jsonl import (
    MAX_LINE_BYTES,
    BatchLine,
    RejectedLine,
    file_sha256,
    parse_items,
    read_batch,
)
from tts_tasks.requests import MAX_TEXT_CHARS

if TYPE_CHECKING:
    from pathlib import Path


def _read(content: bytes | str) -> list[BatchLine | RejectedLine]:
    data = content.encode() if isinstance(content, str) else content
    return list(read_batch(io.BytesIO(data)))


def _lines(*items: dict[str, Any]) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def _good(line: BatchLine | RejectedLine) -> BatchLine:
    assert isinstance(line, BatchLine), line
    return line


def _bad(line: BatchLine | RejectedLine) -> RejectedLine:
    assert isinstance(line, RejectedLine), line
    return line


def test_our_dialect_reads_every_field() -> None:
    """Each field of a request can be given in a line of our dialect."""
    fields = {
        "text": "请到三号窗口。",
        "voice": "xiaoyu",
        "lexicon": "bank",
        "speed": 1.1,
        "format": "mp3",
        "sample_rate": 16000,
        "seed": 7,
        "output_name": "bank/001",
        "requires": {"engine": "espeak", "language": "zh", "features": ["speed"]},
        "prompt_text": "你好",
        "prompt_audio": "voices/a.wav",
        "model": "default",
        "stream": True,
        "peak_limit_dbfs": -1.5,
        "gain_db": 3.0,
        "trim_silence": True,
        "fade_ms": 5.0,
        "sentence_pause_ms": 300.0,
        "paragraph_pause_ms": 900.0,
        "subtitles": ["srt", "vtt"],
    }
    line = _good(_read(_lines({"id": "a", **fields}))[0])
    assert (line.line, line.id) == (1, "a")
    assert json.loads(line.request.model_dump_json(exclude_defaults=False)) == {
        **fields,
        "loudness_lufs": None,
        "deadline_s": None,
        "requires": {
            **fields["requires"],  # type: ignore[dict-item]
            **dict.fromkeys(("pool", "model_version", "sample_rate_hz")),
        },
    }


def test_the_articles_dialect_is_translated() -> None:
    """`input_text` is the text; the id is the line's number."""
    item = {
        "prompt_text": "你好",
        "prompt_audio": "p.wav",
        "input_text": "再见",
        "output_name": "b.wav",
    }
    line = _good(_read(_lines(item))[0])
    assert line.id == "1"
    request = line.request
    assert (request.text, request.prompt_text, request.prompt_audio, request.output_name) == (
        "再见", "你好", "p.wav", "b",
    )  # fmt: skip


def test_the_glm_tts_dialect_is_translated() -> None:
    """`uttid` is both the id and the output name; a number will do."""
    items: list[dict[str, Any]] = [
        {"uttid": "u1", "prompt_text": "你好", "prompt_speech": "p.wav", "syn_text": "再见"},
        {"uttid": 7, "syn_text": "再见"},
        {"syn_text": "再见"},
    ]
    first, second, third = map(_good, _read(_lines(*items)))
    assert (first.id, first.request.output_name, first.request.prompt_audio) == (
        "u1",
        "u1",
        "p.wav",
    )
    assert (second.id, second.request.output_name) == ("7", "7")
    assert (third.id, third.request.output_name) == ("3", None)


@pytest.mark.parametrize(
    ("item", "field", "reason"),
    [
        ({"input_text": "。"}, "input_text", "nothing to speak"),
        ({"input_text": "a", "prompt_audio": "/a.wav"}, "prompt_audio", "absolute"),
        ({"uttid": "a/../b", "syn_text": "a"}, "uttid", "'..'"),
        ({"uttid": True, "syn_text": "a"}, "uttid", "must be a string, not True"),
        ({"uttid": "a", "syn_text": "a", "prompt_speech": "x://y"}, "prompt_speech", "URL"),
        ({"text": "a", "deadline_s": 2}, "deadline_s", "is for online jobs"),
        ({"text": "a", "requires": {"engine": 1}}, "requires.engine", "must be a string"),
    ],
)
def test_a_wrong_field_keeps_its_dialects_name(
    item: dict[str, Any], field: str, reason: str
) -> None:
    """A rejection names the field as the file names it."""
    line = _bad(_read(_lines(item))[0])
    assert line.field == field
    assert reason in line.reason


def test_a_line_of_another_dialect_is_rejected() -> None:
    """The first object decides the dialect; a later line of another one says which and why."""
    first, second, third, fourth = _read(
        "not json\n"
        + _lines({"text": "a"}, {"input_text": "b"}, {"uttid": "u", "prompt_speech": "x"})
    )
    assert isinstance(first, RejectedLine)
    assert _good(second).request.text == "a"
    assert _bad(third).field == "input_text"
    assert "articles dialect, but line 2 made this file one of the tts-tasks" in _bad(third).reason
    assert "GLM-TTS dialect" in _bad(fourth).reason


def test_a_line_that_shows_no_dialect_leaves_the_question_open() -> None:
    """An object without any telling field is rejected, and the next line decides."""
    first, second = _read(_lines({"prompt_text": "a"}, {"syn_text": "b"}))
    assert "no known dialect" in _bad(first).reason
    assert _good(second).request.text == "b"


def test_two_text_fields_are_decided_by_the_other_fields() -> None:
    """With two text fields the rest of the line tells the dialect, and the stray one is named."""
    line = _bad(_read(_lines({"id": "a", "text": "x", "syn_text": "y"}))[0])
    assert (line.id, line.field) == ("a", "syn_text")
    assert "no field of the tts-tasks dialect" in line.reason


@pytest.mark.parametrize(
    ("item", "field", "reason"),
    [
        ({"id": "x", "txt": "a"}, "txt", "did you mean 'text'?"),
        ({"text": "a", "Voice": "a"}, "Voice", "did you mean 'voice'?"),
        ({"input_text": "a", "speed": 1}, "speed", "only the tts-tasks dialect has it"),
        ({"syn_text": "a", "utt_id": "1"}, "utt_id", "did you mean 'uttid'?"),
        ({"text": "a", "zzzz\x1b": 1}, "'zzzz\\x1b'", "no field of the tts-tasks dialect"),
    ],
)
def test_an_unknown_field_is_rejected_with_the_nearest(
    item: dict[str, Any], field: str, reason: str
) -> None:
    """A field nobody knows is refused, and the likely meant one is named."""
    line = _bad(_read(_lines(item))[0])
    assert line.field == field
    assert reason in line.reason


@pytest.mark.parametrize(
    ("raw", "field", "reason"),
    [
        (b"{oops", "line", "is not JSON"),
        (b'{"text": "a"} {"text": "b"}', "line", "Extra data at character 15"),
        (b'{"text": "a",}', "line", "is not JSON"),
        (b'"text"', "line", "must be a JSON object, not a string"),
        (b'[{"text": "a"}]', "line", "must be a JSON object, not a list"),
        (b"[", "line", "begins a JSON array"),
        (b"null", "line", "must be a JSON object, not null"),
        (b"12", "line", "must be a JSON object, not a number"),
        (b'{"text": "a", "text": "b"}', "text", "is given twice"),
        (b'{"text": "a", "requires": {"engine": "a", "engine": "b"}}', "engine", "given twice"),
        (b'{"text": "a", "speed": NaN}', "line", "holds NaN, which is not JSON"),
        (b'{"text": "a", "speed": -Infinity}', "line", "holds -Infinity, which is not JSON"),
        (b'{"text": "a", "speed": 1e999}', "speed", "must be a finite number"),
        (b'{"text": "a", "seed": ' + b"9" * 5000 + b"}", "line", "thousands of digits"),
        (b'{"text": "a\x00b"}', "line", "is not JSON: Invalid control character"),
        (b'{"text": "a\\u0000b"}', "text", "U+0000"),
        (b'{"text": "a\\ud83d"}', "text", "half of a surrogate pair"),
        (b'{"text": "\xff\xfe"}', "line", "is not UTF-8: byte 0xff at byte 11"),
        (b"\x89PNG\r", "line", "is not UTF-8: byte 0x89 at byte 1"),
        ("{'text': '你'}".encode("gb18030"), "line", "is not UTF-8"),
        (b"[" * 200_000, "line", "nested too deeply"),
        (b'{"text":' * 100_000, "line", "nested too deeply"),
    ],
)
def test_a_bad_line_is_reported_and_the_next_one_goes_on(
    raw: bytes, field: str, reason: str
) -> None:
    """Debris of every kind costs its own line only, with number, field and reason."""
    first, second = _read(raw + b'\n{"text": "good"}\n')
    assert (_bad(first).line, _bad(first).field) == (1, field)
    assert reason in _bad(first).reason
    assert (_good(second).line, _good(second).id) == (2, "2")


def test_bom_crlf_blank_lines_and_a_missing_last_newline_are_fine() -> None:
    """None of them is an error, and line numbers stay those an editor shows."""
    content = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \t\r\n{"text": "b"}\n\xef\xbb\xbf\n{"text": "c"}'
    assert [(_good(line).line, _good(line).request.text) for line in _read(content)] == [
        (1, "a"),
        (4, "b"),
        (6, "c"),
    ]


def test_joined_files_with_boms_are_fine() -> None:
    """A BOM may begin any line: files are joined with `cat`."""
    assert len(_read(b'\xef\xbb\xbf{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n')) == 2
    assert all(map(_good, _read(b'\xef\xbb\xbf{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n')))


def test_only_a_newline_ends_a_line() -> None:
    """U+2028 and U+0085 are characters of the text, not line ends."""
    assert _good(_read('{"text": "a\u2028b\x85c"}')[0]).request.text == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no line"),
        (b"\n \r\n\n", "holds no line"),
        (b"\xef\xbb\xbf", "holds no line"),
        ('{"text": "a"}\n'.encode("utf-16"), "UTF-16"),
        ('{"text": "a"}\n'.encode("utf-16-le"), "UTF-16"),
        ('{"text": "a"}\n'.encode("utf-16-be"), "UTF-16"),
        ('{"text": "a"}\n'.encode("utf-32"), "UTF-32"),
        (b"\x1f\x8b\x08\x00...", "gzip"),
        (b"PK\x03\x04...", "zip"),
    ],
)
def test_a_file_that_is_no_batch_at_all_is_refused(content: bytes, reason: str) -> None:
    """An empty file or one in another encoding is an error of the file, said once."""
    with pytest.raises(RequestError) as caught:
        _read(content)
    assert caught.value.field == "file"
    assert reason in caught.value.reason


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """A missing file and a folder are errors of the file, with its path."""
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(RequestError, match=r"file: cannot open .*") as caught:
            list(read_batch(path))
        assert str(path) in caught.value.reason


def test_a_file_of_bad_lines_only_is_not_an_error_of_the_file() -> None:
    """Each of its lines has its own reason already."""
    assert [type(line) for line in _read("x\ny\n")] == [RejectedLine, RejectedLine]


def test_a_text_of_ten_megabytes_is_accepted() -> None:
    """A long line is fine while its text is within the limit of characters."""
    escaped = "\\u554a" * (MAX_TEXT_CHARS - 1)
    raw = f'{{"text": "{escaped}"}}\n'.encode()
    assert len(raw) > 10_000_000
    assert len(_good(_read(raw)[0]).request.text) == MAX_TEXT_CHARS - 1


def test_a_long_text_above_the_limit_costs_its_line_only() -> None:
    """Ten megabytes of plain letters are too many characters."""
    first, second = _read(b'{"text": "' + b"a" * 10_000_000 + b'"}\n{"text": "b"}\n')
    assert "10000000 characters long" in _bad(first).reason
    assert _good(second).line == 2


def test_the_limit_of_a_line_is_exact() -> None:
    """A line of MAX_LINE_BYTES is read, one byte more is not, with or without a newline."""
    start, end = b'{"text": "a"', b"}"
    fits = start + b" " * (MAX_LINE_BYTES - len(start) - len(end)) + end
    for tail in (b"", b"\n"):
        _good(_read(fits + tail)[0])
        assert "is longer than" in _bad(_read(b" " + fits + tail)[0]).reason


class _EndlessLine(io.RawIOBase):
    """A first line of half a gigabyte, then a good one, without ever holding it."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes
        self._tail = io.BytesIO(b'\n{"text": "b"}\n')

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            return self._tail.readinto(buffer)
        count = min(len(buffer), self._left)
        buffer[:count] = bytes(count)
        self._left -= count
        return count


def test_a_line_above_the_limit_is_skipped_without_being_held() -> None:
    """Half a gigabyte without a newline takes no more memory than the limit of a line."""
    tracemalloc.start()
    try:
        stream = io.BufferedReader(_EndlessLine(512 * 1024 * 1024))
        first, second = read_batch(stream)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "is longer than 16777216 bytes" in _bad(first).reason
    assert (_good(second).line, _good(second).request.text) == (2, "b")
    assert peak_bytes < 4 * MAX_LINE_BYTES


def test_reading_is_lazy() -> None:
    """The first line is handed out before the rest of the stream exists."""

    class Stream(io.BytesIO):
        reads = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            return super().readline(size)

    stream = Stream(_lines(*({"text": f"t{number}"} for number in range(100))).encode())
    next(iter(read_batch(stream)))
    assert stream.reads == 1


def test_a_read_error_in_the_middle_is_an_error_of_the_file() -> None:
    """A disk that fails while reading does not look like the end of the batch."""

    class Broken(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().readline(size)

    lines = read_batch(Broken(_lines({"text": "a"}, {"text": "b"}).encode()))
    _good(next(lines))
    with pytest.raises(RequestError, match="file: cannot be read: Input/output error"):
        next(lines)


def test_a_second_use_of_an_id_is_rejected_with_the_first_line() -> None:
    """Ids are unique in a batch; numbers and strings of the same spelling are the same id."""
    lines = _read(
        _lines({"id": "7", "text": "a"}, {"id": "b", "text": "a"}, {"id": 7, "text": "c"})
    )
    line = _bad(lines[2])
    assert (line.line, line.id, line.field) == (3, "7", "id")
    assert line.reason == "'7' is already the id of line 1"


def test_a_default_id_that_is_taken_is_explained() -> None:
    """A line without an id is called by its number; when that is taken the reason says so."""
    line = _bad(_read(_lines({"id": "2", "text": "a"}, {"text": "b"}))[1])
    assert (line.id, line.field) == (None, "id")
    assert line.reason == "is missing, and its default, 2, is already the id of line 1"


@pytest.mark.parametrize("again", ["x", "x.wav", "x.mp3", "x.WAV"])
def test_a_second_use_of_an_output_name_is_rejected(again: str) -> None:
    """Names are compared as files: after dropping the suffix, with the format's own."""
    first, second = _read(
        _lines({"text": "a", "output_name": "x"}, {"text": "b", "output_name": again})
    )
    assert isinstance(first, BatchLine)
    assert (_bad(second).field, _bad(second).line) == ("output_name", 2)
    assert _bad(second).reason == "'x.wav' is already made by line 1"


def test_names_that_look_the_same_are_the_same() -> None:
    """Composed and decomposed Unicode is one name; upper and lower case are two."""
    lines = _read(
        _lines(
            {"text": "a", "output_name": "\u00e9"},
            {"text": "a", "output_name": "e\u0301"},
            {"text": "a", "output_name": "\u00c9"},
        )
    )
    assert [type(line) for line in lines] == [BatchLine, RejectedLine, BatchLine]


def test_one_name_in_two_formats_makes_two_files() -> None:
    """The same output name with another format is another artifact."""
    lines = _read(
        _lines(
            {"text": "a", "output_name": "x"}, {"text": "a", "output_name": "x", "format": "mp3"}
        )
    )
    assert all(map(_good, lines))


def test_a_rejected_line_takes_no_name() -> None:
    """A bad line never makes a later good one a duplicate."""
    lines = _read(
        _lines(
            {"id": "a", "text": "。", "output_name": "x"},
            {"id": "a", "text": "b", "output_name": "x"},
        )
    )
    assert (_bad(lines[0]).id, _bad(lines[0]).field) == ("a", "text")
    assert _good(lines[1]).id == "a"


def test_uttid_is_unique_as_name_too() -> None:
    """`a` and `a.wav` are two ids but one file."""
    line = _bad(
        _read(_lines({"uttid": "a", "syn_text": "x"}, {"uttid": "a.wav", "syn_text": "y"}))[1]
    )
    assert line.field == "uttid"
    assert "'a.wav' is already made by line 1" in line.reason


def test_reference_audio_is_looked_for_beside_the_batch(tmp_path: Path) -> None:
    """A missing, empty or non-file reference is rejected with its reason; the path is kept."""
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices/a.wav").write_bytes(b"RIFF")
    (tmp_path / "voices/empty.wav").touch()
    outside = tmp_path.parent / f"{tmp_path.name}-outside.wav"
    outside.write_bytes(b"RIFF")
    (tmp_path / "link.wav").symlink_to(outside)
    names = ["voices/a.wav", "none.wav", "voices", "voices/empty.wav", "link.wav"]
    batch = tmp_path / "batch.jsonl"
    batch.write_text(_lines(*({"input_text": "a", "prompt_audio": name} for name in names)))

    lines = list(read_batch(batch))

    assert _good(lines[0]).request.prompt_audio == "voices/a.wav"
    assert [_bad(line).field for line in lines[1:]] == ["prompt_audio"] * 4
    reasons = [_bad(line).reason for line in lines[1:]]
    assert reasons[0] == f"there is no file 'none.wav' below {tmp_path}"
    assert "there is no file 'voices'" in reasons[1]
    assert "is empty" in reasons[2]
    assert "symbolic link" in reasons[3]


def test_reference_audio_may_have_a_root_of_its_own(tmp_path: Path) -> None:
    """GLM-TTS files name audio relative to a checkout, not to themselves."""
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout/a.wav").write_bytes(b"RIFF")
    batch = tmp_path / "batch.jsonl"
    batch.write_text(_lines({"syn_text": "a", "prompt_speech": "a.wav"}))
    assert isinstance(next(read_batch(batch)), RejectedLine)
    assert isinstance(next(read_batch(batch, audio_root=tmp_path / "checkout")), BatchLine)


def test_python_items_pass_the_same_checks() -> None:
    """Dicts from Python are checked like lines, duplicates included, numbered from 1."""
    items: list[Any] = [
        {"id": "a", "text": "x"},
        {"id": "a", "text": "y"},
        {"input_text": "z"},
        "no mapping",
        {"text": "x", 5: 1},
        {"text": "x", "speed": float("nan")},
    ]
    lines = list(parse_items(items))
    assert _good(lines[0]).id == "a"
    assert [(_bad(line).line, _bad(line).field) for line in lines[1:]] == [
        (2, "id"),
        (3, "input_text"),
        (4, "line"),
        (5, "5"),
        (6, "speed"),
    ]
    assert list(parse_items([])) == []


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_whatever_break_the_reader(chunks: list[bytes]) -> None:
    """Any bytes give one answer for each line that is not blank, in order, or a file error."""
    content = b"\n".join(chunks)
    try:
        lines = _read(content)
    except RequestError as error:
        if error.field != "file":
            raise
        return
    numbers = [line.line for line in lines]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= sum(
        bool(one.removeprefix(b"\xef\xbb\xbf").strip()) for one in content.split(b"\n")
    )
    for line in lines:
        assert f"{_bad(line).field}{_bad(line).reason}".encode()


def test_a_files_hash_is_of_its_raw_bytes(tmp_path: Path) -> None:
    """The fingerprint for re-attaching is the SHA-256 of the bytes as they are."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf{}\r\n")
    assert file_sha256(path) == hashlib.sha256(b"\xef\xbb\xbf{}\r\n").hexdigest()
    with pytest.raises(RequestError, match="file: cannot read"):
        file_sha256(tmp_path / "none")


@given(st.sets(st.sampled_from(sorted({name for one in DIALECTS for name in one.fields} | {"x"}))))
def test_a_line_of_the_settled_dialect_is_one_at_a_glance(names: set[str]) -> None:
    """A line with the dialect's text and no field of another's is of it, the long way too."""
    item = dict.fromkeys(names)
    for dialect in DIALECTS:
        if dialect.text_field in item and item.keys() <= dialect.fields.keys():
            assert recognise(item) is dialect


def test_the_field_of_the_id_is_the_dialects_name_of_it() -> None:
    """Where a dialect has an id, `id_field` is what the id is called."""
    for dialect in DIALECTS:
        named = dialect.named("id")
        assert dialect.id_field == (named if named in dialect.fields else None)
