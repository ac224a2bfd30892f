"""Rules of both languages that differ in a few words only: addresses, codes, lone symbols."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from tts_workers.text.currencies import CURRENCY_CODES
from tts_workers.text.rules import Rule, Start
from tts_workers.text.scripts import HAN
from tts_workers.text.units import UNIT_WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping


class Words(Protocol):
    """What a language calls the parts of an address, and how it reads digits."""

    at: str
    dot: str
    slash: str
    hyphen: str
    underscore: str
    per: str
    conjunction: str
    plus: str
    squared: str
    cubed: str

    @property
    def operators(self) -> Mapping[str, str]:
        """The words for mathematical signs beside a number."""
        ...

    def spell(self, digits: str) -> str:
        """Read digit by digit."""
        ...

    def cardinal(self, digits: str) -> str:
        """Read as an amount."""
        ...

    def dotted(self, digits: str) -> str:
        """Read a decimal or a version."""
        ...

    def numbered(self, digits: str, *, is_hash: bool) -> str:
        """Read what ``No.`` or ``#`` precedes."""
        ...


_HOST: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?\.){1,6}"
_TOP_LEVEL: Final = (
    r"(?:com|org|net|edu|gov|cn|hk|tw|uk|us|io|ai|co|app|dev|info|biz|top|xyz|me|tv|cc|eu|de|jp|sg"
    r"|au|ca)"
)
_EMAIL: Final = re.compile(
    rf"(?P<user>[A-Za-z0-9][A-Za-z0-9._+-]{{0,63}})@(?P<host>{_HOST}[A-Za-z]{{2,24}})(?![A-Za-z0-9-])"
)
_URL: Final = re.compile(
    rf"(?:(?:[hH][tT]{{2}}[pP][sS]?|[fF][tT][pP])://(?P<any>(?:[A-Za-z0-9-]{{1,63}}\.){{0,6}}[A-Za-z0-9-]{{1,63}})"
    rf"|(?P<known>{_HOST}{_TOP_LEVEL})(?![A-Za-z0-9-]|\.[A-Za-z]))"
    r"(?P<port>:[0-9]{1,5})?(?P<path>(?:/[A-Za-z0-9._~%+@:-]{0,80}){0,10})(?:[?#][!-~]{0,2000})?"
)
_ADDRESS_PART: Final = re.compile(r"[A-Za-z]+|[0-9]+|[._/@+-]")
#: Longer paths are for the eye; the host is what a listener can use.
_LONGEST_SPOKEN_PATH: Final = 40
_SAID_AS_WORDS: Final = frozenset({"com", "net", "org", "gov", "app", "dev", "biz", "top"})

#: A model, flight, train, gate: letters and digits in one token. ``3rd`` and ``5kg`` are not.
_CODE: Final = re.compile(
    r"(?<![0-9A-Za-z])(?=[A-Za-z]{1,24}[-·]?[0-9]|[0-9]{1,24}[A-Za-z])(?:[A-Za-z]{1,24}|[0-9]{1,24})"
    r"(?:[-·]?(?:[A-Za-z]{1,24}|[0-9]{1,24})){0,8}(?![A-Za-z0-9])"
)
_CODE_WITH_DECIMALS: Final = re.compile(
    r"(?P<letters>[A-Za-z]{1,12})(?P<number>[0-9]{1,4}(?:\.[0-9]{1,4}){1,3})(?![0-9A-Za-z])"
)
_SPACE_BESIDE_HAN: Final = re.compile(rf" (?=[{HAN}])|(?<=[{HAN}]) ")
_CODE_PART: Final = re.compile(r"[A-Za-z]+|[0-9]+")
_NUMBER_UNIT: Final = re.compile(r"[0-9]+([A-Za-z]+[23]?)(?![A-Za-z0-9])")
#: Ordinals, decades, dimensions.
_NOT_A_CODE: Final = re.compile(r"[0-9]+(?:[sS][tT]|[nN][dD]|[rR][dD]|[tT][hH]|s|x[0-9]+)?")
#: Up to this many digits a code's number is said as a number: gate A twelve, Boeing A 320.
_LONGEST_CARDINAL_IN_CODE: Final = 2
_LONGEST_SPELLED_LETTERS: Final = 3
_TRAIN_AFTER: Final = re.compile(r"\s?次(?!数)")

_NUMBER_SIGN: Final = re.compile(
    r"(?P<sign>No\.?|NO\.?|no\.|#)\s?(?P<digits>[0-9]{1,6})(?![0-9.,:/%-]*[0-9])"
)
_NUMERIC: Final = frozenset("0123456789万亿千百")
_OPERATOR: Final = re.compile(r"(?P<sign>[=×÷<>≤≥≈±+√])=?")
_PLUS_AFTER_LETTER: Final = re.compile(r"(?<=[A-Za-z])\+{1,3}(?![A-Za-z0-9+])")
_AMPERSAND: Final = re.compile(r"\s?&\s?")
_PER: Final = re.compile(
    r"/(?=\s?(?:[月年天日时人次晚间件位斤吨升套股分秒]|小时|平米|平方米|公斤|公里|千克|千瓦时|度"
    r"|(?:day|week|month|year|night|hour|minute|second|person|unit|item|share|user)\b))"
)
_PER_BEFORE: Final = re.compile(r"[0-9]\s?(?:[元块次人天件滴转步个升克米度%kKMB]|公里)?$")
_SUPERSCRIPT: Final = re.compile(r"(?<=[0-9A-Za-z)）])[²³]")


def _is_spoken_beside(text: str, start: int, end: int) -> bool:
    """Whether an operator stands beside a number, so that it is not decoration."""
    before = text[max(0, start - 2) : start].rstrip()[-1:]
    after = text[end : end + 2].lstrip()[:1]
    return any(char and char in _NUMERIC for char in (before, after))


def _padded(word: str) -> str:
    """Set an English word off from what surrounds it; Chinese needs no space."""
    return f" {word} " if word.isascii() else word


class _SharedReader:
    """The readers of the shared rules in the words of one language."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def email(self, match: re.Match[str]) -> str:
        return self._address(match[0])

    def url(self, match: re.Match[str]) -> str:
        path = (match["path"] or "").rstrip("/.:")
        if len(path) > _LONGEST_SPOKEN_PATH or "%" in path:
            path = ""
        return self._address((match["any"] or match["known"]) + path)

    def _address(self, written: str) -> str:
        signs = {
            ".": self._words.dot, "/": self._words.slash, "@": self._words.at,
            "-": self._words.hyphen, "_": self._words.underscore, "+": self._words.plus,
        }  # fmt: skip
        parts = []
        for part in _ADDRESS_PART.findall(written):
            if part in signs:
                parts.append(signs[part])
            elif part.isdigit():
                parts.append(self._words.spell(part))
            else:
                is_initials = len(part) <= _LONGEST_SPELLED_LETTERS and part not in _SAID_AS_WORDS
                parts.append(" ".join(part.upper()) if is_initials else part)
        return " ".join(parts)

    def code(self, match: re.Match[str]) -> str | None:
        code = match[0]
        unit = _NUMBER_UNIT.match(code)
        if (unit and unit[1] in UNIT_WORDS) or _NOT_A_CODE.fullmatch(code):
            return None
        parts = _CODE_PART.findall(code)
        if len(parts) == 2 and not CURRENCY_CODES.isdisjoint(parts):
            return None
        is_train = _TRAIN_AFTER.match(match.string, match.end()) is not None
        return self._code_words(parts, digit_by_digit=is_train)

    def code_with_decimals(self, match: re.Match[str]) -> str:
        words = f"{self._letters(match['letters'])} {self._words.dotted(match['number'])}"
        return _SPACE_BESIDE_HAN.sub("", words)

    def _code_words(self, parts: list[str], *, digit_by_digit: bool) -> str:
        words = []
        for part in parts:
            if not part.isdigit():
                words.append(self._letters(part))
            elif digit_by_digit or len(part) > _LONGEST_CARDINAL_IN_CODE or part[0] == "0":
                words.append(self._words.spell(part))
            else:
                words.append(self._words.cardinal(part))
        return _SPACE_BESIDE_HAN.sub("", " ".join(words))

    @staticmethod
    def _letters(letters: str) -> str:
        is_initials = letters.isupper() and len(letters) <= _LONGEST_SPELLED_LETTERS
        if letters == "TOP":
            return "top"
        return " ".join(letters) if is_initials else letters

    def number_sign(self, match: re.Match[str]) -> str:
        return self._words.numbered(match["digits"], is_hash=match["sign"] == "#")

    def operator(self, match: re.Match[str]) -> str | None:
        if not _is_spoken_beside(match.string, match.start(), match.end()):
            return None
        sign = {"<=": "≤", ">=": "≥", "==": "="}.get(match[0], match["sign"])
        return _padded(self._words.operators[sign])

    def plus_after_letter(self, match: re.Match[str]) -> str:
        return " ".join([self._words.plus] * len(match[0]))

    def ampersand(self, _match: re.Match[str]) -> str:
        return _padded(self._words.conjunction)

    def per(self, match: re.Match[str]) -> str | None:
        before = match.string[max(0, match.start() - 3) : match.start()]
        return _padded(self._words.per) if _PER_BEFORE.search(before) else None

    def superscript(self, match: re.Match[str]) -> str:
        return _padded(self._words.squared if match[0] == "²" else self._words.cubed)


def first_rules(words: Words) -> tuple[Rule, ...]:
    """Return what comes before anything else: an address is never a number."""
    reader = _SharedReader(words)
    token = Start.LETTER | Start.DIGIT
    return (
        Rule("email", token, _EMAIL, reader.email),
        Rule("URL", token, _URL, reader.url),
        Rule("number sign", Start.LETTER | Start.SYMBOL, _NUMBER_SIGN, reader.number_sign),
    )


def code_rules(words: Words) -> tuple[Rule, ...]:
    """Return the rules for tokens of letters and digits; they come after dates and times."""
    reader = _SharedReader(words)
    token = Start.LETTER | Start.DIGIT
    return (
        Rule("code with decimals", Start.LETTER, _CODE_WITH_DECIMALS, reader.code_with_decimals),
        Rule("code", token, _CODE, reader.code),
    )


def last_rules(words: Words) -> tuple[Rule, ...]:
    """Return what reads the symbols that no number has claimed."""
    reader = _SharedReader(words)
    return (
        Rule("plus after a letter", Start.SYMBOL, _PLUS_AFTER_LETTER, reader.plus_after_letter),
        Rule("per", Start.SYMBOL, _PER, reader.per),
        Rule("operator", Start.SYMBOL, _OPERATOR, reader.operator),
        Rule("ampersand", Start.SYMBOL, _AMPERSAND, reader.ampersand),
        Rule("superscript", Start.SYMBOL | Start.DIGIT, _SUPERSCRIPT, reader.superscript),
    )
