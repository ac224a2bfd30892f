"""From espeak-ng's names of sounds back to pinyin: for people who ask what will be said.

The library is asked for the sounds of every syllable of Mandarin, once; then a line of sounds is
taken apart into syllables. Tones are those that are heard, after sandhi.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

from tts_tasks.lexicons.pinyin import SYLLABLES
from tts_workers.engines.base import Segment, VoiceReference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tts_workers.engines.espeak import EspeakEngine

#: Contours → tones; all others are those of light syllables.
TONES: Final = {"55": "1", "35": "2", "214": "3", "21": "3", "51": "4", "53": "4"}
LIGHT: Final = "5"
_HIGH: Final = "55"
_NO_SOUND: Final = re.compile("[',|_:]")
_FOREIGN: Final = re.compile(r"\((?!cmn\))[a-z-]+\)\s*([^()]*)(?:\(cmn\)|$)", re.MULTILINE)


class PinyinOfSounds:
    """Tells the pinyin of what an engine that is loaded would say."""

    def __init__(self, engine: EspeakEngine) -> None:
        self._engine = engine
        voice = engine.encode_voice(VoiceReference("zh"))
        text = "，".join(f"[[{syllable}1]]" for syllable in SYLLABLES)
        lines = engine.phonemes(Segment(text), voice).splitlines()
        forms: dict[str, str] = {}
        for syllable, line in zip(SYLLABLES, lines, strict=True):
            forms.setdefault(plain(line), syllable)
        #: what is before the tone and what after it → the syllable, long ones first
        self._syllables = sorted(
            ((*form.split(_HIGH, 1), syllable) for form, syllable in forms.items()),
            key=lambda one: -len(one[0]) - len(one[1]),
        )

    def of(self, phonemes: str) -> list[str]:
        """Return syllables, foreign words as ``(en) sounds``, and what is neither as it is."""
        said: list[str] = []
        position = 0
        for match in _FOREIGN.finditer(phonemes):
            said += self._words(phonemes[position : match.start()])
            sounds = " ".join(_NO_SOUND.sub(" ", match[1]).split())
            said.append(f"({sounds})")
            position = match.end()
        return [*said, *self._words(phonemes[position:])]

    def _words(self, phonemes: str) -> Iterator[str]:
        for word in phonemes.split():
            if sounds := plain(word):
                yield from _apart(sounds, tuple(self._syllables)) or (sounds,)


def plain(phonemes: str) -> str:
    """Return sounds without stress, pauses and the spaces between words."""
    return _NO_SOUND.sub("", phonemes).replace(" ", "")


@cache
def _apart(word: str, syllables: tuple[tuple[str, str, str], ...]) -> tuple[str, ...] | None:
    """Return a word's syllables with their tones; None where it cannot be taken apart."""
    if not word:
        return ()
    for before, after, syllable in syllables:
        if not word.startswith(before):
            continue
        tone = re.match(r"[0-9]+", word[len(before) :])
        if tone is None or not word.startswith(after, len(before) + tone.end()):
            continue
        rest = _apart(word[len(before) + tone.end() + len(after) :], syllables)
        if rest is not None:
            return (syllable + TONES.get(tone[0], LIGHT), *rest)
    return None
