"""Numbers in English words, by num2words."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Longer integers are said digit by digit.
LONGEST_CARDINAL: Final = 15

_DIGITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NOT_A_DIGIT: Final = re.compile(r"[^0-9]+")


@cache
def _num2words() -> Callable[..., str]:
    from num2words import num2words  # type: ignore[import-untyped]

    converter: Callable[..., str] = num2words
    return converter


def spell(digits: str) -> str:
    """Read digit by digit: ``1208`` is one two zero eight."""
    return " ".join(_DIGITS[int(digit)] for digit in _NOT_A_DIGIT.sub("", digits))


def spell_groups(written: str) -> str:
    """Read digit by digit with a pause between the groups a telephone number is written in."""
    return ", ".join(spell(group) for group in _NOT_A_DIGIT.split(written) if group)


def cardinal(integer: str) -> str:
    """Read an integer (digits and commas): ``1234`` one thousand two hundred and thirty-four."""
    digits = _NOT_A_DIGIT.sub("", integer)
    if len(digits) > LONGEST_CARDINAL or (len(digits) > 1 and digits[0] == "0"):
        return spell(digits)
    return _num2words()(int(digits)).replace(",", "")


def ordinal(integer: str) -> str:
    """Read an integer as a rank: ``21`` twenty-first."""
    digits = _NOT_A_DIGIT.sub("", integer)
    if len(digits) > LONGEST_CARDINAL:
        return spell(digits)
    return _num2words()(int(digits), to="ordinal").replace(",", "")


def year(digits: str) -> str:
    """Read a year: ``1905`` nineteen oh-five, ``2026`` twenty twenty-six."""
    return _num2words()(int(digits), to="year").replace(",", "")


def number(written: str) -> str:
    """Read a number with optional commas and decimals: ``3.05`` three point zero five."""
    integer, _, decimals = written.partition(".")
    return f"{cardinal(integer)} point {spell(decimals)}" if decimals else cardinal(integer)


def dotted(written: str) -> str:
    """Read a decimal or a version: ``2.3.10`` two point three point ten."""
    parts = written.split(".")
    return number(written) if len(parts) <= 2 else " point ".join(map(cardinal, parts))


def plural(word: str) -> str:
    """Return the plural of a number word: ``nineties``, ``two thousands``, ``quarters``."""
    if word.endswith("y"):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("x", "s")) else f"{word}s"
