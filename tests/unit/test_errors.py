"""All errors stand in one tree, and the tree is drawn."""

from __future__ import annotations

import re

from tts_tasks import errors
from tts_tasks.errors import EpochsUnknownError, TTSError


def _below(kind: type[TTSError], depth: int = 0) -> list[tuple[str, int]]:
    here = [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [(kind.__name__, depth)] + [pair for sub in here for pair in _below(sub, depth + 1)]


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    """With each one's place in it."""
    drawn = re.findall(r"^    ([│├└─ ]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    assert sorted((name, len(lead) // 4) for lead, name in drawn) == sorted(_below(TTSError))


def test_an_unknown_counter_says_what_to_do() -> None:
    """Not the lane alone; and it travels by its arguments, as all do."""
    error = EpochsUnknownError("default.0")
    assert "default.0" in str(error)
    assert "ask the storage" in str(error)
    assert str(EpochsUnknownError(*error.args)) == str(error)
