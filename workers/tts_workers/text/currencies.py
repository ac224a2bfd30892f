"""Currencies: symbols and codes before or after an amount, and how each language says them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Currency:
    """How a currency is said; ``minor`` is its hundredth, empty where nobody counts in it."""

    zh: str
    singular: str
    plural: str
    minor_singular: str = ""
    minor_plural: str = ""


YUAN: Final = Currency("元", "yuan", "yuan")
_DOLLAR: Final = Currency("美元", "dollar", "dollars", "cent", "cents")
_US_DOLLAR: Final = Currency("美元", "US dollar", "US dollars", "cent", "cents")
_HK_DOLLAR: Final = Currency("港元", "Hong Kong dollar", "Hong Kong dollars", "cent", "cents")
_TW_DOLLAR: Final = Currency("新台币", "New Taiwan dollar", "New Taiwan dollars")
_AU_DOLLAR: Final = Currency("澳元", "Australian dollar", "Australian dollars", "cent", "cents")
_CA_DOLLAR: Final = Currency("加元", "Canadian dollar", "Canadian dollars", "cent", "cents")
_SG_DOLLAR: Final = Currency("新加坡元", "Singapore dollar", "Singapore dollars", "cent", "cents")
_EURO: Final = Currency("欧元", "euro", "euros", "cent", "cents")
_POUND: Final = Currency("英镑", "pound", "pounds", "penny", "pence")
_YEN: Final = Currency("日元", "yen", "yen")
_WON: Final = Currency("韩元", "won", "won")
_FRANC: Final = Currency("瑞士法郎", "Swiss franc", "Swiss francs")

_CODES: Final = {
    "RMB": YUAN, "CNY": YUAN, "USD": _US_DOLLAR, "HKD": _HK_DOLLAR, "TWD": _TW_DOLLAR,
    "AUD": _AU_DOLLAR, "CAD": _CA_DOLLAR, "SGD": _SG_DOLLAR, "EUR": _EURO, "GBP": _POUND,
    "JPY": _YEN, "KRW": _WON, "CHF": _FRANC,
}  # fmt: skip
_SYMBOLS: Final = {
    "¥": YUAN, "$": _DOLLAR, "€": _EURO, "£": _POUND, "₩": _WON, "US$": _US_DOLLAR,
    "HK$": _HK_DOLLAR, "NT$": _TW_DOLLAR, "A$": _AU_DOLLAR, "AU$": _AU_DOLLAR, "C$": _CA_DOLLAR,
    "CA$": _CA_DOLLAR, "S$": _SG_DOLLAR, "CN¥": YUAN, "JP¥": _YEN,
    "₹": Currency("卢比", "rupee", "rupees"), "₽": Currency("卢布", "ruble", "rubles"),
    "฿": Currency("泰铢", "baht", "baht"), "₫": Currency("越南盾", "dong", "dong"),
}  # fmt: skip
_WORDS: Final = {
    "元人民币": YUAN, "人民币": YUAN, "美元": _US_DOLLAR, "美金": _US_DOLLAR, "欧元": _EURO,
    "英镑": _POUND, "日元": _YEN, "日圆": _YEN, "港元": _HK_DOLLAR, "港币": _HK_DOLLAR,
    "澳元": _AU_DOLLAR, "加元": _CA_DOLLAR, "新台币": _TW_DOLLAR, "韩元": _WON,
    "瑞士法郎": _FRANC, "新加坡元": _SG_DOLLAR, "元": YUAN,
    "US dollars": _US_DOLLAR, "dollars": _DOLLAR, "dollar": _DOLLAR, "euros": _EURO, "euro": _EURO,
    "pounds": _POUND, "yuan": YUAN, "yen": _YEN,
}  # fmt: skip
_BEFORE: Final = {**_CODES, **_SYMBOLS}
_AFTER: Final = {**_CODES, **_WORDS, **{symbol: _SYMBOLS[symbol] for symbol in "€£¥$"}}

CURRENCY_CODES: Final = frozenset(_CODES)


def _alternatives(names: dict[str, Currency]) -> str:
    return "|".join(
        re.escape(name) + ("(?![A-Za-z])" if name[-1].isascii() and name[-1].isalpha() else "")
        for name in sorted(names, key=len, reverse=True)
    )


CURRENCY_BEFORE: Final = _alternatives(_BEFORE)
CURRENCY_AFTER: Final = _alternatives(_AFTER)


def currency_of(before: str | None, after: str | None) -> Currency | None:
    """Return the one currency of an amount written with a symbol, a word, or both.

    The word is the more exact of the two (``¥100日元``), except for a bare 元, which names the
    unit of the symbol's currency (``HK$100元``).
    """
    if after is not None and not (before and after in {"元", "dollars", "dollar"}):
        return _AFTER[after]
    return _BEFORE[before] if before else None


def written_word(after: str | None) -> str | None:
    """Return the Chinese word an amount ended with, to be kept as its author wrote it."""
    return after if after in _WORDS and not after.isascii() else None
