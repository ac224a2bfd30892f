"""Numbers in Chinese words: cardinals by cn2an, and the choices a speaker makes around them."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Longer integers are no longer said as an amount, but digit by digit.
LONGEST_CARDINAL: Final = 16

_DIGITS: Final = str.maketrans("0123456789", "零一二三四五六七八九")
#: 幺 tells 1 from 7 on the telephone; years and decimals keep 一.
_DIGITS_ON_THE_PHONE: Final = str.maketrans("0123456789", "零幺二三四五六七八九")
_NOT_A_DIGIT: Final = re.compile(r"[^0-9]+")

#: After these, and no other words, a lone 2 is 两. Dates, floors, lines and ranks keep 二.
MEASURE: Final = re.compile(
    r"\s?(?:个|位|只|条|张|天|小时|分钟|秒|次|元|块|人|件|台|部|家|岁|倍|米|公里|千米|厘米|毫米|公斤"
    r"|千克|斤|克|吨|升|毫升|杯|瓶|盒|袋|片|粒|颗|滴|支|把|间|遍|趟|站|种|项|份|本|句|场|轮|组|口|双|对"
    r"|套|夜|刻钟|所|门|辆|架|艘|课|节|道|笔|万|亿|千|周(?!岁)|星期|晚|国|分(?!之)|点(?!之)|时(?![间候代期])|年(?!级)|美元|欧元|英镑"
    r"|日元|港元|美金|角|英寸|英里|英尺|磅|名|成|户|股|桌|席|封|幅|顿|番|批|平方|立方|多个|余)"
)


@cache
def _an2cn() -> Callable[[str], str]:
    from cn2an import an2cn  # type: ignore[import-untyped]

    converter: Callable[[str], str] = an2cn
    return converter


def spell(digits: str, *, on_the_phone: bool = False) -> str:
    """Read digit by digit; anything else in ``digits`` is left out. ``2026`` is 二零二六."""
    table = _DIGITS_ON_THE_PHONE if on_the_phone else _DIGITS
    return _NOT_A_DIGIT.sub("", digits).translate(table)


def cardinal(integer: str) -> str:
    """Read an integer (digits and commas) as an amount: ``1001`` 一千零一, ``2000`` 两千."""
    digits = _NOT_A_DIGIT.sub("", integer)
    if len(digits) > LONGEST_CARDINAL or (len(digits) > 1 and digits[0] == "0"):
        return spell(digits)
    words = _an2cn()(digits)
    return "两" + words[1:] if words[0] == "二" and words[1:2] in tuple("千万亿") else words


def number(written: str, *, pairs: bool = False, trim: bool = False) -> str:
    """Read a number with optional commas and decimals.

    ``pairs`` says that something is counted, so that a lone 2 is 两; ``trim`` drops zeros at the
    end of the decimals, which an amount of money carries only in writing.
    """
    integer, _, decimals = written.partition(".")
    if trim:
        decimals = decimals.rstrip("0")
    if decimals:
        return f"{cardinal(integer)}点{spell(decimals)}"
    return "两" if pairs and integer == "2" else cardinal(integer)


def dotted(written: str) -> str:
    """Read a decimal, or a version with more than one point: ``2.3.10`` 二点三点十."""
    parts = written.split(".")
    return number(written) if len(parts) <= 2 else "点".join(map(cardinal, parts))


def scaled(written: str, power_of_ten: int) -> str:
    """Read ``written`` times a power of ten, for scales Chinese does not have: ``2.5`` million."""
    value = Decimal(written.replace(",", "")).scaleb(power_of_ten)
    return number(f"{value:f}", trim=True)
