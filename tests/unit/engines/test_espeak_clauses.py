"""The guard against espeak's overflowing buffers adds breaks, and only where they are needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_workers.engines.espeak_clauses import within_limits

ALPHABET = st.sampled_from("重庆银行的 aeXWw7,.，。!%'\n")


@given(text=st.text(ALPHABET, max_size=600), mandarin=st.booleans())
def test_all_characters_stay_in_order(text: str, mandarin: bool) -> None:
    """Only commas and spaces are added; nothing is lost, repeated or moved."""
    added = iter(within_limits(text, mandarin=mandarin))

    for char in text:
        while (candidate := next(added)) != char:
            assert candidate in "，, "
    assert not list(added)


@pytest.mark.parametrize(
    "text",
    [
        "各位旅客请注意，开往上海虹桥方向的列车马上就要进站了，请您带好随身物品到三号站台等候。",
        (
            "Passengers travelling on the delayed service from London to Manchester are asked to"
            " wait at platform three until further notice is given by the station staff on duty."
        ),
        "Dr. Smith vs. Mr. Jones, e.g. antidisestablishmentarianism, HTTP 404, 1,234,567.89.",
    ],
)
def test_ordinary_sentences_stay_as_they_are(text: str) -> None:
    """A sentence as people write it gets no break that it did not have."""
    assert within_limits(text, mandarin=True) == text


def test_a_long_clause_gets_commas_and_a_long_word_spaces() -> None:
    """Chinese without punctuation gets Chinese commas, spelled letters get spaces."""
    assert within_limits("七" * 300, mandarin=True).count("，") == 2
    assert within_limits("W" * 40, mandarin=True).count(" ") == 2
