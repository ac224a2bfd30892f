"""From written to spoken text, for Chinese, English, and the two mixed.

Three steps, each in a module of its own: `cleaning` takes out what is not speech, `rules` reads
numbers, dates, units and symbols in the language of the words around them, `punctuation` leaves
letters and plain punctuation only. Normalising twice is the same as once
(``test_normalising_twice_is_the_same_as_once``).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from tts_workers.text.cleaning import clean
from tts_workers.text.punctuation import tidy
from tts_workers.text.rules import RuleBook, read_aloud

if TYPE_CHECKING:
    from tts_workers.text.scripts import Language

#: A reading may leave behind a word that a rule knows (``1Dr.`` becomes ``一Dr.``), so passes are
#: repeated until one changes nothing. That is the second, but for texts nobody writes.
_MOST_PASSES: Final = 5


def normalise(text: str, *, default_language: Language = "zh") -> str:
    """Return ``text`` as it is spoken: words instead of digits and symbols, no markup, no emoji.

    A number takes the language of the words around it; ``default_language`` is for texts without
    any. Deterministic, linear in the length of the text, and defined for every string: what
    holds nothing to speak becomes an empty string or bare punctuation.
    """
    for _ in range(_MOST_PASSES):
        spoken = tidy(read_aloud(clean(text), _books(), default_language))
        if spoken == text:
            break
        text = spoken
    return text


@cache
def _books() -> dict[Language, RuleBook]:
    # Some hundred patterns: compiled by whoever normalises, not by whoever imports an engine.
    from tts_workers.text import chinese, english

    return {"zh": chinese.BOOK, "en": english.BOOK}
