"""A lexicon: phrases, and what is said for them. Immutable, and identified by its content."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator  # noqa: TC003 - dataclass fields and public annotations
from dataclasses import dataclass, field
from typing import Final, Literal

from tts_tasks.lexicons.ipa import parse_ipa
from tts_tasks.lexicons.pinyin import UNCHANGED, parse_syllables

#: What an entry says: other words, Mandarin syllables, or sounds.
Kind = Literal["text", "pinyin", "ipa"]
KINDS: Final[tuple[Kind, ...]] = ("text", "pinyin", "ipa")

MAX_ENTRIES: Final = 50_000
MAX_PHRASE_CHARS: Final = 64
MAX_SAID_CHARS: Final = 512

_HAN: Final = re.compile("[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_WORD: Final = re.compile(r"[^\W_]")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ue000-\uf8ff]")
_ASCII_ALNUM: Final = re.compile("[A-Za-z0-9]")


def is_han(char: str) -> bool:
    """Whether a character is a Chinese one, for which pinyin has one syllable."""
    return _HAN.match(char) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """One override. Made by `entry`, which checks it."""

    phrase: str
    kind: Kind
    said: str  #: words; syllables separated by spaces, ``_`` for one left as it is; or IPA

    @property
    def syllables(self) -> tuple[str, ...]:
        """The pinyin of the phrase's Chinese characters, one after the other."""
        return tuple(self.said.split()) if self.kind == "pinyin" else ()


def entry(phrase: str, kind: Kind, said: str) -> Entry:
    """Return an entry in its canonical spelling; raises ValueError saying what is wrong."""
    phrase = unicodedata.normalize("NFC", phrase)
    _check_text("the phrase", phrase, MAX_PHRASE_CHARS)
    if not phrase.strip():
        raise ValueError("the phrase is empty")
    if phrase != phrase.strip():
        raise ValueError("the phrase begins or ends with white space")
    if kind == "text":
        said = unicodedata.normalize("NFC", said)
        _check_text("the text", said, MAX_SAID_CHARS)
        return Entry(phrase, kind, said)
    if len(said) > MAX_SAID_CHARS:
        raise ValueError(f"the {kind} is {len(said)} characters long; at most {MAX_SAID_CHARS}")
    if not _WORD.search(phrase):
        raise ValueError(f"the phrase holds no letter and no digit that {kind} could stand for")
    if kind == "ipa":
        return Entry(phrase, kind, parse_ipa(said))
    return Entry(phrase, kind, " ".join(_checked_syllables(phrase, said)))


def _check_text(what: str, text: str, max_chars: int) -> None:
    if len(text) > max_chars:
        raise ValueError(f"{what} is {len(text)} characters long; at most {max_chars}")
    if found := _CONTROL.search(text):
        raise ValueError(f"{what} holds U+{ord(found.group()):04X}, which cannot be spoken")


def _checked_syllables(phrase: str, said: str) -> tuple[str, ...]:
    syllables = parse_syllables(said)
    if all(syllable == UNCHANGED for syllable in syllables):
        raise ValueError("the pinyin holds no syllable")
    han = len(_HAN.findall(phrase))
    if han == 0 and UNCHANGED in syllables:
        raise ValueError("_ stands for a Chinese character, and the phrase holds none")
    # A word of letters (GLM) may be said with any number of syllables.
    if han not in (0, len(syllables)):
        raise ValueError(
            f"{len(syllables)} syllables for {han} Chinese characters; write one for each, "
            f"or {UNCHANGED} for one that is left as it is"
        )
    return syllables


@dataclass(frozen=True, slots=True)
class Match:
    """Where a phrase stands in a text."""

    start: int
    end: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Entries by phrase, in the order of the phrases, so that equal content is equal.

    A phrase is found as it is written, case included; of two that begin at the same place the
    longer one counts, and what is found is not looked at again. One that begins (or ends) with
    an ASCII letter or digit is not found within a longer word or number.
    """

    entries: tuple[Entry, ...] = ()
    _by_phrase: dict[str, Entry] = field(init=False, repr=False, compare=False)
    #: first character → the lengths of the phrases that begin with it, longest first
    _lengths: dict[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort and index; raises ValueError for a phrase that is there twice, or too many."""
        if len(self.entries) > MAX_ENTRIES:
            raise ValueError(f"a lexicon holds at most {MAX_ENTRIES} entries")
        by_phrase = {one.phrase: one for one in sorted(self.entries, key=lambda one: one.phrase)}
        if len(by_phrase) < len(self.entries):
            raise ValueError("a phrase is given twice")
        lengths: dict[str, set[int]] = {}
        for phrase in by_phrase:
            lengths.setdefault(phrase[0], set()).add(len(phrase))
        ordered = {char: tuple(sorted(sizes, reverse=True)) for char, sizes in lengths.items()}
        object.__setattr__(self, "entries", tuple(by_phrase.values()))
        object.__setattr__(self, "_by_phrase", by_phrase)
        object.__setattr__(self, "_lengths", ordered)

    def matches(self, text: str) -> Iterator[Match]:
        """Yield where phrases stand in a text in Unicode form NFC, from left to right."""
        position, lengths = 0, self._lengths
        while position < len(text):
            found = None
            for length in lengths.get(text[position], ()):
                one = self._by_phrase.get(text[position : position + length])
                if one is not None and _stands_alone(text, position, position + length):
                    found = Match(position, position + length, one)
                    break
            if found is None:
                position += 1
            else:
                yield found
                position = found.end

    def to_jsonl(self) -> str:
        """Return the lexicon in our form, one entry a line: its one canonical spelling."""
        lines = (
            json.dumps({"phrase": one.phrase, one.kind: one.said}, ensure_ascii=False)
            for one in self.entries
        )
        return "".join(f"{line}\n" for line in lines)

    @property
    def sha256(self) -> str:
        """Hash of the content, as hex."""
        return hashlib.sha256(self.to_jsonl().encode()).hexdigest()


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether no ASCII word goes on across the ends of a phrase."""
    return not (
        (start > 0 and _ASCII_ALNUM.match(text[start]) and _ASCII_ALNUM.match(text[start - 1]))
        or (end < len(text) and _ASCII_ALNUM.match(text[end - 1]) and _ASCII_ALNUM.match(text[end]))
    )
