"""Reference audio: a recording of 3 to 10 seconds, checked before it is believed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import soundfile

from tts_tasks.errors import RequestError
from tts_tasks.voices.transcripts import check_length
from tts_workers.engines.glmtts.text_guard import without_phonemes
from tts_workers.text import normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORTEST_S: Final = 3.0
LONGEST_S: Final = 10.0
#: The model hears the voice at 16 kHz; what was recorded with less lacks what it listens to.
LOWEST_RATE_HZ: Final = 16_000
_HIGHEST_RATE_HZ: Final = 192_000
_MOST_CHANNELS: Final = 8
_MOST_BYTES: Final = 32 * 1024 * 1024
_SILENCE_PEAK: Final = 0.01  #: -40 dBFS


@dataclass(frozen=True, slots=True)
class Prompt:
    """A recording, mono float32 in [-1, 1], and what is said in it, on one line."""

    samples: NDArray[np.float32]
    sample_rate_hz: int
    text: str


def read_prompt(audio: bytes, text: str | None) -> Prompt:
    """Decode and check reference audio; raises `RequestError` that says what to change."""
    line = " ".join(normalise(without_phonemes(text or "")).split())
    if not any(map(str.isalnum, line)):
        raise RequestError("prompt_text", "say what is said in prompt_audio, word for word")
    samples, rate_hz = _decoded(audio)
    duration_s = samples.size / rate_hz
    if not SHORTEST_S <= duration_s <= LONGEST_S:
        raise RequestError(
            "prompt_audio",
            f"lasts {duration_s:.2f} s: a recording of {SHORTEST_S:g} to {LONGEST_S:g} s is needed",
        )
    if float(np.abs(samples).max()) < _SILENCE_PEAK:
        raise RequestError("prompt_audio", "is silent: nobody can be heard in it")
    try:
        check_length(line, duration_s)
    except ValueError as error:
        raise RequestError("prompt_text", str(error)) from None
    return Prompt(samples, rate_hz, line)


def _decoded(audio: bytes) -> tuple[NDArray[np.float32], int]:
    """Decode at most a little more than the longest recording, whatever the file promises."""
    if len(audio) > _MOST_BYTES:
        raise RequestError(
            "prompt_audio", f"has {len(audio)} bytes; at most {_MOST_BYTES // 2**20} MiB are read"
        )
    try:
        with soundfile.SoundFile(io.BytesIO(audio)) as file:
            rate_hz, channels = int(file.samplerate), int(file.channels)
            if not LOWEST_RATE_HZ <= rate_hz <= _HIGHEST_RATE_HZ:
                raise RequestError(
                    "prompt_audio",
                    f"has {rate_hz} Hz: record it at {LOWEST_RATE_HZ} Hz or more, up to"
                    f" {_HIGHEST_RATE_HZ}",
                )
            if channels > _MOST_CHANNELS:
                raise RequestError("prompt_audio", f"has {channels} channels: one or two, please")
            frames = int((LONGEST_S + 1.0) * rate_hz)
            decoded = file.read(frames, dtype="float32", always_2d=True)
            if len(decoded) == frames:
                raise RequestError(
                    "prompt_audio", f"is longer than {LONGEST_S:g} s: cut it at a pause"
                )
    except (soundfile.LibsndfileError, RuntimeError) as error:
        said = getattr(error, "error_string", str(error))
        raise RequestError("prompt_audio", f"cannot be read as audio: {said}") from None
    samples = np.ascontiguousarray(decoded.mean(axis=1, dtype=np.float32))
    if not samples.size or not bool(np.isfinite(samples).all()):
        raise RequestError("prompt_audio", "holds no samples, or some that are not numbers")
    return np.clip(samples, -1.0, 1.0), rate_hz
