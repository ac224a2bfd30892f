"""A lexicon's overrides on their way through the front end.

A phrase is looked for in the text as it was written, because that is where people look. Other
words for it are put in its place, and are normalised with the text around them. What is to be
pronounced is put aside, and something that stands in for it goes through normalisation and
splitting: a Chinese character for each one, or a word of letters for one of letters. So the rules
see a text of the same shape, a number beside it is read in the right language, and a segment is
as long as it was. In the segments the stand-ins give way to what the engine wants.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

from tts_tasks.errors import RequestError
from tts_tasks.lexicons import UNCHANGED, Entry, is_han

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tts_tasks.lexicons import Lexicon

#: Rare characters of the Unicode block CJK Extension B: whole, of no other spelling, and Chinese.
_HAN_STAND_INS: Final = range(0x2A6D6, 0x20000 - 1, -1)
#: What words that stand in are made of: no language has such words, and no rule knows them.
_LETTERS: Final = "qxzvkjw"
#: As long as an acronym, which a word of letters in a lexicon mostly is.
_CHARS_OF_A_WORD: Final = 4


@dataclass(frozen=True, slots=True)
class Pronunciation:
    """What an engine is to say for a piece of a text, in one breath."""

    phrase: str  #: of the lexicon, for messages
    syllables: tuple[str, ...] = ()  #: pinyin with tone numbers
    ipa: str = ""


#: Returns an engine's spelling of a pronunciation, which becomes a part of a segment's text;
#: raises `RequestError` with the field ``lexicon`` for one that the engine cannot say.
Spell = Callable[[Pronunciation], str]


class Overrides:
    """The overrides of one text."""

    def __init__(self, text: str, lexicon: Lexicon) -> None:
        """Find them."""
        written = unicodedata.normalize("NFC", text)
        matches = list(lexicon.matches(written))
        self._free_han = _free_han(written)
        self._free_words = _free_words(written, len(matches))
        #: stand-in → the entry, and which of its syllables
        self._meaning: dict[str, tuple[Entry, int]] = {}
        self._stand_ins: dict[tuple[Entry, int], str] = {}
        parts: list[str] = []
        position = 0
        for match in matches:
            parts += written[position : match.start], self._in_place_of(match.entry)
            position = match.end
        #: what is to be normalised instead of the text as written
        self.text = "".join((*parts, written[position:]))
        self._pattern = self._of_stand_ins()

    def spelled(self, normalised: str, spell: Spell) -> str:
        """Return a piece of the normalised text in which the engine's spelling stands."""
        if self._pattern is None:
            return normalised
        parts: list[str] = []
        position = 0
        for start, end, pronunciation in self._runs(normalised, self._pattern):
            parts += normalised[position:start], spell(pronunciation)
            position = end
        return "".join((*parts, normalised[position:]))

    def _in_place_of(self, entry: Entry) -> str:
        if entry.kind == "text":
            return entry.said
        of_han = any(map(is_han, entry.phrase))
        if entry.kind == "ipa" or not of_han:
            return self._stand_in(entry, 0, of_han=of_han)
        places = enumerate(entry.syllables)
        said = []
        for char in entry.phrase:
            if is_han(char):
                index, syllable = next(places)
                is_left = syllable == UNCHANGED
                said.append(char if is_left else self._stand_in(entry, index, of_han=True))
            else:
                said.append(char)
        return "".join(said)

    def _stand_in(self, entry: Entry, index: int, *, of_han: bool) -> str:
        known = self._stand_ins.get((entry, index))
        if known is None:
            known = next(self._free_han if of_han else self._free_words, None)
            if known is None:
                raise RequestError("lexicon", "overrides too many different phrases of this text")
            if entry.phrase.isupper():
                known = known.upper()
            self._stand_ins[entry, index] = known
            self._meaning[known] = entry, index
        return known

    def _of_stand_ins(self) -> re.Pattern[str] | None:
        if not self._meaning:
            return None
        han = "".join(one for one in self._meaning if len(one) == 1)
        words = [one for one in self._meaning if len(one) > 1]
        return re.compile("|".join((*words, f"[{han}]") if han else words))

    def _runs(
        self, text: str, pattern: re.Pattern[str]
    ) -> Iterator[tuple[int, int, Pronunciation]]:
        """Yield each pronunciation: syllables that follow on each other in their entry are one."""
        run: list[str] = []
        start = 0
        after: tuple[Entry | None, int, int] = (None, 0, 0)  # what would go on with the run
        for match in pattern.finditer(text):
            entry, index = self._meaning[match[0]]
            if run and (entry, index, match.start()) != after:
                yield start, after[2], Pronunciation(_phrase(after[0]), tuple(run))
                run = []
            if len(match[0]) == 1 and entry.kind == "pinyin":
                start = start if run else match.start()
                run.append(entry.syllables[index])
            elif entry.kind == "pinyin":
                yield *match.span(), Pronunciation(entry.phrase, entry.syllables)
            else:
                yield *match.span(), Pronunciation(entry.phrase, ipa=entry.said)
            after = entry, index + 1, match.end()
        if run:
            yield start, after[2], Pronunciation(_phrase(after[0]), tuple(run))


def _phrase(entry: Entry | None) -> str:
    return entry.phrase if entry else ""


def _free_han(text: str) -> Iterator[str]:
    """Yield characters that the text does not hold, be it as entities of HTML."""
    taken = set(text) | set(html.unescape(text))
    return (chr(code) for code in _HAN_STAND_INS if chr(code) not in taken)


def _free_words(text: str, wanted: int) -> Iterator[str]:
    """Yield words of one length that begin as nothing in the text does."""
    folded = html.unescape(text).casefold()
    beginnings = ("".join(pair) for pair in product(_LETTERS, repeat=2))
    beginning = next((one for one in beginnings if one not in folded), None)
    if beginning is None:
        return iter(())
    letters = _CHARS_OF_A_WORD - 2
    while len(_LETTERS) ** letters < wanted:
        letters += 1
    return (beginning + "".join(rest) for rest in product(_LETTERS, repeat=letters))
