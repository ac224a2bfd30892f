"""What English makes of numbers and symbols."""

from __future__ import annotations

from typing import Final

from tts_workers.text import shared
from tts_workers.text.english import abbreviations, calendar, identifiers, quantities
from tts_workers.text.english.numbers import cardinal, dotted, spell
from tts_workers.text.rules import RuleBook


class _English:
    """The words the shared rules need, in English."""

    at = "at"
    dot = "dot"
    slash = "slash"
    hyphen = "dash"
    underscore = "underscore"
    per = "per"
    conjunction = "and"
    plus = "plus"
    squared = "squared"
    cubed = "cubed"
    operators: Final = {
        "=": "equals", "+": "plus", "×": "times", "÷": "divided by", "<": "less than",
        ">": "greater than", "≤": "at most", "≥": "at least", "≈": "about", "±": "plus or minus",
        "√": "square root of",
    }  # fmt: skip

    @staticmethod
    def spell(digits: str) -> str:
        return spell(digits)

    @staticmethod
    def cardinal(digits: str) -> str:
        return cardinal(digits)

    @staticmethod
    def dotted(digits: str) -> str:
        return dotted(digits)

    @staticmethod
    def numbered(digits: str, *, is_hash: bool) -> str:  # noqa: ARG004 - English says both alike
        return f"number {cardinal(digits)}"


BOOK: Final = RuleBook(
    shared.first_rules(_English()),
    abbreviations.RULES,
    calendar.RULES,
    identifiers.RULES,
    shared.code_rules(_English()),
    quantities.RULES,
    shared.last_rules(_English()),
)
