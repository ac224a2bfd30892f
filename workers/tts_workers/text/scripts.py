"""Which language a number is read in: that of the words around it.

A sentence without Han characters is English if it has words. In a sentence with Han characters,
stretches of Latin words are English when they are phrases (``has 3 apples``), while a lone brand
or acronym (``iPhone 15``, ``ATM``) belongs to the Chinese around it. A number takes the language of
the nearer side; punctuation in between counts as distance. What decides nothing falls back to the
language of the whole text, and a text without letters to the caller's default.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Literal

from tts_workers.text.units import UNIT_WORDS

Language = Literal["zh", "en"]

HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
#: Without the multiplication and division signs, which stand among the letters.
LATIN: Final = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_PIECE: Final = re.compile(
    rf"(?P<han>[{HAN}]+)|(?P<word>[{LATIN}][{LATIN}'’]*)|(?P<end>[。！？!?；;\n]|\.(?=\s|$))"
)
_GLUE_BEFORE: Final = frozenset("0123456789@_/.\\°")
_GLUE_AFTER: Final = frozenset("0123456789@_/\\$¥")
_CLAUSE_MARKS: Final = frozenset(',，、:：()（）—"“”')
_CLAUSE_MARK_DISTANCE: Final = 4
_LONGEST_ACRONYM: Final = 4
_WORDS_OF_A_PHRASE: Final = 2


@dataclass(slots=True)
class _Sentence:
    start: int
    han: list[tuple[int, int]] = field(default_factory=list)
    words: list[list[tuple[int, int]]] = field(default_factory=lambda: [[]])  # runs between Han


class LanguageContext:
    """Answers, for a span of a cleaned text, which language surrounds it."""

    def __init__(self, text: str, default: Language) -> None:
        self._text = text
        self._distance = list(
            accumulate(
                (_CLAUSE_MARK_DISTANCE if char in _CLAUSE_MARKS else 1 for char in text), initial=0
            )
        )
        sentences = self._scan()
        self.document: Language = self._of_document(sentences, default)
        self._starts = [sentence.start for sentence in sentences]
        self._languages: list[Language] = []
        self._anchors: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]] = []
        previous = self.document
        for sentence in sentences:
            phrases = self._phrases(sentence) if sentence.han else []
            if sentence.han:
                previous = "zh"
            elif sentence.words[0]:
                previous = "en"
            self._languages.append(previous)
            self._anchors.append((sentence.han, phrases))

    def language(self, start: int, end: int) -> Language:
        """Return the language that surrounds ``text[start:end]``."""
        index = bisect_right(self._starts, start) - 1
        han, phrases = self._anchors[index]
        if not han or not phrases:
            return self._languages[index]
        inside = bisect_right(phrases, (start, len(self._text))) - 1
        if inside >= 0 and phrases[inside][0] < start and end < phrases[inside][1]:
            return "en"
        to_han = self._nearest(han, start, end)
        to_phrase = self._nearest(phrases, start, end)
        if to_han == to_phrase:
            return self.document
        return "zh" if to_han < to_phrase else "en"

    def _scan(self) -> list[_Sentence]:
        sentences = [_Sentence(0)]
        for match in _PIECE.finditer(self._text):
            sentence = sentences[-1]
            if match["end"]:
                sentences.append(_Sentence(match.end()))
            elif match["han"]:
                sentence.han.append(match.span())
                if sentence.words[-1]:
                    sentence.words.append([])
            elif not self._is_part_of_a_token(match):
                sentence.words[-1].append(match.span())
        return sentences

    def _is_part_of_a_token(self, match: re.Match[str]) -> bool:
        """Tell an acronym, a unit, a currency, a piece of a code or an address from a word."""
        word = match[0]
        if word.isupper() and len(word) <= _LONGEST_ACRONYM and word not in {"I", "A"}:
            return True
        text, start, end = self._text, *match.span()
        before, after = text[max(0, start - 1) : start], text[end : end + 2]
        if before in _GLUE_BEFORE or after[:1] in _GLUE_AFTER:
            return True
        if after[:1] == "." and after[1:].isalnum() and after[1:].isascii():
            return True
        if after[:1] == "-" and "0" <= after[1:] <= "9":
            return True
        return word in UNIT_WORDS and text[max(0, start - 2) : start].rstrip()[-1:].isdigit()

    def _phrases(self, sentence: _Sentence) -> list[tuple[int, int]]:
        """Return the spans of the sentence's Latin runs that are English."""
        spans = []
        for run in sentence.words:
            words = [self._text[start:end] for start, end in run]
            is_phrase = len(words) >= _WORDS_OF_A_PHRASE and any(word.islower() for word in words)
            if words and (is_phrase or self.document == "en"):
                spans.append((run[0][0], run[-1][1]))
        return spans

    def _nearest(self, spans: list[tuple[int, int]], start: int, end: int) -> int:
        right = bisect_left(spans, (end, -1))
        left = bisect_left(spans, (start, -1)) - 1
        best = len(self._text) * _CLAUSE_MARK_DISTANCE + 1
        if right < len(spans):
            best = self._distance[spans[right][0]] - self._distance[end]
        if left >= 0:
            left_end = min(spans[left][1], start)
            best = min(best, self._distance[start] - self._distance[left_end])
        return best

    @staticmethod
    def _of_document(sentences: list[_Sentence], default: Language) -> Language:
        han = sum(end - start for sentence in sentences for start, end in sentence.han)
        words = sum(len(run) for sentence in sentences for run in sentence.words)
        if han and han >= words:
            return "zh"
        if words or han:
            return "en"
        return default
