"""The front end as engines use it: a written text in, segments to speak out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from tts_tasks.errors import RequestError, UnspeakableTextError
from tts_workers.engines.base import Segment
from tts_workers.text.normalisation import normalise
from tts_workers.text.overrides import Overrides
from tts_workers.text.splitting import DEFAULT_MAX_UNITS, split

if TYPE_CHECKING:
    from tts_tasks.lexicons import Lexicon
    from tts_workers.text.overrides import Pronunciation, Spell
    from tts_workers.text.scripts import Language

#: Part of an engine's fingerprint: raise it with every change of what `front_end` returns.
FRONT_END_VERSION: Final = "1"
_LONGEST_QUOTE_CHARS: Final = 40


def front_end(
    text: str,
    *,
    default_language: Language = "zh",
    max_units: int = DEFAULT_MAX_UNITS,
    lexicon: Lexicon | None = None,
    spell: Spell | None = None,
) -> list[Segment]:
    """Normalise a whole text and cut it into segments, at least one.

    ``lexicon`` overrides what is said for its phrases; ``spell`` returns how the engine wants a
    pronunciation to be spelled in a segment (without one there is none that it can say). Raises
    `UnspeakableTextError` for a text without anything to speak: empty, white space, punctuation,
    emoji; and `RequestError` for what the lexicon says and the engine cannot.
    """
    overrides = None if lexicon is None else Overrides(text, lexicon)
    written = text if overrides is None else overrides.text
    segments = split(normalise(written, default_language=default_language), max_units=max_units)
    if not segments:
        quoted = ascii(text[:_LONGEST_QUOTE_CHARS]) + ("..." if text[_LONGEST_QUOTE_CHARS:] else "")
        raise UnspeakableTextError(
            f"the text {quoted} holds nothing to speak: it needs at least one letter or digit"
        )
    if overrides is None:
        return segments
    return [
        Segment(overrides.spelled(segment.text, spell or _cannot_spell), segment.pause_after_s)
        for segment in segments
    ]


def _cannot_spell(pronunciation: Pronunciation) -> NoReturn:
    raise RequestError(
        "lexicon",
        f"says how {pronunciation.phrase!r} is pronounced, and this engine takes text only: "
        "give it other words for the phrase",
    )
