"""Pinyin becomes the phonemes that the model's tokenizer knows."""

from __future__ import annotations

import pytest

from tts_tasks.errors import RequestError
from tts_workers.engines.glmtts.phonemes import pinyin_to_tokens, spell
from tts_workers.text import Pronunciation


@pytest.mark.parametrize(
    ("syllable", "tokens"),
    [
        ("chong2", "CH ONG2"),
        ("qing4", "Q ING4"),
        ("zhi1", "ZH III1"),
        ("ri4", "R III4"),
        ("zi3", "Z II3"),
        ("ji1", "J I1"),
        ("lü4", "L V4"),
        ("lu:e4", "L VE4"),
        ("nv3", "N V3"),
        ("ju2", "J V2"),
        ("xue2", "X VE2"),
        ("quan2", "Q VAN2"),
        ("jun1", "J VN1"),
        ("liu4", "L IOU4"),
        ("shui3", "SH UEI3"),
        ("lun2", "L UEN2"),
        ("bo1", "B O1"),
        ("yi1", "I1"),
        ("ying2", "ING2"),
        ("you3", "IOU3"),
        ("yong4", "IONG4"),
        ("yu2", "V2"),
        ("yuan2", "VAN2"),
        ("yun4", "VN4"),
        ("ye4", "IE4"),
        ("wu3", "U3"),
        ("wei4", "UEI4"),
        ("weng1", "UENG1"),
        ("er2", "ER2"),
        ("an1", "AN1"),
        ("de5", "D E5"),
    ],
)
def test_syllables_of_all_kinds(syllable: str, tokens: str) -> None:
    """In the strict scheme, which is not what is written."""
    assert pinyin_to_tokens([syllable]) == "".join(f"<|{one}|>" for one in tokens.split())


def test_words_are_syllables_one_after_the_other() -> None:
    """Case and white space do not matter."""
    assert pinyin_to_tokens(["Chong2", " qing4"]) == "<|CH|><|ONG2|><|Q|><|ING4|>"
    assert pinyin_to_tokens([]) == ""


@pytest.mark.parametrize("syllable", ["", "chong", "2", "chong6", "xyz1", "重2", "<|a1|>", "hng5"])
def test_what_is_no_syllable_is_refused(syllable: str) -> None:
    """As the lexicon's fault, with what one looks like."""
    with pytest.raises(RequestError, match="lexicon"):
        pinyin_to_tokens([syllable])


@pytest.mark.parametrize("syllable", ["er1", "yo2", "guai5"])
def test_a_sound_that_the_model_lacks_is_refused(syllable: str) -> None:
    """Its tokenizer would spell it letter by letter."""
    with pytest.raises(RequestError, match="no such sound"):
        pinyin_to_tokens([syllable])


def test_ipa_is_refused() -> None:
    """The model has no sounds but those of Mandarin."""
    with pytest.raises(RequestError, match="give it pinyin"):
        spell(Pronunciation("gif", ipa="dʒɪf"))
