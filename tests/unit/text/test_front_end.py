"""The front end as engines call it."""

from __future__ import annotations

import hashlib

import pytest

from tts_tasks.errors import UnspeakableTextError
from tts_workers.text import FRONT_END_VERSION, front_end

#: What the front end makes of `_SAMPLES`, by version. A change of output needs a new version,
#: because audio made before the change would be taken for audio made after it.
_SOUND_OF_VERSION = {"1": "e5e0e8bdfbe1754e"}
_SAMPLES = (
    "您尾号6688的账户于2026年3月5日14:30支出￥1,234.50元，占比12.5%。",
    "Flight CA1234 leaves at 3:05 p.m. on March 5, 2026 from gate A12. It costs $99.50!",
    "请拨打95588或010-62345678；体温38.5℃，5mg/kg，3-5天。\n第2段：iPhone 15，比分3:2，1/2。",
    "She said that " + "the meeting was moved again and " * 10 + "nobody knew why.",
)


def test_a_text_is_normalised_and_cut_into_segments() -> None:
    """The front end returns spoken words in order, cut at sentences, with their pauses."""
    segments = front_end("G1024次列车将于14:30发车。请到A12检票口检票。")

    assert [segment.text for segment in segments] == [
        "G幺零二四次列车将于十四点三十分发车。",
        "请到A十二检票口检票。",
    ]
    assert [segment.pause_after_s > 0 for segment in segments] == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "\n\t\n",
        "。",
        "？！…",
        "😀👍🏽🎉",
        "<br/>",
        "***",
        "\u200b\ufeff",
        "\ud800",
        "---",
    ],
)
def test_a_text_with_nothing_to_speak_is_an_error_and_not_a_sound(text: str) -> None:
    """Empty, blank, punctuation-only, emoji-only and markup-only texts are refused."""
    with pytest.raises(UnspeakableTextError, match="nothing to speak"):
        front_end(text)


def test_the_error_quotes_a_long_text_in_part_and_in_plain_characters() -> None:
    """A message is short and printable whatever the text was."""
    with pytest.raises(UnspeakableTextError) as caught:
        front_end("\ud800\x1b" + "。" * 10_000)

    message = str(caught.value)
    assert len(message) < 400
    assert message.isascii()
    assert message.isprintable()


def test_the_limit_reaches_the_splitter() -> None:
    """An engine with shorter segments asks for them."""
    assert len(front_end("今天天气很好" * 10, max_units=20)) == 3


def test_another_output_needs_another_version() -> None:
    """The version in engines' fingerprints changes whenever a sample's segments change."""
    spoken = repr([front_end(sample) for sample in _SAMPLES])

    digest = hashlib.sha256(spoken.encode()).hexdigest()[:16]

    assert _SOUND_OF_VERSION[FRONT_END_VERSION] == digest, spoken
