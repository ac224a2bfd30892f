"""Cutting a normalised text into segments: what an engine speaks in one go.

Cuts are made, in this order of preference, at paragraph and sentence ends; where a sentence is too
long, at clause marks; then at spaces; then anywhere between two letters. What is spoken is never
lost, doubled or moved (``test_the_spoken_characters_of_the_segments_are_those_of_the_text``).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tts_workers.engines.base import Segment
from tts_workers.text.english.abbreviations import ABBREVIATIONS
from tts_workers.text.scripts import HAN

#: Silence after a segment, by what it ends with. Nothing follows the last one.
PARAGRAPH_PAUSE_S: Final = 0.6
SENTENCE_PAUSE_S: Final = 0.35
CLAUSE_PAUSE_S: Final = 0.15
NO_PAUSE_S: Final = 0.0

#: A segment's limit in the measure of `speech_units`: a Chinese sentence of 60 characters.
DEFAULT_MAX_UNITS: Final = 60
#: A sentence shorter than this is spoken together with a neighbour.
SHORT_UNITS: Final = 6
#: A Chinese character takes about as long to say as three letters of English.
_NARROW_CHARS_PER_UNIT: Final = 3

_CLOSERS: Final = "”’」』）】》\"')"
_SENTENCE_END: Final = re.compile(
    rf"[。！？!?；;…]+[。！？!?；;….]*[{_CLOSERS}]*|\.+[{_CLOSERS}]*(?=\s|$|[{HAN}“「『（(])"
)
_CLAUSE_END: Final = re.compile(rf"(?:[，、：—]+|[,:]+(?![0-9]))[{_CLOSERS}]*")
_LAST_WORD: Final = re.compile(r"[^\s(“\"「（]+$")
_INITIAL: Final = re.compile(r"(?:[A-Za-z]\.)*[A-Za-z]")
_LONGEST_ABBREVIATION_CHARS: Final = 12
#: These abbreviations end a sentence when a capital follows.
_MAY_END: Final = frozenset({"a.m", "p.m", "inc", "ltd", "co", "corp", "u.s", "u.k", "jr", "sr"})


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of text with its white space, its size, and the silence it asks for."""

    text: str
    pause_s: float

    @property
    def is_spoken(self) -> bool:
        return any(map(str.isalnum, self.text))


def speech_units(text: str) -> int:
    """Return how long ``text`` is to the ear: about the number of Chinese characters.

    A wide character counts one, any other a third, rounded up over the whole.
    """
    return -(-_thirds(text) // _NARROW_CHARS_PER_UNIT)


def split(text: str, *, max_units: int = DEFAULT_MAX_UNITS) -> list[Segment]:
    """Cut a normalised text into segments of at most ``max_units`` `speech_units` each.

    Every segment holds something to speak; a text that holds nothing gives an empty list. Raises
    ValueError for a limit below 1.
    """
    if max_units < 1:
        raise ValueError(f"max_units is {max_units}: a segment needs room for one character")
    limit = max_units * _NARROW_CHARS_PER_UNIT
    pieces: list[_Piece] = []
    for paragraph in text.splitlines():
        sentences = _sentences(paragraph)
        if not sentences:
            continue
        last = sentences[-1]
        sentences[-1] = _Piece(last.text, PARAGRAPH_PAUSE_S)
        pieces += _merge_short(
            [piece for sentence in sentences for piece in _fit(sentence, limit)], limit
        )
    segments = [Segment(piece.text.strip(), piece.pause_s) for piece in pieces if piece.is_spoken]
    if segments:
        segments[-1] = Segment(segments[-1].text, NO_PAUSE_S)
    return segments


def _thirds(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + (_NARROW_CHARS_PER_UNIT - 1) * wide


def _sentences(paragraph: str) -> list[_Piece]:
    pieces = []
    start = 0
    for match in _SENTENCE_END.finditer(paragraph):
        if match[0][0] == "." and _is_abbreviation(paragraph, match):
            continue
        pieces.append(_Piece(paragraph[start : match.end()], SENTENCE_PAUSE_S))
        start = match.end()
    if paragraph[start:].strip():
        pieces.append(_Piece(paragraph[start:], SENTENCE_PAUSE_S))
    return [piece for piece in pieces if piece.text.strip()]


def _is_abbreviation(paragraph: str, stop: re.Match[str]) -> bool:
    """Whether the dot at ``stop`` belongs to the word before it and ends no sentence."""
    after = paragraph[stop.end() : stop.end() + 2].strip()
    if not after:
        return stop.end() < len(paragraph.rstrip())
    before = paragraph[max(0, stop.start() - _LONGEST_ABBREVIATION_CHARS) : stop.start()]
    word = _LAST_WORD.search(before)
    if word is None:
        return False
    name = word[0].lower()
    if name in _MAY_END and (after[0].isupper() or not after[0].isascii()):
        return False
    return name in ABBREVIATIONS or (
        _INITIAL.fullmatch(word[0]) is not None and word[0] != "I" and after[0].isascii()
    )


def _fit(sentence: _Piece, limit: int) -> list[_Piece]:
    """Return the sentence whole if it fits, else cut at clauses, words, and letters."""
    if _thirds(sentence.text) <= limit:
        return [sentence]
    clauses = _cut_after(sentence.text, _CLAUSE_END)
    pieces: list[_Piece] = []
    for clause in _pack(clauses, limit):
        if _thirds(clause) <= limit:
            pieces.append(_Piece(clause, CLAUSE_PAUSE_S))
            continue
        chunks = _pack(_words(clause, limit), limit)
        pieces += [_Piece(chunk, NO_PAUSE_S) for chunk in chunks[:-1]]
        pieces.append(_Piece(chunks[-1], CLAUSE_PAUSE_S))
    pieces[-1] = _Piece(pieces[-1].text, sentence.pause_s)
    return pieces


def _cut_after(text: str, pattern: re.Pattern[str]) -> list[str]:
    ends = [match.end() for match in pattern.finditer(text)]
    cuts = [0, *ends] if ends and ends[-1] == len(text) else [0, *ends, len(text)]
    return [text[start:end] for start, end in pairwise(cuts) if start < end]


def _words(clause: str, limit: int) -> list[str]:
    """Cut a clause at spaces and between Han characters; a longer word is cut at the limit."""
    parts = re.findall(rf"\s*(?:[{HAN}][^\w\s]*|[^\s{HAN}]+|\s+$)", clause)
    words: list[str] = []
    for part in parts:
        if _thirds(part.strip()) <= limit:
            words.append(part)
        else:
            words += _pack(_clusters(part.strip(), limit), limit, balanced=False)
    return words


def _clusters(word: str, limit: int) -> list[str]:
    """Cut a word into letters, each with the marks that combine with it, as far as they fit."""
    clusters: list[str] = []
    for char in word:
        if not clusters or unicodedata.category(char)[0] not in "MC":
            clusters.append(char)
        elif _thirds(clusters[-1] + char) <= limit:
            clusters[-1] += char
    return clusters


def _pack(parts: list[str], limit: int, *, balanced: bool = True) -> list[str]:
    """Join neighbouring parts up to ``limit``, in pieces of about the same size.

    A part that exceeds the limit by itself stays a piece of its own.
    """
    total = sum(map(_thirds, parts))
    target = total / -(-total // limit) if balanced else limit
    pieces: list[str] = []
    size = 0
    for part in parts:
        weight = _thirds(part)
        if pieces and size + weight <= limit and size + weight / 2 <= target:
            pieces[-1] += part
            size += weight
        else:
            pieces.append(part)
            size = weight
    return pieces


def _merge_short(pieces: list[_Piece], limit: int) -> list[_Piece]:
    """Join a very short piece, or one without a spoken character, with a neighbour it fits."""
    merged: list[_Piece] = []
    for piece in pieces:
        if merged and _belongs_together(merged[-1], piece, limit):
            merged[-1] = _Piece(merged[-1].text + piece.text, piece.pause_s)
        else:
            merged.append(piece)
    return merged


def _belongs_together(first: _Piece, second: _Piece, limit: int) -> bool:
    if _thirds(first.text + second.text) > limit:
        return False
    short = SHORT_UNITS * _NARROW_CHARS_PER_UNIT
    return min(_thirds(first.text), _thirds(second.text)) < short or not (
        first.is_spoken and second.is_spoken
    )
