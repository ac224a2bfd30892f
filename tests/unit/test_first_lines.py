"""The first line with each id, also of a million."""

from __future__ import annotations

import tracemalloc
from collections import deque
from contextlib import closing

import pytest

from tts_tasks.errors import StorageError
from tts_tasks.first_lines import FirstLines


def test_the_first_one_has_it() -> None:
    """Later ones learn which line was first; one that is freed goes to the next that comes."""
    with closing(FirstLines()) as lines:
        assert lines.claim("a", 1) == 1
        assert lines.claim("b", 2) == 2
        assert lines.claim("a", 3) == 1
        lines.free("a")
        assert lines.claim("a", 4) == 4


def test_keys_are_told_apart_by_every_character() -> None:
    """By case, by normal form, by a trailing space."""
    keys = ["a", "A", "a ", "\u00e9", "e\u0301", "\U0001f600", "1", "01"]
    with closing(FirstLines()) as lines:
        for number, key in enumerate(keys, start=1):
            assert lines.claim(key, number) == number
        assert [lines.claim(key, 99) for key in keys] == list(range(1, len(keys) + 1))


def test_two_files_know_nothing_of_each_other() -> None:
    """Each has its own."""
    with closing(FirstLines()) as one, closing(FirstLines()) as other:
        assert one.claim("a", 1) == 1
        assert other.claim("a", 2) == 2


def test_a_full_disk_is_said_clearly() -> None:
    """Where it is wanted, and what to do."""
    with closing(FirstLines()) as lines:
        lines._database.execute("PRAGMA max_page_count = 8")
        ids = (lines.claim(f"line-{line:07}", line) for line in range(10_000))
        with pytest.raises(StorageError, match=r"disk is full; free space .* TMPDIR"):
            deque(ids, maxlen=0)


def test_memory_does_not_grow_with_them() -> None:
    """Python holds none of them."""
    with closing(FirstLines()) as lines:
        tracemalloc.start()
        try:
            for line in range(20_000):
                lines.claim(f"line-{line:07}", line)
            size_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert size_bytes < 100_000
