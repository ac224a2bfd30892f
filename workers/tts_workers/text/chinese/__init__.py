"""What Chinese makes of numbers and symbols."""

from __future__ import annotations

from typing import Final

from tts_workers.text import shared
from tts_workers.text.chinese import calendar, identifiers, quantities
from tts_workers.text.chinese.numbers import cardinal, dotted, spell
from tts_workers.text.english.abbreviations import RULES as ABBREVIATIONS
from tts_workers.text.english.calendar import ENGLISH_DATES
from tts_workers.text.english.quantities import ORDINALS
from tts_workers.text.rules import RuleBook


class _Chinese:
    """The words the shared rules need, in Chinese."""

    at = "艾特"
    dot = "点"
    slash = "斜杠"
    hyphen = "杠"
    underscore = "下划线"
    per = "每"
    conjunction = "和"
    plus = "加"
    squared = "平方"
    cubed = "立方"
    operators: Final = {
        "=": "等于", "+": "加", "×": "乘", "÷": "除以", "<": "小于", ">": "大于", "≤": "小于等于",
        "≥": "大于等于", "≈": "约等于", "±": "正负", "√": "根号",
    }  # fmt: skip

    @staticmethod
    def spell(digits: str) -> str:
        return spell(digits, on_the_phone=True)

    @staticmethod
    def cardinal(digits: str) -> str:
        return cardinal(digits)

    @staticmethod
    def dotted(digits: str) -> str:
        return dotted(digits)

    @staticmethod
    def numbered(digits: str, *, is_hash: bool) -> str:
        return f"{cardinal(digits)}号" if is_hash else f"第{cardinal(digits)}"


BOOK: Final = RuleBook(
    shared.first_rules(_Chinese()),
    ABBREVIATIONS,
    ENGLISH_DATES,
    ORDINALS,
    calendar.RULES,
    identifiers.RULES,
    shared.code_rules(_Chinese()),
    quantities.RULES,
    shared.last_rules(_Chinese()),
)
