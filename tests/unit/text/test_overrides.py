"""A lexicon's overrides survive normalisation and splitting, and change nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_tasks.errors import RequestError, UnspeakableTextError
from tts_tasks.lexicons import Lexicon, entry
from tts_workers.text import Overrides, Pronunciation, front_end, normalise, speech_units

LEXICON = Lexicon(
    (
        entry("重庆", "pinyin", "chong2 qing4"),
        entry("心宽体胖", "pinyin", "_ _ _ pan2"),
        entry("K歌", "pinyin", "ge1"),
        entry("GLM", "pinyin", "ji2 ai4 mu3"),
        entry("GIF", "ipa", "dʒɪf"),
        entry("卡拉OK", "ipa", "kɑːlɑː"),
        entry("CFO", "text", "首席财务官"),
        entry("50强", "text", "前50名"),
        entry("®", "text", ""),
    )
)


def spell(said: Pronunciation) -> str:
    return f"<{' '.join(said.syllables) or said.ipa}>"


def said(text: str, lexicon: Lexicon = LEXICON) -> str:
    return "|".join(one.text for one in front_end(text, lexicon=lexicon, spell=spell))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我在重庆。", "我在<chong2 qing4>。"),
        ("我在<b>重庆</b>花了￥50。", "我在<chong2 qing4>花了五十元。"),
        ("重庆重庆", "<chong2 qing4><chong2 qing4>"),
        ("他心宽体胖。", "他心宽体<pan2>。"),
        ("去K歌了3次", "去K<ge1>了三次"),
        ("3张GIF图", "三张<dʒɪf>图"),
        ("GLM-4有9B", "<ji2 ai4 mu3>四有九B"),
        ("我们去卡拉OK吧", "我们去<kɑːlɑː>吧"),
        ("I saw 3 GIF files.", "I saw three <dʒɪf> files."),
        ("新CFO来了", "新首席财务官来了"),
        ("是50强企业", "是前五十名企业"),
        ("微软®公司", "微软公司"),
        ("GIFs、SAID", "GIFs、SAID"),
    ],
)
def test_what_a_lexicon_says_stands_in_the_segment(text: str, expected: str) -> None:
    """Phrases are found as written; what is around them is normalised as ever."""
    assert said(text) == expected


def test_other_words_are_not_looked_at_again() -> None:
    """What an override has put there is text to be normalised, and no phrase."""
    lexicon = Lexicon((entry("甲", "text", "乙2个"), entry("乙", "text", "甲")))
    assert said("甲和乙", lexicon) == "乙两个和甲"


def test_a_phrase_that_is_cut_in_two_keeps_its_syllables() -> None:
    """Where a segment ends within a phrase, each part has its own syllables."""
    lexicon = Lexicon((entry("乡音无改", "pinyin", "xiang1 yin1 wu2 gai3"),))
    segments = front_end("乡音无改", lexicon=lexicon, spell=spell, max_units=2)
    assert [one.text for one in segments] == ["<xiang1 yin1>", "<wu2 gai3>"]


def test_an_engine_that_takes_text_only_says_so() -> None:
    """Pinyin for an engine without a spelling for it is an error of the lexicon."""
    with pytest.raises(RequestError, match="重庆") as caught:
        front_end("我在重庆。", lexicon=LEXICON)
    assert caught.value.field == "lexicon"
    assert front_end("新CFO", lexicon=LEXICON)[0].text == "新首席财务官"


def test_a_text_that_is_overridden_to_nothing_is_unspeakable() -> None:
    """An empty override may leave nothing to speak."""
    with pytest.raises(UnspeakableTextError):
        front_end("®", lexicon=LEXICON)


def test_stand_ins_avoid_what_the_text_holds() -> None:
    """Neither the rarest characters nor made-up words of a text are taken for overrides."""
    rare = "".join(chr(code) for code in range(0x2A6D6, 0x2A6D6 - 9, -1))
    assert said(f"{rare}重庆&#x2A6D6;qqqq QQQQ GIF") == (
        f"{rare}<chong2 qing4>\U0002a6d6qqqq QQQQ <dʒɪf>"
    )
    every = " ".join(a + b for a in "qxzvkjw" for b in "qxzvkjw")
    with pytest.raises(RequestError, match="too many different phrases"):
        said(f"{every} GIF")


@given(st.text("重庆银行GIF3个%。，ab <\n", max_size=60))
def test_text_without_phrases_is_as_without_a_lexicon(text: str) -> None:
    """A lexicon of which nothing is found changes nothing."""
    lexicon = Lexicon((entry("没有", "pinyin", "mei2 you3"),))
    assert Overrides(text, lexicon).text == text
    assert Overrides(text, lexicon).spelled(normalise(text), spell) == normalise(text)


@given(
    st.lists(
        st.sampled_from(["重庆", "GIF", "CFO", "银行", "3", "。", "ab", " ", "K歌"]), max_size=30
    )
)
def test_every_phrase_is_said_once_and_in_order(parts: list[str]) -> None:
    """Nothing of an override is lost, doubled or moved on the way."""
    text = "，".join(parts)
    wanted = [part for part in parts if part in ("重庆", "GIF", "K歌")]
    told: list[str] = []

    def note(one: Pronunciation) -> str:
        told.append(one.phrase)
        return "x"

    try:
        segments = front_end(text, lexicon=LEXICON, spell=note)
    except UnspeakableTextError:
        assert not wanted
        return
    assert told == wanted
    assert all(speech_units(one.text) <= 60 for one in segments)
