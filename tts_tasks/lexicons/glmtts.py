"""GLM-TTS's phoneme tokens: ``<|C|><|UEI1|>`` is the syllable ``cui1``.

An initial, or none, and a final with its tone. There is no ``y`` and no ``w``; ``II`` is the
vowel of ``zi``, ``III`` that of ``zhi``, ``V`` is ü.
"""

from __future__ import annotations

import re
from typing import Final

from tts_tasks.lexicons.pinyin import SYLLABLES

#: Finals whose token has another name than pinyin has letters, wherever they stand.
_FINALS: Final = {"iu": "IOU", "ui": "UEI", "un": "UEN"}
_WHOLE: Final = {
    "yi": "I", "ya": "IA", "yo": "IO", "ye": "IE", "yao": "IAO", "you": "IOU", "yan": "IAN",
    "yin": "IN", "yang": "IANG", "ying": "ING", "yong": "IONG",
    "wu": "U", "wa": "UA", "wo": "UO", "wai": "UAI", "wei": "UEI", "wan": "UAN", "wen": "UEN",
    "wang": "UANG", "weng": "UENG", "yu": "V", "yue": "VE", "yuan": "VAN", "yun": "VN",
}  # fmt: skip
_AFTER_J_Q_X: Final = {"u": "V", "ue": "VE", "uan": "VAN", "un": "VN"}
#: Tones of which the model has no token.
_NO_TOKEN: Final = {
    "ER": "15",
    "IO": "2345",
    "IONG": "5",
    "UAI": "5",
    "UAN": "5",
    "UENG": "25",
    "VE": "5",
}
_TOKEN: Final = re.compile(r"<\|([A-Z]+)([1-5]?)\|>")


def _names(syllable: str) -> tuple[str, str]:
    """Return the names of initial and final of a syllable without its tone."""
    initial, final = SYLLABLES[syllable]
    if not initial:
        return "", _WHOLE.get(final, final.upper())
    if initial in {"j", "q", "x"} and final in _AFTER_J_Q_X:
        return initial.upper(), _AFTER_J_Q_X[final]
    if final == "i" and initial in {"z", "c", "s"}:
        return initial.upper(), "II"
    if final == "i" and initial in {"zh", "ch", "sh", "r"}:
        return initial.upper(), "III"
    return initial.upper(), _FINALS.get(final, final.upper())


_BY_NAMES: Final = {_names(syllable): syllable for syllable in SYLLABLES}
_INITIALS: Final = frozenset(initial for initial, _ in _BY_NAMES if initial)


def syllable_to_tokens(syllable: str) -> str | None:
    """Return the tokens of a syllable such as ``cui1``; None where the model has none for it."""
    initial, final = _names(syllable[:-1])
    tone = syllable[-1]
    if tone in _NO_TOKEN.get(final, ""):
        return None
    return f"<|{initial}|><|{final}{tone}|>" if initial else f"<|{final}{tone}|>"


def parse_tokens(value: str) -> list[str]:
    """Return a value of GLM-TTS's dictionary as syllables (``cui1``) and single characters.

    Raises ValueError for tokens that are no syllable.
    """
    parts: list[str] = []
    initial = ""
    position = 0
    while position < len(value):
        match = _TOKEN.match(value, position)
        if match is None:
            if initial or value.startswith("<|", position):
                raise ValueError(
                    f"{value[position : position + 12]!r} is no final such as <|UEI1|>"
                )
            parts.append(value[position])
            position += 1
            continue
        name, tone = match.groups()
        position = match.end()
        if not tone and not initial and name in _INITIALS:
            initial = name
        elif tone and (initial, name) in _BY_NAMES:
            parts.append(_BY_NAMES[initial, name] + tone)
            initial = ""
        else:
            first = f"<|{initial}|>" if initial else ""
            raise ValueError(f"{first}{match[0]} is no syllable of Mandarin")
    if initial:
        raise ValueError(f"<|{initial}|> is an initial without its final")
    return parts
