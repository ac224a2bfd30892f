"""Last step of the front end: what is left is letters, spaces, line breaks and plain punctuation.

After `tidy` a text holds no digit and no symbol, so that no rule can fire on it again, and nothing
that an engine could take for markup (``<``, ``&``, ``[[``).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

from tts_workers.text.scripts import HAN

_VARIANTS: Final = str.maketrans(
    {
        "［": "(", "］": ")", "[": "(", "]": ")", "{": "(", "}": ")", "｛": "(", "｝": ")",
        "〔": "（", "〕": "）", "〖": "【", "〗": "】", "〈": "《", "〉": "》", "｡": "。",
        "､": "、",
        "・": "·", "‧": "·", "’": "'", "‘": "'", "´": "'", "ʼ": "'", "–": "—", "―": "—",
        "/": "、", "|": "，", "→": "，", "⇒": "，", "⋯": "…", "‥": "…", "؟": "?", "،": ",",
        "«": "“", "»": "”", "„": "“",
    }
)  # fmt: skip
_KEPT: Final = frozenset(" \n，。！？；：、…—“”《》「」『』【】（）·,.!?;:'\"()-")
_MOST_MARKS_ON_A_LETTER: Final = 4

#: Applied in this order; each leaves nothing behind that an earlier one would change again.
_STEPS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"--+"), "—"),
    (re.compile(rf"(?<=[{HAN}])-(?=[{HAN}])|(?<=\w) +- +(?=\w)"), "—"),
    (re.compile(r"(?<![^\W_])-|-(?![^\W_])"), " "),
    (re.compile(r"(?<![^\W_])'(?![^\W_])"), " "),
    (re.compile(r" +"), " "),
    (re.compile(r" ?\n[ \n]*"), "\n"),
    (re.compile(r"(?<=[a-z,])\n(?=[a-z])"), " "),  # a paragraph that was wrapped
    (re.compile(r" (?=[，。！？；：、…—,.!?;:）)》」』】”])|(?<=[—（(《「『【“]) "), ""),
    (re.compile(r"\.{2,}|。{2,}"), "…"),
    (re.compile(r"([，。！？；：、…—·,.!?;:\"()（）])\1+"), r"\1"),
)
_NARROW: Final = re.compile(rf"(?<=[{HAN}])(?:[,;:!?]|\.(?=\s|[{HAN}]|$))")
_TO_WIDE: Final = str.maketrans(",;:!?.", "，；：！？。")
_AFTER_WIDE: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"([，。！？；：])\1+"), r"\1"),
    (re.compile(r"(?<=[，。！？；：、]) "), ""),
)


def tidy(text: str) -> str:
    """Drop what cannot be spoken, unify punctuation, and normalise white space."""
    text = unicodedata.normalize("NFC", _without_stray_marks(text.translate(_VARIANTS)))
    for pattern, replacement in _STEPS:
        text = pattern.sub(replacement, text)
    text = _NARROW.sub(lambda match: match[0].translate(_TO_WIDE), text)
    for pattern, replacement in _AFTER_WIDE:
        text = pattern.sub(replacement, text)
    return text.strip()


@lru_cache(maxsize=8192)
def _is_kept(char: str) -> bool:
    return char in _KEPT or unicodedata.category(char)[0] in "LM"


def _without_stray_marks(text: str) -> str:
    """Replace everything that is not speech by a space, and combining marks by nothing.

    A mark stays on a letter, a few of them at most: piles of marks are decoration.
    """
    kept: list[str] = []
    marks = _MOST_MARKS_ON_A_LETTER  # no letter to carry one yet
    for char in text:
        if not _is_kept(char):
            kept.append(" ")
            marks = _MOST_MARKS_ON_A_LETTER
        elif unicodedata.category(char)[0] != "M":
            kept.append(char)
            marks = 0 if char.isalpha() else _MOST_MARKS_ON_A_LETTER
        elif marks < _MOST_MARKS_ON_A_LETTER:
            kept.append(char)
            marks += 1
    return "".join(kept)
