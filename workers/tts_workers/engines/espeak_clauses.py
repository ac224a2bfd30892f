"""Keep espeak-ng from dropping the end of a long clause or a long word.

The library collects the phonemes of one clause (up to the next punctuation) in a buffer of 1,000,
and those of one word in one of 200; it silently drops what does not fit. Two hundred Chinese
characters without punctuation are too many, and so are twenty letters that it spells out. Here the
phonemes are estimated from above, and a comma or a space goes in before a buffer can overflow.
"""

from __future__ import annotations

import re
from typing import Final

MAX_CLAUSE_PHONEMES: Final = 800
MAX_WORD_PHONEMES: Final = 150

#: A pronunciation, one Latin word or a part of a longer one, one stretch of white space, or one
#: other character.
_TOKEN: Final = re.compile(r"\[\[[^\[\]]+\]\]|[A-Za-z']{1,16}|\s+|.", re.DOTALL)
_VOWEL: Final = re.compile("[aeiouy]", re.IGNORECASE)
_HAN: Final = re.compile("[\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
#: A full stop before a small letter only ends an abbreviation.
_CLAUSE_END: Final = re.compile(r"[，。！？；：、…]|[,;:!?]\s|\.\s+(?![a-z])")


def has_han(text: str) -> bool:
    """Say whether the text holds a Chinese character."""
    return _HAN.search(text) is not None


def within_limits(text: str, *, mandarin: bool) -> str:
    """Return the text with commas and spaces where espeak-ng would otherwise lose some of it.

    ``mandarin`` says whether the voice reads Chinese characters; another one names each of them.
    """
    spoken: list[str] = []
    clause = word = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        phonemes = _most_phonemes(token, mandarin=mandarin)
        if clause + phonemes > MAX_CLAUSE_PHONEMES:
            spoken.append("，" if _HAN.match(token) else ", ")
            clause = word = 0
        elif word + phonemes > MAX_WORD_PHONEMES:
            spoken.append(" ")
            word = 0
        spoken.append(token)
        clause += phonemes
        # espeak-ng takes each Chinese character for a word of its own.
        word = 0 if token.isspace() or _HAN.match(token) else word + phonemes
        if _CLAUSE_END.match(text, match.start()):
            clause = word = 0
    return "".join(spoken)


def _most_phonemes(token: str, *, mandarin: bool) -> int:
    if token.isspace():
        return 1
    if token.startswith("[["):
        return len(token)
    if token[0].isascii() and token[0].isalpha():
        spelled_out = token.isupper() or not _VOWEL.search(token)
        return len(token) * (9 if spelled_out else 2)
    if token.isdigit():
        return 7
    if _HAN.match(token) and mandarin:
        return 6
    # The name of the character: "Chinese letter", "percent", "asterisk".
    return 15
