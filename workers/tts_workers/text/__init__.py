"""The text front end: from written text to segments of spoken words, Chinese and English."""

from __future__ import annotations

from tts_workers.text.front_end import FRONT_END_VERSION, front_end
from tts_workers.text.normalisation import normalise
from tts_workers.text.overrides import Overrides, Pronunciation, Spell
from tts_workers.text.splitting import speech_units, split

__all__ = [
    "FRONT_END_VERSION",
    "Overrides",
    "Pronunciation",
    "Spell",
    "front_end",
    "normalise",
    "speech_units",
    "split",
]
