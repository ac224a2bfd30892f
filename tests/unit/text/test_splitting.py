"""Where a text is cut, and how long the silence after each piece is."""

from __future__ import annotations

import pytest

from tts_workers.text import speech_units, split
from tts_workers.text.splitting import (
    CLAUSE_PAUSE_S,
    NO_PAUSE_S,
    PARAGRAPH_PAUSE_S,
    SENTENCE_PAUSE_S,
)


def _texts(text: str, **options: int) -> list[str]:
    return [segment.text for segment in split(text, **options)]


@pytest.mark.parametrize("mark", ["。", "！", "？", "；", "…", "!", "?", ";", "？！", "……"])
def test_a_sentence_ends_at_each_sentence_mark(mark: str) -> None:
    """Every sentence mark, single or doubled, ends a segment and stays with it."""
    first, second = f"今天天气真的很好{mark}", "我们一起出去走走吧。"

    assert _texts(first + second) == [first, second]


def test_a_full_stop_before_a_new_sentence_ends_a_segment() -> None:
    """An English full stop that is followed by a space ends the sentence."""
    assert _texts("The train is late. Please wait on platform nine.") == [
        "The train is late.",
        "Please wait on platform nine.",
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "We met Dr. Smith and Mr. Jones there today.",
        "The ratio is about 3.5 in this example of ours.",
        "Fruit, e.g. apples and pears, is healthy for you.",
        "The U.S. economy and the U.K. economy both grew.",
        "A book by J. K. Rowling has been lent to somebody.",
        "Please visit example.com for more about all of this.",
        "Smith et al. showed that this is not the case.",
    ],
)
def test_a_dot_inside_a_sentence_does_not_end_it(sentence: str) -> None:
    """Titles, initials, abbreviations, decimals and host names are no sentence ends."""
    assert _texts(sentence) == [sentence]


def test_an_abbreviation_before_a_capital_may_end_a_sentence() -> None:
    """After ``p.m.`` and a company's ``Inc.`` a capital letter begins a new sentence."""
    assert _texts("We will all meet at three p.m. The room is on the first floor.") == [
        "We will all meet at three p.m.",
        "The room is on the first floor.",
    ]


def test_closing_quotes_and_brackets_stay_with_their_sentence() -> None:
    """No segment begins with the quote or bracket that closes the one before."""
    assert _texts(
        "他大声地对我们说：“你们快点来！”然后他就跑出去了。（全文到此完结。）谢谢大家的收听。"
    ) == [
        "他大声地对我们说：“你们快点来！”",
        "然后他就跑出去了。",
        "（全文到此完结。）",
        "谢谢大家的收听。",
    ]


def test_a_long_sentence_is_cut_at_its_clauses_into_pieces_of_similar_size() -> None:
    """Over the limit, cuts fall behind commas, and not so that a crumb is left over."""
    clause = "请您提前做好各项准备，"
    sentence = clause * 6 + "谢谢。"

    texts = _texts(sentence, max_units=60)

    assert "".join(texts) == sentence
    assert len(texts) == 2
    assert all(text.endswith(("，", "。")) for text in texts)
    assert abs(speech_units(texts[0]) - speech_units(texts[1])) <= len(clause)


def test_a_long_clause_is_cut_at_spaces_and_never_inside_a_word() -> None:
    """An English sentence without punctuation is cut between words, with no pause."""
    words = [f"word{'s' * (index % 7)}" for index in range(120)]

    segments = split(" ".join(words), max_units=30)

    assert " ".join(segment.text for segment in segments) == " ".join(words)
    assert {segment.pause_after_s for segment in segments} == {NO_PAUSE_S}


def test_a_word_longer_than_the_limit_is_cut_between_letters_with_their_marks() -> None:
    """Only a word that fits no segment is cut, and an accent stays on its letter."""
    word = "e\u0301" * 100

    texts = _texts(word, max_units=10)

    assert "".join(texts) == word
    assert all(text.startswith("e") and text.endswith("\u0301") for text in texts)


def test_very_short_sentences_are_spoken_with_a_neighbour() -> None:
    """A one-word sentence is not a segment of its own where it fits beside another."""
    assert _texts("好。我们现在开始开会。是。") == ["好。我们现在开始开会。是。"]


def test_short_pieces_stay_apart_where_together_they_would_be_too_long() -> None:
    """Joining short pieces never breaks the limit."""
    assert _texts("好好好好。好好好好好好好。", max_units=10) == ["好好好好。", "好好好好好好好。"]


def test_pauses_tell_paragraph_sentence_and_clause_apart() -> None:
    """The silence after a segment depends on what ends there; nothing follows the last."""
    clause = "请您提前做好各项准备，"
    text = f"第一句话到这里结束。第二句话到这里也结束。\n{clause * 8}谢谢。"

    pauses_s = [segment.pause_after_s for segment in split(text, max_units=60)]

    assert pauses_s == [SENTENCE_PAUSE_S, PARAGRAPH_PAUSE_S, CLAUSE_PAUSE_S, NO_PAUSE_S]
    assert PARAGRAPH_PAUSE_S > SENTENCE_PAUSE_S > CLAUSE_PAUSE_S > NO_PAUSE_S


def test_paragraphs_are_never_joined() -> None:
    """A line break ends a segment, however short the lines are."""
    assert _texts("标题\n正文") == ["标题", "正文"]


@pytest.mark.parametrize("text", ["", " \n ", "。，！", "（）…", "—"])
def test_a_text_without_a_spoken_character_has_no_segments(text: str) -> None:
    """Punctuation and white space alone make no segment."""
    assert split(text) == []


def test_the_measure_lets_english_have_three_letters_for_a_chinese_character() -> None:
    """The limit is one of time: a wide character counts one, any other a third, rounded up."""
    assert speech_units("你好，世界。") == 6
    assert speech_units("abcdef") == 2
    assert speech_units("abcdefg") == 3
    assert speech_units("") == 0


def test_a_limit_without_room_for_a_character_is_refused() -> None:
    """A limit below one is the caller's mistake and says so."""
    with pytest.raises(ValueError, match="max_units is 0"):
        split("你好", max_units=0)
