"""A lexicon's pronunciations as the phonemes that GLM-TTS's tokenizer knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tts_tasks.errors import RequestError
from tts_tasks.lexicons.glmtts import syllable_to_tokens
from tts_tasks.lexicons.pinyin import parse_syllable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_workers.text import Pronunciation


def spell(pronunciation: Pronunciation) -> str:
    """Return how a pronunciation stands in a segment; raises `RequestError` for IPA."""
    if pronunciation.ipa:
        raise RequestError(
            "lexicon",
            f"says {pronunciation.ipa!r} for {pronunciation.phrase!r}, and GLM-TTS knows the sounds"
            " of Mandarin only: give it pinyin, or other words",
        )
    return pinyin_to_tokens(pronunciation.syllables)


def pinyin_to_tokens(syllables: Sequence[str]) -> str:
    """Return the tokens of syllables with their tones, ``chong2``: ``<|CH|><|ONG2|>``.

    Raises `RequestError` for what is no syllable, and for one that the model has no token for.
    """
    return "".join(map(_tokens_of, syllables))


def _tokens_of(syllable: str) -> str:
    try:
        tokens = syllable_to_tokens(parse_syllable(syllable.strip()))
    except ValueError as error:
        raise RequestError("lexicon", str(error)) from None
    if tokens is None:
        raise RequestError("lexicon", f"{syllable!r}: the model has no such sound")
    return tokens
