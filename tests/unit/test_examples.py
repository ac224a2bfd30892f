"""The example batch is what its README and the demo say it is."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tts_tasks.jsonl import BatchLine, RejectedLine, read_batch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def lines() -> list[BatchLine | RejectedLine]:
    """Read the batch as `ttsctl submit` does."""
    return list(read_batch(EXAMPLES / "announcements.jsonl"))


def test_three_lines_are_wrong_on_purpose(lines: list[BatchLine | RejectedLine]) -> None:
    """A soundless text, a name that leaves its folder, a cut line: where the README says."""
    rejected = [(line.line, line.field) for line in lines if isinstance(line, RejectedLine)]
    table = re.findall(r"^\| (\d+) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)

    assert rejected == [(16, "text"), (39, "output_name"), (57, "line")]
    assert [int(number) for number in table] == [number for number, _ in rejected]


def test_the_good_lines_make_a_demo(lines: list[BatchLine | RejectedLine]) -> None:
    """Enough WAVs, every format, every script, and texts long enough to be interrupted."""
    requests = [line.request for line in lines if isinstance(line, BatchLine)]
    formats = Counter(request.format for request in requests)
    han = [bool(re.search("[一-鿿]", request.text)) for request in requests]
    latin = [bool(re.search("[a-z]{3,} [a-z]{2,}", request.text)) for request in requests]
    sentences = [len(re.findall(r"[。！？]|[a-z]\.(?: |$)", request.text)) for request in requests]

    assert formats == {"wav": 65, "flac": 1, "mp3": 1, "opus": 1, "ogg": 1}
    scripts = Counter(zip(han, latin, strict=True))
    assert min(scripts[True, False], scripts[False, True], scripts[True, True]) >= 4
    assert sum(count >= 4 for count in sentences) >= 6
    assert len({request.output_name for request in requests}) == len(requests)
