"""Words of several readings are read as the dictionary says, and nothing else changes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tts_tasks.errors import EngineLoadError
from tts_tasks.lexicons import Lexicon, entry
from tts_workers.engines.base import Segment, SpeakOptions, VoiceReference
from tts_workers.engines.espeak import EspeakEngine
from tts_workers.engines.espeak_pinyin import PinyinOfSounds
from tts_workers.engines.espeak_polyphones import Polyphones
from tts_workers.pronounce import pronounce

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@pytest.fixture
def asked(engine: EspeakEngine) -> tuple[Polyphones, list[str]]:
    """Return a dictionary that has looked nothing up, and what it asks the library."""
    questions: list[str] = []

    def ask(text: str) -> str:
        questions.append(text)
        return engine._sounds_without_dictionary(text)

    return Polyphones(ask), questions


def read(
    engine: EspeakEngine, pinyin: PinyinOfSounds, text: str, lexicon: Lexicon | None = None
) -> str:
    voice = engine.encode_voice(VoiceReference("zh"))
    segments = engine.split(text, lexicon)
    return " ".join(
        one for segment in segments for one in pinyin.of(engine.phonemes(segment, voice))
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("蚌埠在安徽。", "beng4 bu4 zai4 an1 hui1"),
        ("他去游说。", "ta1 qu4 you2 shui4"),
        ("发型好看。", "fa4 xing2 hao3 kan4"),
        ("他穿着外套。", "ta1 chuan1 zhe5 wai4 tao4"),
        ("炮制中药。", "pao2 zhi4 zhong1 yao4"),
        ("前三位分别是", "qian2 san1 wei4 fen1 bie2 shi4"),
        ("天主教徒", "tian1 zhu3 jiao4 tu2"),
        ("供应商", "gong1 ying4 shang1"),
    ],
)
def test_words_are_read_as_the_dictionary_says(
    engine: EspeakEngine, pinyin: PinyinOfSounds, text: str, expected: str
) -> None:
    """Also where espeak-ng does not know the word, or gives its characters to a neighbour."""
    assert read(engine, pinyin, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("头发", "tou2 fa5"),
        ("答应", "da1 ying5"),
        ("关系", "guan1 xi5"),
        ("不是", "bu2 shi4"),
        ("一定", "yi2 ding4"),
        ("一行人", "yi4 xing2 ren2"),
        ("一哄而散", "yi2 hong4 er2 san4"),
        ("看不起", "kan4 bu5 qi3"),
        ("统一", "tong3 yi1"),
        ("十一月", "shi2 yi1 yue4"),
        ("一会儿", "yi2 hui4 er5"),
        ("哪儿", "na3 er5"),
        ("模样儿", "mu2 yang4 er5"),
        ("你好", "ni2 hao3"),
    ],
)
def test_light_tones_and_sandhi_are_as_people_say_them(
    engine: EspeakEngine, pinyin: PinyinOfSounds, text: str, expected: str
) -> None:
    """espeak-ng's light tones stay, 一 and 不 sound as they do before the next syllable."""
    assert read(engine, pinyin, f"{text}。") == expected


def test_other_text_stays_as_it_is(asked: tuple[Polyphones, list[str]]) -> None:
    """English, pinyin of a lexicon, and Chinese without such words are handed over untouched."""
    polyphones, questions = asked
    for text in (
        "Hello, 他看GIF图。",
        "去[[chong2qing4]]，[[/dʒɪf/]]",
        "他买瓜。",
        "",
        "头",
        "[[重",
    ):
        assert polyphones.marked(text) == text
    assert questions == []


def test_only_the_words_become_pinyin(asked: tuple[Polyphones, list[str]]) -> None:
    """What stands around them, and words of which espeak-ng knows the light tones, stay."""
    polyphones, _ = asked
    assert polyphones.marked("口供，ok 头发！") == "[[kou3gong4]]，ok 头发！"


def test_each_word_is_asked_for_once(asked: tuple[Polyphones, list[str]]) -> None:
    """The library is asked once for a text, and no more for a word that it was asked for."""
    polyphones, questions = asked
    first = polyphones.marked("供应商提供了口供，口供")
    assert len(questions) == 1
    assert polyphones.marked("供应商提供了口供，口供") == first
    assert polyphones.marked("口供") == "[[kou3gong4]]"
    assert len(questions) == 1


def test_a_lexicon_overrides_the_dictionary(engine: EspeakEngine, pinyin: PinyinOfSounds) -> None:
    """What users say counts, for a whole word and for a part of one."""
    whole = Lexicon((entry("蚌埠", "pinyin", "bang4 bu4"),))
    assert read(engine, pinyin, "蚌埠在安徽", whole) == "bang4 bu4 zai4 an1 hui1"
    part = Lexicon((entry("游说", "pinyin", "_ shuo1"),))
    assert read(engine, pinyin, "去游说他", part) == "qu4 you2 shuo1 ta1"


def test_what_was_spoken_before_changes_nothing(engine: EspeakEngine) -> None:
    """A worker that takes over says a segment to the bit as one that has spoken others."""
    voice = engine.encode_voice(VoiceReference("zh"))
    segment = Segment("供应商的头发，三位分别去了蚌埠。")
    other = EspeakEngine()
    other.load("cpu")
    for text in ("三位", "头发分别", "供应商"):
        other.speak(Segment(text), voice, None, SpeakOptions())
    expected = engine.speak(segment, voice, None, SpeakOptions()).samples
    assert np.array_equal(other.speak(segment, voice, None, SpeakOptions()).samples, expected)
    other.close()


def test_english_voices_do_not_look_words_up(engine: EspeakEngine) -> None:
    """A voice that has no Mandarin reads Chinese as before, and gets no pinyin to refuse."""
    voice = engine.encode_voice(VoiceReference("en"))
    assert engine.phonemes(Segment("口供"), voice)


def test_it_is_shown_what_will_be_said(engine: EspeakEngine) -> None:
    """`ttsctl lexicon test` shows the text as it is and the reading that it gets."""
    (told,) = pronounce(engine, "他去游说。", "zh", None)["segments"]
    assert told["text"] == "他去游说。"
    assert told["pinyin"] == ["ta1", "qu4", "you2", "shui4"]


def test_fingerprint_changes_with_the_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another word, or another version of the library that finds them, is another fingerprint."""
    before = Polyphones(str).fingerprint()
    assert Polyphones(str).fingerprint() == before
    with monkeypatch.context() as patched:
        patched.setattr("pypinyin.__version__", "another")
        assert Polyphones(str).fingerprint() != before
    monkeypatch.setitem(sys.modules["pypinyin.constants"].PHRASES_DICT, "游说", [["yóu"], ["shuō"]])
    assert Polyphones(str).fingerprint() != before


def test_missing_dictionary_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pypinyin the load error says what to install: nothing is read otherwise unseen."""
    monkeypatch.setitem(sys.modules, "pypinyin", None)
    with pytest.raises(EngineLoadError, match=r"pypinyin .*pip install 'tts-tasks\[espeak\]'"):
        EspeakEngine().load("cpu")
