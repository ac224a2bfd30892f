"""Sentences are read sensibly: 355 of our own, of which 233 are held out.

``python -m tests.readings`` prints what is not. The scores below are what was reached when the
rules were last touched; lines that are held out are never looked at to make a rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.readings import Reading, readings, sound_faults, text_fault
from tts_workers.engines.espeak import EspeakEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Sentences that are read as expected, at least: of those held out, and of the others.
HELD_OUT, OPEN = 207, 113


@pytest.fixture(scope="module")
def engine() -> Iterator[EspeakEngine]:
    """Yield a loaded engine."""
    engine = EspeakEngine()
    engine.load("cpu")
    yield engine
    engine.close()


def test_the_set_is_large_enough_and_mostly_held_out() -> None:
    """At least 300 sentences, 200 of them held out, of every kind."""
    found = readings()
    assert len(found) >= 300
    assert sum(one.held_out for one in found) >= 200
    assert len({one.text for one in found}) == len({one.id for one in found}) == len(found)
    kinds = {one.category for one in found if one.held_out}
    assert kinds >= {"polyphone", "number", "date", "money", "phone", "percent", "mixed", "name"}


@pytest.mark.parametrize(("held_out", "least"), [(True, HELD_OUT), (False, OPEN)])
def test_sentences_are_read_as_expected(engine: EspeakEngine, held_out: bool, least: int) -> None:
    """Normalised text and the pinyin of polyphones are as expected, as often as ever before."""
    found = [one for one in readings() if one.held_out is held_out]
    wrong = [one.id for one in found if not _is_right(one, engine)]
    assert len(found) - len(wrong) >= least, wrong


def test_numbers_and_dates_are_read_right_nearly_always() -> None:
    """Of the sentences that are no matter of polyphones, 96 of 100 have the expected text."""
    found = [one for one in readings() if one.held_out and not one.pinyin]
    wrong = [one.id for one in found if text_fault(one)]
    assert len(wrong) <= len(found) * 0.04, wrong


def _is_right(reading: Reading, engine: EspeakEngine) -> bool:
    return not text_fault(reading) and not sound_faults(reading, engine)
