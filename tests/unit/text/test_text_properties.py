"""What holds for every text, not only for the examples somebody thought of."""

from __future__ import annotations

import re
import time
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tts_tasks.errors import UnspeakableTextError
from tts_workers.text import front_end, normalise, speech_units, split

_WRITTEN_FRAGMENTS = r"""
    0 1 2 05 12 14 30 2026 2024 1234 6688 13800138000 95588 1,234.50 0.5 007 3.14 ００１ ٣ ½
    ² ③ Ⅲ 〇 + - − – ~ ～ / : ： . , ， 。 ！ ？ ; … ' " “ ” ( ） [ ] < > & @ # % ‰ ° ℃ ¥ ￥
    $ € × = ^ * ** _ | 年 月 日 号 点 分 元 万 亿 个 第 岁 路 次 室 楼 转 到 至 以 的 比分
    电话 验证码 尾号 拨打 血压 你好 重庆 km kg m² GB ml a.m. p.m. AM March May Mon Dr. Mr.
    e.g. U.S. No. st nd th s x T A CA G I in call code room apples the has word iPhone www.
    .com b.cn http:// a@b.cn &amp; <b> </b> <br> <!-- --> ``` [a](b) 😀 👍🏽 か ñ ß İ ﬁ
"""
_SPOKEN_FRAGMENTS = r"""
    你好 今天 天气 很 好 。 ， ！ ？ ； … 、 ： hello world Dr. e.g. U.S. a.m. . , ! ? ; : '
    " ” ) （ — twenty-six Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogoch 3.5 😀
"""
_INVISIBLE = (
    "\u200b",
    "\u200d",
    "\ufe0f",
    "\u0301",
    "\ud800",
    "\x00",
    "\t",
    "\n",
    "\r\n",
    "\u2028",
)
#: What real texts are made of and rules are likely to trip over, and any Unicode at all.
_WRITTEN = st.lists(
    st.sampled_from([*_WRITTEN_FRAGMENTS.split(), *_INVISIBLE, " "]), max_size=24
).map("".join) | st.text(max_size=60)
_SPOKEN = st.lists(
    st.sampled_from([*_SPOKEN_FRAGMENTS.split(), "e\u0301", "\n", "\n\n", " "]), max_size=60
).map("".join) | st.text(max_size=120)


def _spoken_characters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


@settings(max_examples=300, deadline=None)
@given(_WRITTEN)
@example("...。。。")
@example("1́ é")
@example("&amp;lt;b&amp;gt;")
@example("b.cn0")
@example("1Dr. 5e.g.")
@example("a--b '' a'-b 你,，好 .")
def test_normalising_twice_is_the_same_as_once(text: str) -> None:
    """A normalised text holds nothing that normalisation would change again."""
    once = normalise(text)

    assert normalise(once) == once


@settings(max_examples=300, deadline=None)
@given(_WRITTEN, st.sampled_from(["zh", "en"]))
def test_a_normalised_text_holds_words_and_plain_punctuation_only(text: str, default: str) -> None:
    """No digit, symbol, control character or stray mark reaches an engine, whatever came in."""
    spoken = normalise(text, default_language=default)  # type: ignore[arg-type]

    categories = {unicodedata.category(char)[0] for char in spoken}
    assert categories <= {"L", "M", "P", "Z", "C"}
    assert not re.search(r"[\d<>&@#%*_\[\]{}\x00-\x09\x0b-\x1f]|  |\n\n|^\s|\s$", spoken)


@settings(max_examples=300, deadline=None)
@given(_SPOKEN, st.integers(1, 80))
@example("a" * 500, 7)
@example("。" * 500 + "好", 3)
@example("好" + "，" * 500, 3)
@example("e" + "\u0301" * 50, 2)
@example("\u0301" * 50 + "e", 2)
def test_the_spoken_characters_of_the_segments_are_those_of_the_text(
    text: str, max_units: int
) -> None:
    """Splitting never loses, repeats or moves a character that is spoken."""
    segments = split(text, max_units=max_units)

    assert _spoken_characters("".join(s.text for s in segments)) == _spoken_characters(text)


@settings(max_examples=300, deadline=None)
@given(_SPOKEN, st.integers(1, 80))
@example("好" + "，" * 500, 3)
@example("e" + "\u0301" * 50, 2)
@example("\u0301" * 50 + "e", 2)
def test_every_segment_is_spoken_and_within_the_limit(text: str, max_units: int) -> None:
    """No segment is silent, empty, padded with white space, or longer than it may be."""
    for segment in split(text, max_units=max_units):
        assert any(map(str.isalnum, segment.text))
        assert speech_units(segment.text) <= max_units
        assert segment.text == segment.text.strip()
        assert "\n" not in segment.text
        assert segment.pause_after_s >= 0


@settings(max_examples=300, deadline=None)
@given(_WRITTEN)
def test_the_front_end_gives_segments_or_says_that_nothing_can_be_spoken(text: str) -> None:
    """Any string either yields speakable segments or the one documented error."""
    try:
        segments = front_end(text)
    except UnspeakableTextError:
        assert not any(map(str.isalnum, normalise(text)))
    else:
        assert segments
        assert all(any(map(str.isalnum, segment.text)) for segment in segments)


@pytest.mark.parametrize(
    "unit",
    [
        "您尾号6688的账户于3月5日14:30支出1,234.50元。",
        "It costs $1,234.50 at 3:05 p.m. ",
        *(
            "1",
            "1,",
            "1-",
            "1.",
            "1:",
            "1/",
            "1 ",
            "1+",
            "1x",
            "5 x ",
            "a1",
            "a.",
            "a@",
            "a-",
            "http://",
        ),
        *(
            "<a ",
            "<!--",
            "<script",
            "[",
            "[a](",
            "&",
            "&amp",
            "-",
            "(",
            "\u0301",
            "e\u0301",
            " ",
            "\n",
        ),
        *("，", "。”", "a", "中", "A.", "\t# "),
    ],
)
def test_no_repeated_fragment_makes_a_pattern_backtrack_over_the_whole_text(unit: str) -> None:
    """A hostile text of 30,000 characters is dealt with; backtracking would take for ever."""
    length_chars = 30_000
    text = (unit * (length_chars // len(unit) + 1))[:length_chars]
    started_s = time.process_time()

    split(normalise(text))

    assert time.process_time() - started_s < 10
