"""Amounts in English: plain numbers, money, percentages, measures, fractions, scores, sums."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tts_workers.text.english.numbers import cardinal, number, ordinal, plural, spell
from tts_workers.text.quantities import (
    PER_UNIT,
    PER_UNIT_CUE,
    QUANTITY,
    SCALES,
    Quantity,
    quantity_of,
)
from tts_workers.text.rules import NUMBER, Rule, Start
from tts_workers.text.units import unit_of

if TYPE_CHECKING:
    from tts_workers.text.currencies import Currency

_FRACTION: Final = re.compile(
    r"(?:(?P<whole>[0-9]{1,4})(?: and)? )?(?P<top>[0-9]{1,4})/(?P<bottom>[1-9][0-9]{0,3})"
    r"(?![0-9/]|[.,][0-9])(?P<unit>\s?mmHg)?"
)
_ORDINAL: Final = re.compile(
    r"(?P<number>[0-9]{1,3}(?:,[0-9]{3}){0,4}|[0-9]{1,15})(?:st|nd|rd|th)\b", re.IGNORECASE
)
_SCORE: Final = re.compile(rf"(?P<first>{NUMBER}):(?P<last>{NUMBER})(?![0-9]|:[0-9])")
_SCORE_WITH_HYPHEN: Final = re.compile(r"(?P<first>[0-9]{1,3})[-–](?P<last>[0-9]{1,3})(?![0-9-])")
_SUM: Final = re.compile(
    rf"-?{NUMBER}(?:\s?[-+×x*÷/]\s?{NUMBER}){{1,20}}\s?[=≈]\s?-?{NUMBER}(?![0-9/])"
)
_SUM_PART: Final = re.compile(rf"(?P<number>{NUMBER})|(?P<sign>[-+×x*÷/=≈])")
_SUM_WORDS: Final = {
    "+": "plus", "-": "minus", "×": "times", "x": "times", "*": "times", "÷": "divided by",
    "/": "divided by", "=": "equals", "≈": "is about",
}  # fmt: skip
_POWER: Final = re.compile(
    rf"(?P<base>{NUMBER})(?P<power>⁻?[⁰¹²³⁴-⁹]{{1,3}}|\^-?[0-9]{{1,3}}(?![0-9.]))"
)
_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", "^")
_LEADING_POINT: Final = re.compile(r"(?<![0-9A-Za-z.])\.(?P<decimals>[0-9]{1,20})(?![.][0-9])")
_DIMENSION: Final = re.compile(rf"\s?[×x*]\s?(?={NUMBER})")
_DIMENSION_BEFORE: Final = re.compile(r"[0-9](?:\s?[a-z]{1,2})?\s?$")
_RANGE_MARK: Final = re.compile(r"\s?[-–—~]\s?(?=[0-9])")
_RANGE_BEFORE: Final = re.compile(r"[0-9](?:st|nd|rd|th|[%‰°CF])\s?$")
_LIST_MARKER: Final = re.compile(r"(?P<number>[0-9]{1,2})(?:\.(?![0-9])|\))[ \t]+")
_LINE_START: Final = re.compile(r"(?:^|\n)[ \t]*$")

_LARGEST_NAMED_PART: Final = 20
_NAMED_PARTS: Final = {"2": ("half", "halves"), "4": ("quarter", "quarters")}
_SIGNS: Final = {"-": "minus ", "+": "plus ", "±": "plus or minus ", "": ""}


def read_quantity(match: re.Match[str]) -> str:
    """Read one amount or a range, with its sign, scale, unit, percent sign or currency."""
    quantity = quantity_of(match)
    sign = _SIGNS[quantity.sign]
    if quantity.currency and not quantity.high and not quantity.scale:
        return sign + _money(quantity.low, quantity.currency)
    words = sign + number(quantity.low)
    if quantity.high:
        words += " to " + ("minus " if quantity.high_sign else "") + number(quantity.high)
    if quantity.scale:
        words += f" {_scale(quantity.scale)}"
    return words + _suffix(quantity)


def _scale(written: str) -> str:
    names = {3: "thousand", 6: "million", 9: "billion", 12: "trillion"}
    return names[SCALES[written]] if written in SCALES else written


def _suffix(quantity: Quantity) -> str:
    if quantity.percent:
        return " percent" if quantity.percent == "%" else " per mille"
    if quantity.unit:
        return f" {quantity.unit.singular if quantity.is_one else quantity.unit.plural}"
    return f" {quantity.currency.plural}" if quantity.currency else ""


def _money(written: str, currency: Currency) -> str:
    """Read an amount with its hundredths apart where the currency has them."""
    integer, _, decimals = written.partition(".")
    if len(decimals) == 2 and (currency.minor_singular or decimals == "00"):
        minor = decimals.lstrip("0")
        minor_name = currency.minor_singular if minor == "1" else currency.minor_plural
        major_words = _counted(integer, currency)
        if not minor:
            return major_words
        minor_words = f"{cardinal(minor)} {minor_name}"
        return minor_words if not integer.strip("0,") else f"{major_words} and {minor_words}"
    return _counted(written, currency)


def _counted(written: str, currency: Currency) -> str:
    return f"{number(written)} {currency.singular if written == '1' else currency.plural}"


def _read_fraction(match: re.Match[str]) -> str:
    top, bottom, whole = match["top"], match["bottom"], match["whole"]
    if match["unit"]:
        over = f"{cardinal(top)} over {cardinal(bottom)} millimeters of mercury"
        return f"{cardinal(whole)} {over}" if whole else over
    if top == "24" and bottom == "7":
        words = "twenty-four seven"
    elif top == "9" and bottom == "11":
        words = "nine eleven"
    elif len(top) < 4 and int(top) < int(bottom) <= _LARGEST_NAMED_PART:
        words = _named_fraction(top, bottom)
        if whole:
            words = words.replace("one ", "a ", 1)
    else:
        words = f"{cardinal(top)} over {cardinal(bottom)}"
    return f"{cardinal(whole)} and {words}" if whole else words


def _named_fraction(top: str, bottom: str) -> str:
    rank = ordinal(bottom)
    one, many = _NAMED_PARTS.get(bottom, (rank, plural(rank)))
    return f"{cardinal(top)} {one if top == '1' else many}"


def _read_score(match: re.Match[str]) -> str:
    return f"{number(match['first'])} to {number(match['last'])}"


def _read_sum(match: re.Match[str]) -> str:
    words = []
    after_number = False
    for part in _SUM_PART.finditer(match[0]):
        if part["number"]:
            words.append(number(part["number"]))
        else:
            words.append(_SUM_WORDS[part["sign"]])
        after_number = bool(part["number"])
    return " ".join(words) if after_number else ""


def _read_power(match: re.Match[str]) -> str:
    power = match["power"].translate(_SUPERSCRIPTS)
    base = number(match["base"])
    if power in {"2", "3"}:
        return f"{base} {'squared' if power == '2' else 'cubed'}"
    return f"{base} to the power of {'minus ' if power[0] == '-' else ''}{cardinal(power)}"


def _read_per_unit(match: re.Match[str]) -> str:
    return f" per {unit_of(match['unit']).singular}"


def _read_range_mark(match: re.Match[str]) -> str | None:
    before = match.string[max(0, match.start() - 5) : match.start()]
    return " to " if _RANGE_BEFORE.search(before) else None


def _read_dimension(match: re.Match[str]) -> str | None:
    before = match.string[max(0, match.start() - 5) : match.start()]
    return " by " if _DIMENSION_BEFORE.search(before) else None


#: ``1st`` is English wherever it stands, so this serves Chinese text too.
ORDINALS: Final = (Rule("ordinal", Start.DIGIT, _ORDINAL, lambda match: ordinal(match["number"])),)
RULES: Final = (
    Rule(
        "list marker", Start.DIGIT, _LIST_MARKER,
        lambda match: f"{cardinal(match['number'])}, ", cue=_LINE_START,
    ),
    Rule("sum", Start.DIGIT | Start.SYMBOL, _SUM, _read_sum),
    *ORDINALS,
    Rule("fraction", Start.DIGIT, _FRACTION, _read_fraction),
    Rule("score", Start.DIGIT, _SCORE, _read_score),
    Rule("power", Start.DIGIT, _POWER, _read_power),
    Rule("range mark", Start.SYMBOL, _RANGE_MARK, _read_range_mark),
    Rule("per unit", Start.SYMBOL, PER_UNIT, _read_per_unit, cue=PER_UNIT_CUE),
    Rule("dimension", Start.SYMBOL | Start.LETTER, _DIMENSION, _read_dimension),
    Rule("quantity", Start.DIGIT | Start.SYMBOL | Start.LETTER, QUANTITY, read_quantity),
    Rule(
        "decimals only", Start.SYMBOL, _LEADING_POINT,
        lambda match: f"point {spell(match['decimals'])}",
    ),
)  # fmt: skip
