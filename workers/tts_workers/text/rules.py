"""The scanner: walks over a cleaned text once and replaces what a rule knows how to read.

A rule is a pattern that is matched where a number, a word or a symbol begins, and a reader that
turns the match into words or declines. Rules are tried in order and what one has read is never
looked at again, so no rule sees another's output. Each pattern is bounded: a pass takes time
linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, auto
from typing import Final

from tts_workers.text.scripts import HAN, LATIN, Language, LanguageContext
from tts_workers.text.units import UNIT_PATTERN

#: An unsigned number as written, with thousands separators and decimals.
NUMBER: Final = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
#: How far before a number its cue (``tail number``, ``ends in``) may begin.
_CUE_REACH: Final = 32

_CANDIDATE: Final = re.compile(rf"[0-9]|[{LATIN}]|[^\w\s]|[⁰-₟²³¹]")
_WORD: Final = re.compile(f"[{LATIN}]+")
#: What probably belongs to a number or an address, only to find out what stands around it.
_EXTENT: Final = re.compile(
    rf"[-+±¥$€£0-9.,:/%‰°~–]{{0,40}}[0-9%‰°](?:\s?{UNIT_PATTERN})?"
    r"|[A-Za-z0-9@._:/+#?=&%-]{1,100}|[^\w\s]"
)
_IS_HAN: Final = re.compile(f"[{HAN}]")

Reader = Callable[[re.Match[str]], str | None]


class Start(Flag):
    """What a rule's pattern may begin with."""

    DIGIT = auto()
    LETTER = auto()
    SYMBOL = auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to read something; ``cue`` must match the text that ends where the pattern begins."""

    name: str
    starts: Start
    pattern: re.Pattern[str]
    read: Reader
    cue: re.Pattern[str] | None = None

    def apply(self, text: str, position: int) -> tuple[str, int] | None:
        """Return the reading and where it ends, or None where the rule does not apply."""
        match = self.pattern.match(text, position)
        if match is None or match.end() == position:
            return None
        if self.cue and not self.cue.search(text, max(0, position - _CUE_REACH), position):
            return None
        reading = self.read(match)
        return None if reading is None else (reading, match.end())


class RuleBook:
    """The rules of one language, in the order in which they are tried."""

    def __init__(self, *groups: tuple[Rule, ...]) -> None:
        rules = [rule for group in groups for rule in group]
        self._by_start = {
            start: tuple(rule for rule in rules if rule.starts & start) for start in Start
        }

    def read(self, text: str, position: int) -> tuple[str, int] | None:
        """Return the first applicable rule's reading of what begins at ``position``."""
        char = text[position]
        if "0" <= char <= "9":
            start = Start.DIGIT
        else:
            start = Start.LETTER if char.isalpha() else Start.SYMBOL
        for rule in self._by_start[start]:
            if (result := rule.apply(text, position)) is not None:
                return result
        return None


class _Output:
    """Joins readings with the text around them: words get a space, Chinese does not."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._last = ""  # the last character written
        self._was_reading = False

    def text(self, part: str) -> None:
        if not part:
            return
        if self._was_reading:
            if _IS_HAN.match(self._last) and part[0] == " " and _IS_HAN.match(part[1:2]):
                part = part[1:]
            elif self._last.isalnum() and part[0].isalnum() and part[0].isascii():
                part = f" {part}" if self._last.isascii() else part
        self._write(part, was_reading=False)

    def reading(self, part: str) -> None:
        if not part:
            return
        last, first = self._last, part[0]
        if _IS_HAN.match(first) and last == " " and not self._was_reading and self._parts:
            stripped = self._parts[-1].rstrip(" ")
            if stripped and _IS_HAN.match(stripped[-1]):
                self._parts[-1] = stripped
        elif last.isalnum() and last.isascii() and first.isalnum() and first.isascii():
            part = f" {part}"
        self._write(part, was_reading=True)

    def _write(self, part: str, *, was_reading: bool) -> None:
        self._parts.append(part)
        self._last = part[-1]
        self._was_reading = was_reading

    def joined(self) -> str:
        return "".join(self._parts)


def read_aloud(text: str, books: dict[Language, RuleBook], default: Language) -> str:
    """Replace everything in a cleaned text that a rule can read with its words."""
    context = LanguageContext(text, default)
    output = _Output()
    position = 0
    while (candidate := _CANDIDATE.search(text, position)) is not None:
        start = candidate.start()
        output.text(text[position:start])
        extent = _EXTENT.match(text, start)
        language = context.language(start, extent.end() if extent else start + 1)
        result = books[language].read(text, start)
        if result is not None:
            reading, position = result
            output.reading(reading)
            continue
        word = _WORD.match(text, start)
        position = word.end() if word else start + 1
        output.text(text[start:position])
    output.text(text[position:])
    return output.joined()
