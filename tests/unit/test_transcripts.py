"""A transcript is what is said in a recording, and no more."""

from __future__ import annotations

import pytest

from tts_tasks.voices.transcripts import check_length


@pytest.mark.parametrize(
    ("text", "speech_s"),
    [
        ("好" * 60, 4.0),
        ("x" * 180, 4.0),
        ("好" * 30 + "x" * 90, 4.0),
        ("好，" * 60 + "……" * 50, 4.0),  # marks take no time that a hasty speaker would need
        ("a", 3.0),  # a long one, perhaps
    ],
)
def test_what_can_be_said_in_the_time_is_taken(text: str, speech_s: float) -> None:
    """However fast: it is not ours to judge."""
    check_length(text, speech_s)


@pytest.mark.parametrize(
    ("text", "speech_s"),
    [("好" * 61, 4.0), ("x" * 181, 4.0), ("好" * 30 + "x" * 91, 4.0), ("7" * 200, 3.0)],
)
def test_what_nobody_can_say_in_the_time_is_refused(text: str, speech_s: float) -> None:
    """It is the text of something else: most often that which is to be spoken."""
    with pytest.raises(ValueError, match=rf"too long for {speech_s:.1f} s of speech .* no more"):
        check_length(text, speech_s)
