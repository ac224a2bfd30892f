"""Whether a transcript can be what is said in a recording."""

from __future__ import annotations

import io
import unicodedata
import wave
from typing import Final

from tts_tasks.errors import RequestError

#: Nobody says more in a second: twice what fast speakers do.
MOST_UNITS_PER_S: Final = 15
#: A Chinese character takes about as long to say as three letters of English.
_LETTERS_PER_UNIT: Final = 3


def length_s(audio: bytes) -> float:
    """Return how long normalised reference audio is, in seconds."""
    with wave.open(io.BytesIO(audio)) as file:
        seconds: float = file.getnframes() / file.getframerate()
        return seconds


def check_prompt(text: str, audio_s: float) -> None:
    """Refuse a ``prompt_text`` that nobody can say in so much audio; raises `RequestError`."""
    try:
        check_length(text, audio_s)
    except ValueError as error:
        raise RequestError("prompt_text", str(error)) from None


def check_length(text: str, speech_s: float) -> None:
    """Refuse a transcript that nobody can say in so many seconds; raises ValueError.

    Counted are letters and digits: a wide one as a whole, any other as a third.
    """
    letters = [char for char in text if char.isalnum()]
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in letters)
    units = wide + (len(letters) - wide) / _LETTERS_PER_UNIT
    if units > MOST_UNITS_PER_S * speech_s:
        raise ValueError(
            f"is too long for {speech_s:.1f} s of speech ({len(letters)} letters): it must be what "
            "is said in the recording, and no more"
        )
