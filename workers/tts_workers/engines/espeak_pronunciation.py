"""How a pronunciation stands in a segment for espeak-ng, and what the library gets to say it.

In a segment it is ``[[chong2qing4]]`` or ``[[/dʒɪf/]]``: the text front end leaves no brackets in
what people write. The library's Mandarin reads pinyin with tone numbers as it reads characters.

Two things it knows neither as pinyin nor as characters, and would spell out in English: syllables
in -iong (熊, 穷), which are said with the names of their sounds, as all IPA is; and words that end
in 儿 (哪儿, 一会儿), whose 儿 is said as a light syllable.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tts_tasks.errors import RequestError

if TYPE_CHECKING:
    from tts_workers.text import Pronunciation

#: Pinyin that is joined is one word to the library, with the tone sandhi of a word. Longer ones
#: than an idiom are none, and its buffer for a word is small.
_SYLLABLES_OF_A_WORD: Final = 4
_PRONUNCIATION: Final = re.compile(
    r"\[\[(?:(?P<pinyin>(?:[a-z]+[1-5] ?)+)|/(?P<ipa>[^\[\]/]+)/)\]\]"
)
_SYLLABLE: Final = re.compile("[a-z]+[1-5]")

#: Characters of which the library spells the pinyin out in English: those in -iong.
_IONG: Final = {
    char: syllable
    for syllable, chars in {
        "jiong1": "坰扃駉",
        "jiong3": "窘炯迥囧炅煚颎",
        "qiong2": "穷窮琼瓊穹茕煢邛筇蛩銎",
        "xiong1": "兄凶兇匈胸胷汹洶讻訩恟芎",
        "xiong2": "雄熊",
        "xiong4": "夐诇",
    }.items()
    for char in chars
}
#: After some characters 儿 is a child, as the library knows; before others it is one, too. What
#: is before it may be pinyin already.
_LIGHT_ER: Final = (
    "(?<=[\u4e00-\u9fff\\]])(?<![女婴幼孤胎健宠孙侄患产育托男])儿(?P<child>(?=[童子女媳歌科戏孙]))?"
)
_UNREADABLE: Final = re.compile(
    f"{_PRONUNCIATION.pattern}|(?P<iong>[{''.join(_IONG)}])|(?P<er>{_LIGHT_ER})"
)
_IONG_SOUNDS: Final = {"jiong": "tS;jong", "qiong": "tS;hjong", "xiong": "S;jong"}
_TONES: Final = {"1": "55", "2": "35", "3": "214", "4": "51", "5": "11"}

#: IPA → the library's names of sounds, which its English (British and American) has.
_SOUNDS: Final = {
    **{letter: letter for letter in "pbtdkfvszmnljwhx"},
    "iː": "i:", "i": "i", "ɪ": "I", "e": "E", "ɛ": "E", "æ": "a", "a": "a", "ɐ": "a#",
    "ɑː": "A:", "ɑ": "A:", "ɒ": "0", "ɔː": "O:", "ɔ": "O:", "ʊ": "U", "uː": "u:", "u": "u:",
    "ʌ": "V", "ɜː": "3:", "ɜ": "3:", "ɝ": "3:", "ɝː": "3:", "ə": "@", "ɚ": "3", "əl": "@L",
    "eɪ": "eI", "aɪ": "aI", "ɔɪ": "OI", "əʊ": "oU", "oʊ": "oU", "aʊ": "aU",
    "ɪə": "i@", "iə": "i@", "eə": "e@", "ɛə": "e@", "ʊə": "U@",
    "tʃ": "tS", "t͡ʃ": "tS", "dʒ": "dZ", "d͡ʒ": "dZ", "ʃ": "S", "ʒ": "Z", "θ": "T", "ð": "D",
    "ŋ": "N", "ɡ": "g", "r": "r", "ɹ": "r", "ɫ": "l", "ɾ": "t#", "ʔ": "?", "n̩": "n-",
    "ˈ": "'", "ˌ": ",", " ": "||", ".": "", "‿": "",
}  # fmt: skip
_LONGEST_SOUND: Final = max(map(len, _SOUNDS))


def spell(pronunciation: Pronunciation) -> str:
    """Return how it stands in a segment; raises `RequestError` for what espeak-ng cannot say."""
    if pronunciation.ipa:
        _sounds_of_ipa(pronunciation.ipa, pronunciation.phrase)  # now, not when it is spoken
        return f"[[/{pronunciation.ipa}/]]"
    size = _SYLLABLES_OF_A_WORD
    syllables = pronunciation.syllables
    words = [syllables[start : start + size] for start in range(0, len(syllables), size)]
    return f"[[{' '.join(map(''.join, words))}]]"


def has_pinyin(text: str) -> bool:
    """Say whether a segment holds pinyin, which a Mandarin voice is to say."""
    return any(match["pinyin"] for match in _PRONUNCIATION.finditer(text))


def for_library(text: str, *, mandarin: bool) -> tuple[str, bool]:
    """Return what the library gets for a segment's text, and whether it holds names of sounds.

    Raises `RequestError` for pinyin where the voice is not a Mandarin one.
    """
    parts: list[str] = []
    position = 0
    pattern = _UNREADABLE if mandarin else _PRONUNCIATION
    for match in pattern.finditer(text):
        parts.append(text[position : match.start()])
        if match["pinyin"]:
            parts.append(_pinyin(match["pinyin"], mandarin=mandarin))
        elif match["ipa"]:
            parts.append(_english(_sounds_of_ipa(match["ipa"], match["ipa"]), mandarin=mandarin))
        else:
            parts.append(_readable(match))
        position = match.end()
    parts.append(text[position:])
    has_sounds = any("[[" in ours for ours in parts[1::2])
    if has_sounds:  # and what people write between brackets are words
        parts[::2] = [written.replace("[", " ") for written in parts[::2]]
    return "".join(parts), has_sounds


def _readable(match: re.Match[str]) -> str:
    if match["iong"]:
        return _iong(_IONG[match[0]])
    return " er5 " if match["child"] is None else " er2 "


def _pinyin(words: str, *, mandarin: bool) -> str:
    if not mandarin:
        raise RequestError(
            "lexicon", f"says {words!r}, which only a Mandarin voice can say: default or zh"
        )
    said = []
    for word in words.split():
        syllables = _SYLLABLE.findall(word)
        if any(syllable[:-1] in _IONG_SOUNDS for syllable in syllables):
            said += [
                _iong(syllable) if syllable[:-1] in _IONG_SOUNDS else f" {syllable} "
                for syllable in syllables
            ]
        else:
            said.append(f" {word} ")
    return "".join(said)


def _iong(syllable: str) -> str:
    return f" [[{_IONG_SOUNDS[syllable[:-1]]}{_TONES[syllable[-1]]}]] "


def _english(sounds: str, *, mandarin: bool) -> str:
    return f" [[_^_en {sounds} _^_cmn]] " if mandarin else f" [[{sounds}]] "


def _sounds_of_ipa(ipa: str, phrase: str) -> str:
    """Return the library's names of the sounds of a transcription, longest match first."""
    sounds: list[str] = []
    position = 0
    while position < len(ipa):
        for length in range(min(_LONGEST_SOUND, len(ipa) - position), 0, -1):
            sound = _SOUNDS.get(ipa[position : position + length])
            if sound is not None:
                sounds.append(sound)
                position += length
                break
        else:
            raise RequestError(
                "lexicon",
                f"says {ipa!r} for {phrase!r}; espeak knows the sounds of English, and "
                f"{ipa[position]!r} is none of them: give it other words",
            )
    return "".join(sounds)
