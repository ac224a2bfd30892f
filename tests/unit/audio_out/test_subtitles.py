"""Subtitles stand where the segments sound, and say what was written."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tts_tasks.errors import UnspeakableTextError
from tts_workers.audio_out.subtitles import Cue, cues, rendered
from tts_workers.engines.base import Segment
from tts_workers.text import front_end
from tts_workers.text.cleaning import clean
from tts_workers.text.written import written_segments

CUES = [
    Cue("价格50%。", "价格百分之五十。", 0, 22050),
    Cue("a <b> & c\n--> d", "a b and c d", 33075, 3600 * 22050 + 1),
]


def test_cues_follow_on_each_other_without_their_pauses() -> None:
    """A cue begins where the segment before, with its pause, has ended."""
    found = cues([("一", "1"), ("二", "2"), ("三", "3")], [100, 50, 30], [20, 0, 0])
    assert [(one.start, one.end) for one in found] == [(0, 80), (100, 150), (150, 180)]


def test_srt() -> None:
    """Numbered cues, times with a comma, no text that could be taken for a time."""
    assert rendered(CUES, "srt", 22050, 22050).decode() == (
        "1\n00:00:00,000 --> 00:00:01,000\n价格50%。\n\n"
        "2\n00:00:01,500 --> 01:00:00,000\na <b> & c → d\n"
    )


def test_vtt() -> None:
    """A header, times with a point, markup escaped."""
    assert rendered(CUES, "vtt", 22050, 22050).decode() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n价格50%。\n\n"
        "00:00:01.500 --> 01:00:00.000\na &lt;b&gt; &amp; c --&gt; d\n"
    )


def test_json_has_both_texts_and_samples_of_the_artifact() -> None:
    """Times in seconds, and samples at the artifact's own rate."""
    told = json.loads(rendered(CUES, "json", 22050, 44100))
    assert told["sample_rate_hz"] == 44100
    assert told["segments"][0] == {
        "number": 1,
        "text": "价格50%。",
        "spoken": "价格百分之五十。",
        "start_s": 0.0,
        "end_s": 1.0,
        "start_sample": 0,
        "end_sample": 44100,
    }
    assert told["segments"][1]["end_s"] == 3600.000045


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "今天是2024年3月5日，气温3.5°C。昨天涨了5.2%！我花了￥50。2026年再见。",
            [
                "今天是2024年3月5日，",
                "气温3.5°C。",
                "昨天涨了5.2%！",
                "我花了¥50。",
                "2026年再见。",
            ],
        ),
        (
            "Hello there. It costs $25.50 today. In 2019 we met. See you.",
            ["Hello there. It costs", "$25.50 today.", "In 2019 we met. See you."],
        ),
        ("第1段，价格50%。\n\n第2段有<b>3</b>个苹果。", ["第1段，价格50%。", "第2段有3个苹果。"]),
        ("3.5%", ["3.5%"]),
        ("12345678901。98765432101。", ["12345678901。", "98765432101。"]),
        (
            "这是个很短的句子。12345678。那么我们再见吧。",
            ["这是个很短的句子。", "12345678。", "", "那么我们再见吧。"],
        ),
        ("12345678。那么我们再见吧。", ["12345678。", "", "那么我们再见吧。"]),
    ],
)
def test_a_cue_shows_what_was_written(text: str, expected: list[str]) -> None:
    """Numbers and symbols stand as they were written, markup does not."""
    shown = written_segments(text, front_end(text, max_units=14))
    assert shown == expected
    assert re.sub(r"\s", "", "".join(shown)) == re.sub(r"\s", "", clean(text))


def test_what_a_lexicon_spells_is_not_shown() -> None:
    """Neither espeak's brackets nor tokens get into subtitles."""
    segments = [Segment("去[[chong2qing4]]。"), Segment("<|C|><|UEI1|>老了。"), Segment("好。")]
    assert written_segments("去重庆。衰老了。好。", segments) == ["去重庆。", "衰老了。", "好。"]


def test_texts_that_have_nothing_in_common_are_told_from_the_segments() -> None:
    """An engine that says something else altogether gets its own words shown."""
    segments = [Segment("alpha beta"), Segment("gamma")]
    assert written_segments("甲乙丙", segments) == ["alpha beta", "gamma"]


@pytest.mark.parametrize("text", ["\n2\n今", "。2\n今", "…“2”\n今"])
def test_a_mark_before_anything_is_said_ends_no_sentence(text: str) -> None:
    """The first cue shows what the first segment says."""
    first, second = written_segments(text, front_end(text, max_units=6))
    assert "2" in first
    assert second == "今"


@given(st.text("今天是2年3%。，！？\n a<b>$", max_size=80))
@example("\n2\n今")
def test_nothing_written_is_lost_or_moved(text: str) -> None:
    """All that is written stands in some cue, in order; the first cue has a text."""
    try:
        segments = front_end(text, max_units=6)
    except UnspeakableTextError:
        return
    shown = written_segments(text, segments)
    assert len(shown) == len(segments)
    assert shown[0]
    if "".join(shown) != "".join(one.text for one in segments):
        assert re.sub(r"\s", "", "".join(shown)) == re.sub(r"\s", "", clean(text))


def test_a_cue_without_a_text_of_its_own_lengthens_the_one_before() -> None:
    """A number that is cut in two is one cue on the screen, and two segments in the JSON."""
    two = [Cue("12345678。", "一千", 0, 100), Cue("", "五千", 120, 200), Cue("好", "好", 200, 300)]
    assert rendered(two, "srt", 1000, 1000).decode().count("-->") == 2
    assert "00:00:00,000 --> 00:00:00,200" in rendered(two, "srt", 1000, 1000).decode()
    assert "00:00:00.200 --> 00:00:00.300" in rendered(two, "vtt", 1000, 1000).decode()
    assert len(json.loads(rendered(two, "json", 1000, 1000))["segments"]) == 3


def test_a_long_text_takes_little_time() -> None:
    """Linear: also where the two texts do not agree."""
    text = "今天涨了5.2%，花了¥50。" * 4000
    segments = front_end(text)
    shown = written_segments(text, segments)
    assert "".join(shown) == text
    other = [Segment("完全不同的文字没有一个相同")] * 4000
    assert len(written_segments(text, other)) == 4000
