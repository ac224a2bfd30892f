"""Which part of a text as it was written each segment speaks: what subtitles show.

Characters and words that normalisation has left alone stand in the written text and in the
segments in the same order. Between two of them lies what was changed (3.5% and 百分之三点五). Where
one segment ends and the next begins in such a stretch, it is cut behind the first mark that ends a
sentence, else a clause.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tts_workers.text.cleaning import clean
from tts_workers.text.scripts import HAN, LATIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_workers.engines.base import Segment

_TOKEN: Final = re.compile(rf"[{HAN}]|[{LATIN}]+")
#: What an engine has put between brackets or as tokens is no text.
_SPELLING: Final = re.compile(r"\[\[[^\[\]]*\]\]|<\|[^<>|]*\|>")
_CLOSERS: Final = "”’」』）】》\"')"
_SENTENCE_END: Final = re.compile(rf"(?:[。！？!?；;…\n]|\.(?=\s|$))[{_CLOSERS}]*\s*")
_CLAUSE_END: Final = re.compile(rf"[，、：,:—][{_CLOSERS}]*\s*|\s+")
_SAID: Final = re.compile(r"[^\W_]")
#: How far ahead the two texts are searched for where they agree again, in tokens of both.
_WINDOW: Final = 80
#: After so many searches in vain the two are not the same text, and it is no use to go on.
_LOST: Final = 500


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int


def written_segments(text: str, segments: Sequence[Segment]) -> list[str]:
    """Return for each segment what of ``text`` it speaks, without markup.

    Empty where that cannot be told from what the segment before speaks (a number that was cut in
    two); the segments' own texts where the two have nothing in common. The first is never empty.
    Takes time linear in the text.
    """
    cleaned = clean(text)
    written = [_Token(m[0].lower(), m.start(), m.end()) for m in _TOKEN.finditer(cleaned)]
    spoken: list[tuple[str, int]] = []
    for number, segment in enumerate(segments):
        plain = _SPELLING.sub(" ", segment.text)
        spoken += [(match[0].lower(), number) for match in _TOKEN.finditer(plain)]
    ranges = _ranges(spoken, written, len(segments))
    cuts = _cuts(cleaned, ranges)
    shown = [" ".join(cleaned[start:end].split()) for start, end in cuts]
    if not any(ranges) and not all(shown):
        return [_SPELLING.sub(" ", segment.text).strip() for segment in segments]
    return shown


def _ranges(
    spoken: Sequence[tuple[str, int]], written: Sequence[_Token], segments: int
) -> list[tuple[int, int] | None]:
    """Return for each segment where its first and last tokens that are left alone stand."""
    ranges: list[tuple[int, int] | None] = [None] * segments
    here = there = lost = 0
    while here < len(spoken) and there < len(written) and lost < _LOST:
        word, number = spoken[here]
        if word == written[there].text:
            token, known = written[there], ranges[number]
            ranges[number] = (known[0] if known else token.start, token.end)
            here, there = here + 1, there + 1
        else:
            step = _step(spoken, written, here, there)
            lost += step is None
            here, there = here + (step or (1, 1))[0], there + (step or (1, 1))[1]
    return ranges


def _step(
    spoken: Sequence[tuple[str, int]], written: Sequence[_Token], here: int, there: int
) -> tuple[int, int] | None:
    """Return how far to go in each text to where they agree for two tokens, or at the end."""
    for distance in range(1, _WINDOW):
        for ahead in range(distance + 1):
            i, j = here + ahead, there + distance - ahead
            if i >= len(spoken) or j >= len(written) or spoken[i][0] != written[j].text:
                continue
            at_end = i + 1 == len(spoken) or j + 1 == len(written)
            if at_end or spoken[i + 1][0] == written[j + 1].text:
                return ahead, distance - ahead
    return None


def _cuts(text: str, ranges: Sequence[tuple[int, int] | None]) -> list[tuple[int, int]]:
    """Return the pieces of the text, one for each segment; together they are all of it."""
    known = [number for number, one in enumerate(ranges) if one is not None]
    edges = [0] * (len(ranges) + 1)
    edges[-1] = len(text)
    # A mark before anything is said ends no sentence.
    begin = found.start() if (found := _SAID.search(text)) else 0
    if not known:
        edges[1:-1] = _places(text, begin, len(text), len(ranges) - 1, len(text))
    before = -1
    for number in (*known, len(ranges)) if known else ():
        start = edges[-1] if number == len(ranges) else (ranges[number] or (0, 0))[0]
        end = begin if before < 0 else (ranges[before] or (0, 0))[1]
        unknown = number - before - 1
        # Those in between are what lies between, cut at its sentences; the first cut ends the
        # segment before, and the last one begins the segment behind.
        wanted = unknown + (before >= 0) + (number < len(ranges)) - 1
        # Of what cannot be cut the first segment gets all, and others the segment behind it.
        places = _places(text, end, start, wanted, start if before < 0 else end)
        first = before + 1 if before >= 0 else 1
        for offset, place in enumerate(places):
            edges[first + offset] = place
        before = number
    return [(edges[number], edges[number + 1]) for number in range(len(ranges))]


def _places(text: str, start: int, end: int, wanted: int, uncut: int) -> list[int]:
    """Return ``wanted`` places in a stretch of the text, in order, at which to cut it.

    ``uncut``: where, if there is no mark at all.
    """
    if wanted <= 0:
        return []
    for pattern in (_SENTENCE_END, _CLAUSE_END):
        found = [match.end() for match in pattern.finditer(text, start, end)]
        if len(found) >= wanted:
            return found[:wanted]
    found = [match.end() for match in _SENTENCE_END.finditer(text, start, end)]
    return [*found, *[end if found else uncut] * (wanted - len(found))]
