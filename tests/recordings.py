"""Recordings to try as reference audio: noise in the rhythm of speech."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

if TYPE_CHECKING:
    from numpy.typing import NDArray


def speech(seconds: float = 4.0, rate_hz: int = 24000, *, seed: int = 1) -> NDArray[np.float64]:
    """Return noise in syllables of a fifth of a second, the same for the same arguments."""
    times_s = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, times_s.size)
    rhythm = 0.55 + 0.45 * np.sin(2 * np.pi * 5 * times_s)
    return np.asarray(noise * rhythm)


def encoded(samples: NDArray[Any], rate_hz: int = 24000, **how: str) -> bytes:
    """Return an audio file: 16-bit WAV unless ``format`` and ``subtype`` say otherwise."""
    target = io.BytesIO()
    soundfile.write(target, samples, rate_hz, **{"format": "WAV", "subtype": "PCM_16"} | how)
    return target.getvalue()


def recording(seconds: float = 4.0, *, seed: int = 1) -> bytes:
    """Return a recording that is good."""
    return encoded(speech(seconds, seed=seed))


def decoded(data: bytes) -> tuple[NDArray[np.float64], int]:
    """Return samples and rate of an audio file."""
    return soundfile.read(io.BytesIO(data))
