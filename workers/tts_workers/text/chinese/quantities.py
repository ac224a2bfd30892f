"""Amounts in Chinese: plain numbers, money, percentages, measures, fractions, scores, sums."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tts_workers.text.chinese.numbers import MEASURE, cardinal, number, scaled, spell
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
    r"(?:(?P<whole>[0-9]{1,4}) )?(?P<top>[0-9]{1,4})/(?P<bottom>[1-9][0-9]{0,4})"
    r"(?![0-9/]|[.,][0-9])"
)
_PRESSURE: Final = re.compile(
    r"(?P<high>[0-9]{2,3})/(?P<low>[0-9]{2,3})\s?(?P<unit>mmHg|毫米汞柱)?(?![0-9/])"
)
_PRESSURE_BEFORE: Final = re.compile(r"血压(?:值)?(?:是|为|[:：])?\s?$")
_SCORE: Final = re.compile(rf"(?P<first>{NUMBER})[:：](?P<last>{NUMBER})(?![0-9]|[:：][0-9])")
_SCORE_WITH_HYPHEN: Final = re.compile(r"(?P<first>[0-9]{1,3})-(?P<last>[0-9]{1,3})(?![0-9-])")
_SCORE_CUE: Final = re.compile(r"(?:比分|以|战成|[胜负平])(?:为|是|[:：])?\s?$")
_SUM: Final = re.compile(
    rf"[-+]?{NUMBER}(?:\s?[-+×x*÷/]\s?{NUMBER}){{1,20}}\s?[=≈]\s?[-+]?{NUMBER}(?![0-9/])"
)
_SUM_PART: Final = re.compile(rf"(?P<number>{NUMBER})|(?P<sign>[-+×x*÷/=≈])")
_SUM_WORDS: Final = {
    "+": "加", "-": "减", "×": "乘", "x": "乘", "*": "乘", "÷": "除以", "/": "除以", "=": "等于",
    "≈": "约等于",
}  # fmt: skip
_POWER: Final = re.compile(
    rf"(?P<base>{NUMBER})(?P<power>⁻?[⁰¹²³⁴-⁹]{{1,3}}|\^-?[0-9]{{1,3}}(?![0-9.]))"
)
_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", "^")
_LEADING_POINT: Final = re.compile(r"(?<![0-9A-Za-z.])\.(?P<decimals>[0-9]{1,20})(?![.][0-9])")
_DIMENSION: Final = re.compile(rf"[×x*](?=\s?{NUMBER})")
_DIMENSION_BEFORE: Final = re.compile(r"[0-9](?:\s?(?:[a-z]{1,2}|[厘毫]?米))?\s?$")
_RANGE_MARK: Final = re.compile(r"\s?[-–—~]{1,2}\s?(?=-?[0-9])")
_RANGE_TO_PART_OF_DAY: Final = re.compile(
    r"\s?[-–—~]{1,2}\s?(?=(?:次日|当日|第二天)?(?:凌晨|早上|上午|中午|下午|傍晚|晚上?|夜间)\s?[0-9])"
)
_TIME_BEFORE: Final = re.compile(r"[0-9][点时分]?\s?$")
_RANGE_BEFORE: Final = re.compile(r"[0-9][年月日号点时分秒元块天岁周楼层级章页期号线%‰°度米CF]\s?$")
_LIST_MARKER: Final = re.compile(r"(?P<number>[0-9]{1,2})(?:[.．、](?![0-9])|[)）])[ \t]*")
_LINE_START: Final = re.compile(r"(?:^|\n)[ \t]*$")

_TEMPERATURES: Final = frozenset({"摄氏度", "华氏度", "度"})
_DEGREES_AFTER: Final = re.compile(r"\s?(?:摄氏度|华氏度|度)")
_SIGNS: Final = {"-": "负", "+": "正", "±": "正负", "": ""}


def _follows(match: re.Match[str]) -> str:
    return match.string[match.end() : match.end() + 4]


def _precedes(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - 1) : match.start()]


def read_quantity(match: re.Match[str]) -> str | None:
    """Read one amount or a range, with its sign, scale, unit, percent sign or currency."""
    quantity = quantity_of(match)
    if quantity.percent:
        return _read_percent(quantity)
    if quantity.unit and quantity.unit.zh in _TEMPERATURES:
        return _read_temperature(quantity, quantity.unit.zh) + quantity.unit.zh
    degrees = _DEGREES_AFTER.match(_follows(match))
    if degrees and quantity.is_plain and quantity.sign == "-":
        return _read_temperature(quantity, degrees[0].strip())
    is_rank = _precedes(match) == "第"
    counted = not is_rank and bool(
        quantity.unit or quantity.currency or quantity.scale or MEASURE.match(_follows(match))
    )
    if quantity.high and quantity.is_plain and not counted and not _ascends(quantity):
        return f"{_words(quantity, quantity.low)}杠{number(quantity.high)}"
    sign = _SIGNS[quantity.sign]
    if quantity.sign == "+" and quantity.is_plain and not counted:
        sign = "加"
    words = sign + _words(quantity, quantity.low, counted=counted)
    if quantity.high:
        words += f"{quantity.low_scale}到" + ("负" if quantity.high_sign else "")
        words += _words(quantity, quantity.high, counted=counted)
    if quantity.scale not in SCALES:
        words += quantity.scale
    return words + _suffix(quantity)


def _words(quantity: Quantity, written: str, *, counted: bool = False) -> str:
    if quantity.scale in SCALES:
        return scaled(written, SCALES[quantity.scale])
    return number(written, pairs=counted, trim=quantity.currency is not None)


def _suffix(quantity: Quantity) -> str:
    if quantity.unit:
        return quantity.unit.zh
    currency: Currency | None = quantity.currency
    return quantity.currency_word or (currency.zh if currency else "")


def _read_percent(quantity: Quantity) -> str:
    whole = "百分之" if quantity.percent == "%" else "千分之"
    if quantity.percent == "%" and quantity.low == "100" and not quantity.high:
        return f"{_SIGNS[quantity.sign]}百分之百"
    words = _SIGNS[quantity.sign] + whole + number(quantity.low)
    if quantity.high:
        sign = "负" if quantity.high_sign else ""
        words += f"到{sign}{whole}{number(quantity.high)}"
    return words


def _read_temperature(quantity: Quantity, unit: str) -> str:
    """Read degrees without their unit, except where 零下 would seem to span a range."""
    signs = {**_SIGNS, "-": "零下"}
    words = signs[quantity.sign] + number(quantity.low)
    if quantity.high:
        crosses_zero = quantity.sign == "-" and not quantity.high_sign
        words += f"{unit}到" if crosses_zero else "到"
        words += signs[quantity.high_sign] + number(quantity.high)
    return words


def _ascends(quantity: Quantity) -> bool:
    if max(len(quantity.low), len(quantity.high)) > 12:
        return False
    low, high = (float(written.replace(",", "")) for written in (quantity.low, quantity.high))
    return low < high


def _read_fraction(match: re.Match[str]) -> str | None:
    if _precedes(match) == "第":  # page 3 of 5
        return None
    whole = f"{cardinal(match['whole'])}又" if match["whole"] else ""
    return f"{whole}{cardinal(match['bottom'])}分之{cardinal(match['top'])}"


def _read_pressure(match: re.Match[str]) -> str | None:
    before = match.string[max(0, match.start() - 8) : match.start()]
    if not match["unit"] and not _PRESSURE_BEFORE.search(before):
        return None
    unit = "毫米汞柱" if match["unit"] else ""
    return f"{cardinal(match['high'])}、{cardinal(match['low'])}{unit}"


def _read_score(match: re.Match[str]) -> str:
    return f"{number(match['first'])}比{number(match['last'])}"


def _read_sum(match: re.Match[str]) -> str:
    words = []
    after_number = False
    for part in _SUM_PART.finditer(match[0]):
        if part["number"]:
            words.append(number(part["number"]))
        elif part["sign"] == "-" and not after_number:
            words.append("负")
        else:
            words.append(_SUM_WORDS[part["sign"]])
        after_number = bool(part["number"])
    return "".join(words)


def _read_power(match: re.Match[str]) -> str:
    power = match["power"].translate(_SUPERSCRIPTS)
    sign = "负" if power.startswith("-") else ""
    return f"{number(match['base'])}的{sign}{cardinal(power)}次方"


def _read_per_unit(match: re.Match[str]) -> str:
    return f"每{unit_of(match['unit']).zh}"


def _read_range_mark(match: re.Match[str]) -> str | None:
    before = match.string[max(0, match.start() - 4) : match.start()]
    return "到" if _RANGE_BEFORE.search(before) else None


def _read_dimension(match: re.Match[str]) -> str | None:
    before = match.string[max(0, match.start() - 5) : match.start()]
    return "乘" if _DIMENSION_BEFORE.search(before) else None


RULES: Final = (
    Rule(
        "list marker", Start.DIGIT, _LIST_MARKER,
        lambda match: f"{cardinal(match['number'])}，", cue=_LINE_START,
    ),
    Rule("sum", Start.DIGIT | Start.SYMBOL, _SUM, _read_sum),
    Rule("blood pressure", Start.DIGIT, _PRESSURE, _read_pressure),
    Rule("fraction", Start.DIGIT, _FRACTION, _read_fraction),
    Rule("score", Start.DIGIT, _SCORE, _read_score),
    Rule("score with a hyphen", Start.DIGIT, _SCORE_WITH_HYPHEN, _read_score, cue=_SCORE_CUE),
    Rule("power", Start.DIGIT, _POWER, _read_power),
    Rule("range mark", Start.SYMBOL, _RANGE_MARK, _read_range_mark),
    Rule(
        "range to a part of the day", Start.SYMBOL, _RANGE_TO_PART_OF_DAY,
        lambda _match: "到", cue=_TIME_BEFORE,
    ),
    Rule("per unit", Start.SYMBOL, PER_UNIT, _read_per_unit, cue=PER_UNIT_CUE),
    Rule("dimension", Start.SYMBOL | Start.LETTER, _DIMENSION, _read_dimension),
    Rule("quantity", Start.DIGIT | Start.SYMBOL | Start.LETTER, QUANTITY, read_quantity),
    Rule(
        "decimals only", Start.SYMBOL, _LEADING_POINT,
        lambda match: f"零点{spell(match['decimals'])}",
    ),
)  # fmt: skip
