"""Amounts as they are written, in whatever language they are then said.

One pattern knows sign, currency, number, range, scale and unit, so that each is read once:
``-5~8°C``, ``¥1,234.50元``, ``$2.5 million``, ``3-5%``, ``HK$20``, ``100km/h``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tts_workers.text.currencies import (
    CURRENCY_AFTER,
    CURRENCY_BEFORE,
    Currency,
    currency_of,
    written_word,
)
from tts_workers.text.rules import NUMBER
from tts_workers.text.units import UNIT_PATTERN, Unit, unit_of

#: English scales as powers of ten; their letters count only after a currency.
SCALES: Final = {
    "thousand": 3, "k": 3, "K": 3, "million": 6, "mn": 6, "M": 6, "m": 6, "billion": 9, "bn": 9,
    "B": 9, "b": 9, "trillion": 12, "tn": 12, "T": 12,
}  # fmt: skip
_SCALE_LETTERS: Final = "|".join(sorted(SCALES, key=len, reverse=True))
_CHINESE_SCALES: Final = "万亿|千亿|百亿|十亿|亿|千万|百万|十万|万|千|百"

QUANTITY: Final = re.compile(
    rf"""
    (?P<sign>(?<![0-9A-Za-z)])[-+±])?
    (?:(?P<before>{CURRENCY_BEFORE})\s?)?
    (?P<low>{NUMBER})
    (?:
        \s?(?:[%‰]|{UNIT_PATTERN}|{_CHINESE_SCALES})?
        \s?[-–—~]\s?(?P<high_sign>-)?
        (?:(?:{CURRENCY_BEFORE})\s?)?
        (?P<high>{NUMBER})(?!-?[0-9]|[.,][0-9])
    )?
    (?:\s?(?P<scale>{_CHINESE_SCALES}|(?(before)(?:{_SCALE_LETTERS})(?![A-Za-z])|(?!))))?
    (?:
        \s?(?P<percent>[%‰])
        |\s?(?P<unit>{UNIT_PATTERN})
        |\s?(?P<after>{CURRENCY_AFTER})
    )?
    """,
    re.VERBOSE,
)
#: A divisor after something that is no plain number: ``4.5×10⁹/L``.
PER_UNIT: Final = re.compile(rf"/(?P<unit>{UNIT_PATTERN})")
PER_UNIT_CUE: Final = re.compile(r"[0-9²³¹⁰⁴-⁹个]\s?$")
_LOW_SCALE: Final = re.compile(_CHINESE_SCALES)


@dataclass(frozen=True, slots=True)
class Quantity:
    """One written amount, or a range of two (``high``); numbers are still digits."""

    sign: str
    low: str
    low_scale: str  #: the scale the lower end is written with: ``3万-5万``
    high: str
    high_sign: str
    scale: str  #: Chinese (``万``) or a key of `SCALES`
    percent: str  #: ``%``, ``‰`` or nothing
    unit: Unit | None
    currency: Currency | None
    currency_word: str | None  #: the Chinese currency word that was written, if any

    @property
    def is_plain(self) -> bool:
        """Whether it is nothing but a number or two."""
        return not (self.percent or self.unit or self.currency or self.scale)

    @property
    def is_one(self) -> bool:
        """Whether what follows it is singular in English."""
        return self.low == "1" and not self.high and not self.scale


def quantity_of(match: re.Match[str]) -> Quantity:
    """Return what a match of `QUANTITY` says."""
    unit = match["unit"]
    low_scale = ""
    if match["high"]:
        found = _LOW_SCALE.search(match.string, match.end("low"), match.start("high"))
        low_scale = found[0] if found else ""
    return Quantity(
        sign=match["sign"] or "",
        low=match["low"],
        low_scale=low_scale,
        high=match["high"] or "",
        high_sign=match["high_sign"] or "",
        scale=match["scale"] or "",
        percent=match["percent"] or "",
        unit=unit_of(unit) if unit else None,
        currency=currency_of(match["before"], match["after"]),
        currency_word=written_word(match["after"]),
    )
