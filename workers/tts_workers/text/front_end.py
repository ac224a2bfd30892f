"""The front end as engines use it: a written text in, segments to speak out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tts_tasks.errors import UnspeakableTextError
from tts_workers.text.normalisation import normalise
from tts_workers.text.splitting import DEFAULT_MAX_UNITS, split

if TYPE_CHECKING:
    from tts_workers.engines.base import Segment
    from tts_workers.text.scripts import Language

#: Part of an engine's fingerprint: raise it with every change of what `front_end` returns.
FRONT_END_VERSION: Final = "1"
_LONGEST_QUOTE_CHARS: Final = 40


def front_end(
    text: str, *, default_language: Language = "zh", max_units: int = DEFAULT_MAX_UNITS
) -> list[Segment]:
    """Normalise a whole text and cut it into segments, at least one.

    Raises `UnspeakableTextError` for a text without anything to speak: empty, white space,
    punctuation, emoji.
    """
    segments = split(normalise(text, default_language=default_language), max_units=max_units)
    if not segments:
        quoted = ascii(text[:_LONGEST_QUOTE_CHARS]) + ("..." if text[_LONGEST_QUOTE_CHARS:] else "")
        raise UnspeakableTextError(
            f"the text {quoted} holds nothing to speak: it needs at least one letter or digit"
        )
    return segments
