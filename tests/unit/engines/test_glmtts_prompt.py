"""Reference audio is checked before it is believed."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from tests.glmtts_double import PROMPT_TEXT, recording
from tts_tasks.errors import RequestError
from tts_workers.engines.glmtts.prompt import read_prompt


def encoded(samples: np.ndarray, rate_hz: int = 24_000, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, subtype="FLOAT" if kind == "WAV" else None)
    return file.getvalue()


@pytest.mark.parametrize("duration_s", [3.0, 10.0])
def test_three_to_ten_seconds_are_taken(duration_s: float) -> None:
    """Both ends included."""
    prompt = read_prompt(recording(duration_s), PROMPT_TEXT)

    assert prompt.samples.size == round(duration_s * 24_000)
    assert prompt.text.startswith("这是另一个人说的")


@pytest.mark.parametrize(
    ("duration_s", "words"), [(2.9, "2.90 s"), (10.1, "10"), (600.0, "cut it")]
)
def test_shorter_and_longer_is_refused(duration_s: float, words: str) -> None:
    """With the length that it has, and those that it may have; long files are not decoded whole."""
    with pytest.raises(RequestError, match=words) as raised:
        read_prompt(recording(duration_s, 16_000), PROMPT_TEXT)
    assert raised.value.field == "prompt_audio"


def test_stereo_is_mixed_and_the_rate_is_kept() -> None:
    """What the encoders need is made of it later."""
    prompt = read_prompt(recording(rate_hz=44_100, channels=2), PROMPT_TEXT)

    assert prompt.samples.ndim == 1
    assert prompt.sample_rate_hz == 44_100


def test_flac_and_mp3_are_read() -> None:
    """By their content, not by a name."""
    hum = np.sin(np.arange(4 * 24_000) / 20).astype(np.float32) / 3
    for kind in ("FLAC", "MP3"):
        assert read_prompt(encoded(hum, kind=kind), PROMPT_TEXT).samples.size > 3.9 * 24_000


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (b"", "cannot be read"),
        (b"RIFF" + bytes(100), "cannot be read"),
        (b"\xff\xfb" + bytes(5000), "prompt_audio"),
        (recording(rate_hz=8000), "16000 Hz or more"),
        (recording(channels=9), "channels"),
        (encoded(np.zeros(96_000, np.float32)), "silent"),
        (encoded(np.full(96_000, np.nan, np.float32)), "not numbers"),
        (recording()[:44], "prompt_audio"),
        (bytes(33 * 2**20), "MiB"),
    ],
)
def test_what_is_unusable_is_refused(audio: bytes, words: str) -> None:
    """As the request's fault, with what to do."""
    with pytest.raises(RequestError, match=words):
        read_prompt(audio, PROMPT_TEXT)


def test_a_header_that_promises_hours_is_not_believed() -> None:
    """Only what a recording may have is decoded, whatever the size fields say."""
    audio = bytearray(recording(12.0))
    audio[4:8] = audio[40:44] = struct.pack("<I", 0xFFFFFFF0)
    with pytest.raises(RequestError, match="prompt_audio"):
        read_prompt(bytes(audio), PROMPT_TEXT)


@pytest.mark.parametrize("text", [None, "", "  ", "。！"])
def test_the_text_of_the_recording_is_needed(text: str | None) -> None:
    """The model aligns one with the other."""
    with pytest.raises(RequestError, match="prompt_text"):
        read_prompt(recording(), text)


def test_a_text_that_nobody_could_say_in_the_time_is_refused() -> None:
    """The most common mistake: the text that is to be spoken, in place of the transcript."""
    with pytest.raises(RequestError, match="too long") as raised:
        read_prompt(recording(3.0), PROMPT_TEXT * 3)
    assert raised.value.field == "prompt_text"


def test_the_text_is_normalised_and_put_on_one_line() -> None:
    """As what follows it will be."""
    assert read_prompt(recording(), "我有3个\n苹果。").text == "我有三个 苹果。"
    assert "<|" not in read_prompt(recording(), "我有<|user|>苹果。").text
