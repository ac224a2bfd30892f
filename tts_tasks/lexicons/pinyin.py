"""Pinyin as lexicons hold it: syllables of Mandarin with their tone as a number, ``lv4``, ``de5``.

Tone marks (``lǜ``) and ``ü`` are taken too, and become numbers and ``v``.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

#: Stands for a character of a phrase that is left to the engine.
UNCHANGED: Final = "_"

_FINALS_BY_INITIAL: Final = {
    "": "a ai an ang ao e ei en eng er o ou yi ya yo ye yao you yan yin yang ying yong "
    "wu wa wo wai wei wan wen wang weng yu yue yuan yun",
    "b": "a o ai ei ao an en ang eng i ie iao ian in ing u",
    "p": "a o ai ei ao ou an en ang eng i ia ie iao ian in ing u",
    "m": "a o e ai ei ao ou an en ang eng i ie iao iu ian in ing u",
    "f": "a o ei ou an en ang eng iao u",
    "d": "a e ai ei ao ou an en ang eng ong i ia ie iao iu ian ing u uo ui uan un",
    "t": "a e ai ei ao ou an ang eng ong i ie iao ian ing u uo ui uan un",
    "n": "a e ai ei ao ou an en ang eng ong i ia ie iao iu ian in iang ing u uo uan un v ve",
    "l": "a o e ai ei ao ou an ang eng ong i ia ie iao iu ian in iang ing u uo uan un v ve",
    "g": "a e ai ei ao ou an en ang eng ong u ua uo uai ui uan un uang",
    "k": "a e ai ei ao ou an en ang eng ong u ua uo uai ui uan un uang",
    "h": "a e ai ei ao ou an en ang eng ong u ua uo uai ui uan un uang",
    "j": "i ia ie iao iu ian in iang ing iong u ue uan un",
    "q": "i ia ie iao iu ian in iang ing iong u ue uan un",
    "x": "i ia ie iao iu ian in iang ing iong u ue uan un",
    "zh": "a e ai ei ao ou an en ang eng ong i u ua uo uai ui uan un uang",
    "ch": "a e ai ao ou an en ang eng ong i u ua uo uai ui uan un uang",
    "sh": "a e ai ei ao ou an en ang eng i u ua uo uai ui uan un uang",
    "r": "e ao ou an en ang eng ong i u ua uo ui uan un",
    "z": "a e ai ei ao ou an en ang eng ong i u uo ui uan un",
    "c": "a e ai ei ao ou an en ang eng ong i u uo ui uan un",
    "s": "a e ai ao ou an en ang eng ong i u uo ui uan un",
}
#: Syllables without their tone → initial and final as they are written.
SYLLABLES: Final = {
    f"{initial}{final}": (initial, final)
    for initial, finals in _FINALS_BY_INITIAL.items()
    for final in finals.split()
}
_TONE_MARKS: Final = {"\u0304": "1", "\u0301": "2", "\u030c": "3", "\u0300": "4"}
_U_UMLAUT: Final = re.compile("u(?:\u0308|:)")
_NUMBERED: Final = re.compile("([a-z]+)([1-5])")
#: After these ü is written u, and means ü.
_ROUNDED: Final = re.compile("([jqxy])v")


def parse_syllable(written: str) -> str:
    """Return a syllable as letters and a tone number; raises ValueError saying what is wrong."""
    letters = unicodedata.normalize("NFD", written.lower())
    tones = [_TONE_MARKS[char] for char in letters if char in _TONE_MARKS]
    plain = "".join(char for char in letters if char not in _TONE_MARKS)
    plain = _ROUNDED.sub(r"\1u", _U_UMLAUT.sub("v", plain))
    if len(tones) == 1 and not plain[-1:].isdigit():
        plain += tones[0]
    elif tones:
        raise ValueError(f"{written!r} has two tones")
    match = _NUMBERED.fullmatch(plain)
    if match is None:
        if plain in SYLLABLES:
            raise ValueError(f"{written!r} has no tone: write 1 to 4 behind it, 5 for neutral")
        raise ValueError(f"{written!r} is no syllable of pinyin such as chong2")
    if match[1] not in SYLLABLES:
        raise ValueError(f"{written!r}: there is no syllable {match[1]!r} in Mandarin")
    return plain


def parse_syllables(written: str) -> tuple[str, ...]:
    """Return syllables that are separated by spaces; ``_`` stays. Raises ValueError."""
    return tuple(
        UNCHANGED if part == UNCHANGED else parse_syllable(part) for part in written.split()
    )
