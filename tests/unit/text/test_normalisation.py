"""Normalisation, judged by the ear: written texts and what a native speaker says for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tts_workers.text import normalise

_EXAMPLES = Path(__file__).parents[2] / "data" / "text" / "normalisation.tsv"


def _examples() -> list[tuple[str, str]]:
    r"""Read the table; ``\n`` and ``\uXXXX`` in it stand for characters nobody can see."""
    pairs = []
    for line in _EXAMPLES.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            _domain, written, spoken = line.split("\t")
            pairs.append((_visible_escapes(written), _visible_escapes(spoken)))
    return pairs


def _visible_escapes(field: str) -> str:
    for escape, char in (("\\n", "\n"), ("\\u200b", "\u200b"), ("\\ufeff", "\ufeff")):
        field = field.replace(escape, char)
    return field


@pytest.mark.parametrize(("written", "spoken"), _examples())
def test_a_written_text_becomes_what_a_native_speaker_says(written: str, spoken: str) -> None:
    """Each hand-checked pair of the table is read as it says, and stays so when read again."""
    assert normalise(written) == spoken
    assert normalise(spoken) == spoken


def test_the_table_covers_the_domains_and_is_not_shrinking() -> None:
    """The table keeps at least 150 pairs over bank, hospital, station and call centre."""
    domains = [line.split("\t")[0] for line in _EXAMPLES.read_text(encoding="utf-8").splitlines()]

    assert len(_examples()) >= 150
    assert {"bank", "hospital", "station", "call centre", "english", "mixed"} <= set(domains)


def test_a_text_without_letters_is_read_in_the_callers_default_language() -> None:
    """Where nothing decides the language, the caller does, and Chinese is the default."""
    assert normalise("2026-03-05") == "二零二六年三月五日"
    assert normalise("2026-03-05", default_language="en") == "March fifth, twenty twenty-six"


def test_the_language_of_the_words_around_beats_the_default() -> None:
    """A default does not change how a number inside words is read."""
    assert normalise("共3人", default_language="en") == "共三人"
    assert normalise("all 3 of us", default_language="zh") == "all three of us"


def test_importing_the_front_end_loads_no_number_library() -> None:
    """A process that only imports an engine does not pay for the libraries of the front end."""
    heavy = {"cn2an", "num2words", "tts_workers.text.chinese.quantities"}
    code = f"import sys, tts_workers.text; print(sorted({heavy} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
