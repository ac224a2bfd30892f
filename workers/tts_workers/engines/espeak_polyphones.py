"""Words with characters of several readings: a dictionary knows more of them than espeak-ng.

The library has a list of words of its own (长大, 银行), and reads what is not in it character by
character: 蚌埠 as bàng bù. pypinyin knows 47,000 words that hold such a character. They are written
as pinyin, so that no neighbour takes a character away from them (三位分别 is not 位分 and 别); but
where the two differ by light tones only, the word stays as it is, for of these the library knows
more (头发, 答应): docs/decisions/0021.

How a word is written depends on nothing but the word, so that a segment sounds the same whatever
was spoken before (``test_what_was_spoken_before_changes_nothing``).
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from tts_tasks.errors import EngineError
from tts_workers.engines.espeak_pinyin import LIGHT, TONES, plain
from tts_workers.engines.espeak_pronunciation import spell
from tts_workers.text import Pronunciation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: What has been given as pinyin is no word to look for, and ends one.
_HAN_RUN: Final = re.compile("[\u3007\u3400-\u9fff]{2,}")
_TONE: Final = re.compile(r"(\d+)")
#: Their tone is made by the syllable behind them, and the dictionary is not of one mind about it.
_OF_ANY_TONE: Final = "一不"
#: Behind these 一 is a digit.
_DIGITS: Final = tuple("第初十百零一二三四五六七八九")


class Polyphones:
    """Writes words as they are read, and asks the library once for each how it would read it."""

    def __init__(self, ask: Callable[[str], str]) -> None:
        """Load the dictionary.

        ``ask`` returns the library's names of the sounds of a Mandarin text, a line for each
        clause.
        """
        import pypinyin
        from pypinyin.constants import PHRASES_DICT
        from pypinyin.contrib.mmseg import seg

        self._ask = ask
        self._cut = seg.cut
        self._dictionary = PHRASES_DICT
        self._version = pypinyin.__version__
        #: a word → how it stands in a segment; at most as many as the dictionary has
        self._written: dict[str, str] = {}

    def fingerprint(self) -> str:
        """Hash of the dictionary and of the library that searches it."""
        digest = hashlib.sha256(self._version.encode())
        for word in sorted(self._dictionary):
            digest.update(f"\n{word} {self._dictionary[word]}".encode())
        return digest.hexdigest()

    def marked(self, text: str) -> str:
        """Return a segment's text in which the dictionary's words are pinyin."""
        words = list(self._words(text))
        self._learn({word for _, word in words} - self._written.keys())
        parts: list[str] = []
        position = 0
        for start, word in words:
            parts += text[position:start], self._written[word]
            position = start + len(word)
        return "".join((*parts, text[position:]))

    def _words(self, text: str) -> Iterator[tuple[int, str]]:
        for run in _HAN_RUN.finditer(text):
            start = run.start()
            for word in self._cut(run[0]):
                if word in self._dictionary:
                    yield start, word
                start += len(word)

    def _learn(self, words: Iterable[str]) -> None:
        """Compare how the library reads words with how it reads their pinyin."""
        pinyin = {word: _spelled(word) for word in sorted(words)}
        if not pinyin:
            return
        asked = "，".join(f"{word}，{said}" for word, said in pinyin.items())
        lines = self._ask(asked).splitlines()
        if len(lines) != 2 * len(pinyin):
            raise EngineError(f"espeak-ng read {len(lines)} clauses out of 2 * {len(pinyin)}")
        for (word, said), usual, wanted in zip(
            pinyin.items(), lines[::2], lines[1::2], strict=True
        ):
            is_left = _is_left_alone(word, usual, wanted)
            self._written[word] = word if is_left else said


def _spelled(word: str) -> str:
    from pypinyin import Style, lazy_pinyin

    syllables = lazy_pinyin(word, style=Style.TONE3, neutral_tone_with_five=True)
    return spell(Pronunciation(word, tuple(_with_sandhi(word, syllables))))


def _with_sandhi(word: str, syllables: list[str]) -> Iterator[str]:
    """Yield syllables, of which 一 and 不 have the tone that they have before the next one.

    一 keeps its own at the end of a word and in numbers (统一, 第一名, 十一月). The library does
    not change their tones where they are pinyin.
    """
    for place, (char, syllable) in enumerate(zip(word, syllables, strict=True)):
        following = syllables[place + 1][-1] if place + 1 < len(syllables) else ""
        if syllable[:-1] == "bu" and char == "不" and following:
            yield "bu2" if following == "4" else "bu4"
        elif syllable[:-1] == "yi" and char == "一":
            is_own = not following or word[:place].endswith(_DIGITS)
            yield "yi1" if is_own else "yi2" if following == "4" else "yi4"
        else:
            yield syllable


def _is_left_alone(word: str, usual: str, wanted: str) -> bool:
    """Whether the library's own reading of a word stays: it is better, or as good.

    That is so where it differs from the pinyin by light tones only, and where there is no
    difference but the tones of 一 and 不. The first syllable of a word is never light: where the
    library says so, it does not know the word.
    """
    mine, theirs = (_TONE.split(plain(sounds)) for sounds in (usual, wanted))
    if mine[::2] != theirs[::2]:
        return False
    differ = [
        place > 0 and LIGHT in tones
        for place, (char, *tones) in enumerate(
            zip(word, _tones(mine), _tones(theirs), strict=False)
        )
        if len(set(tones)) > 1 and char not in _OF_ANY_TONE
    ]
    return all(differ) if differ else any(char in _OF_ANY_TONE for char in word)


def _tones(pieces: list[str]) -> Iterator[str]:
    return (TONES.get(contour, LIGHT) for contour in pieces[1::2])
