"""espeak-ng says what a lexicon says, and refuses what it cannot say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tts_tasks.errors import RequestError
from tts_tasks.lexicons import Lexicon, entry
from tts_tasks.lexicons.pinyin import SYLLABLES
from tts_workers.engines.base import Segment, SpeakOptions, VoiceReference
from tts_workers.engines.espeak import EspeakEngine
from tts_workers.engines.espeak_pinyin import PinyinOfSounds
from tts_workers.engines.espeak_pronunciation import for_library, spell
from tts_workers.text import Pronunciation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tts_tasks.lexicons import Kind


@pytest.fixture(scope="module")
def engine() -> Iterator[EspeakEngine]:
    """Yield a loaded engine."""
    engine = EspeakEngine()
    engine.load("cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def pinyin(engine: EspeakEngine) -> PinyinOfSounds:
    """Return what tells the pinyin of sounds."""
    return PinyinOfSounds(engine)


def lexicon(phrase: str, kind: Kind, said: str) -> Lexicon:
    return Lexicon((entry(phrase, kind, said),))


def heard(engine: EspeakEngine, text: str, found: Lexicon | None = None, voice: str = "zh") -> str:
    encoded = engine.encode_voice(VoiceReference(voice))
    return "\n".join(engine.phonemes(one, encoded) for one in engine.split(text, found))


def plain(phonemes: str) -> str:
    return re.sub(r"[',|_\s]", "", phonemes)


def test_pinyin_sounds_as_the_characters_do(engine: EspeakEngine) -> None:
    """The pinyin of a word is heard as the word, with the sandhi of a word."""
    for phrase, said in [("重庆", "chong2 qing4"), ("银行", "yin2 hang2"), ("你好", "ni3 hao3")]:
        text = f"我说{phrase}两个字。"
        assert plain(heard(engine, text, lexicon(phrase, "pinyin", said))) == plain(
            heard(engine, text)
        )


def test_pinyin_changes_what_is_said(engine: EspeakEngine, pinyin: PinyinOfSounds) -> None:
    """A wrong pinyin is said too, in the middle of a sentence, by every Mandarin voice."""
    found = lexicon("行长", "pinyin", "xing2 chang2")
    for voice in ("zh", "default", "zh+f2"):
        said = pinyin.of(heard(engine, "这位行长说话。", found, voice))
        assert said == ["zhe4", "wei4", "xing2", "chang2", "shuo1", "hua4"]
    assert pinyin.of(heard(engine, "这位行长说话。"))[2:4] == ["hang2", "zhang3"]


def test_every_syllable_of_mandarin_can_be_said(
    engine: EspeakEngine, pinyin: PinyinOfSounds
) -> None:
    """Each syllable in each tone is heard as itself: none is spelled out in English."""
    voice = engine.encode_voice(VoiceReference("zh"))
    for tone in "12345":
        text = "，".join(spell(Pronunciation("", (f"{syllable}{tone}",))) for syllable in SYLLABLES)
        said = pinyin.of(engine.phonemes(Segment(text), voice))
        assert [one[:-1] for one in said] == list(SYLLABLES)
        assert {one[-1] for one in said} == {tone}


def test_characters_that_the_library_spells_in_english_are_said(
    engine: EspeakEngine, pinyin: PinyinOfSounds
) -> None:
    """Bears, the poor, and words that end in 儿 are Mandarin; children stay children."""
    text = "熊猫和穷人的兄弟，一会儿在哪儿玩儿？女儿和幼儿，这儿童节。"
    said = pinyin.of(heard(engine, text))
    assert not [one for one in said if one.startswith("(")]
    assert " ".join(said) == (
        "xiong2 mao1 he2 qiong2 ren2 de5 xiong1 di4 yi2 hui4 er5 zai4 na3 er5 wan2 er5 "
        "nv3 er2 he2 you4 er2 zhe4 er2 tong2 jie2"
    )


def test_ipa_is_said_within_mandarin_and_english(engine: EspeakEngine) -> None:
    """The sounds are those of the transcription, whatever is spoken around it."""
    found = lexicon("GIF", "ipa", "/dʒɪf/")
    assert "dZIf" in heard(engine, "a GIF file", found, "en")
    assert "dZIf" in heard(engine, "a GIF file", found, "en-us")
    assert re.search(r"\(en\)_\| dZI\d+f_\| \(cmn\)_\| th'u35", heard(engine, "看GIF图", found))
    with_stress = heard(engine, "a GIF file", lexicon("GIF", "ipa", "həˈləʊ wɜːld"), "en")
    assert "h@l'oU w3:ld" in with_stress


@pytest.mark.parametrize("sound", ["ɬ", "ɣ", "y", "ø", "ʃ˥"])
def test_sounds_that_english_lacks_are_refused(engine: EspeakEngine, sound: str) -> None:
    """What cannot be said right is an error of the lexicon, not a wrong sound."""
    with pytest.raises(RequestError) as caught:
        engine.split("a GIF file", lexicon("GIF", "ipa", sound))
    assert caught.value.field == "lexicon"


def test_pinyin_is_refused_by_an_english_voice(engine: EspeakEngine) -> None:
    """A voice that has no Mandarin says so."""
    (segment,) = engine.split("去重庆", lexicon("重庆", "pinyin", "chong2 qing4"))
    with pytest.raises(RequestError, match="Mandarin voice") as caught:
        engine.speak(segment, engine.encode_voice(VoiceReference("en")), None, SpeakOptions())
    assert caught.value.field == "lexicon"


@pytest.mark.parametrize(
    "text", ["[[h@l'oU]] there", "[[_^_en a]]", "[[chong2qing]]", "[[/dʒ]]", "[[]]", "plain"]
)
def test_what_people_write_between_brackets_is_no_command(text: str) -> None:
    """Only what a lexicon has put into a segment is; the rest is handed over as it is."""
    assert for_library(text, mandarin=False) == (text, False)
    said, has_sounds = for_library(text + "[[/dʒɪf/]]", mandarin=False)
    assert has_sounds
    assert said.count("[[") == 1


def test_what_is_said_is_the_same_each_time(engine: EspeakEngine) -> None:
    """Overrides keep the promise that the same request gives the same samples."""
    found = lexicon("GIF", "ipa", "/dʒɪf/")
    voice = engine.encode_voice(VoiceReference())
    (segment,) = engine.split("看GIF图。", found)
    spoken = [engine.speak(segment, voice, None, SpeakOptions()).samples for _ in range(2)]
    assert np.array_equal(spoken[0], spoken[1])
    (usual,) = engine.split("看GIF图。")
    other = engine.speak(usual, voice, None, SpeakOptions()).samples
    assert not np.array_equal(spoken[0], other)


def test_long_pinyin_is_said_to_its_end(engine: EspeakEngine, pinyin: PinyinOfSounds) -> None:
    """The library's buffers for words and clauses cut nothing off."""
    phrase = "乡音无改鬓毛衰" * 9
    found = lexicon(phrase, "pinyin", "xiang1 yin1 wu2 gai3 bin4 mao2 cui1 " * 9)
    assert pinyin.of(heard(engine, phrase, found)).count("cui1") == 9
