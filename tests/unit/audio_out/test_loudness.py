"""Loudness is what the standard says it is, and what another implementation measures."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pyloudnorm
import pytest

from tts_workers.audio_out.loudness import integrated_lufs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

RATES_HZ = (8000, 16000, 22050, 24000, 44100, 48000)


def tone(hz: float, peak_dbfs: float, seconds: float, rate_hz: int) -> NDArray[np.float32]:
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (10 ** (peak_dbfs / 20) * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def speech(seconds: float, rate_hz: int, seed: int = 1) -> NDArray[np.float32]:
    """Return noise that comes and goes as speech does, with silence in between."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate_hz)
    levels = np.repeat(rng.choice([0.0, 0.003, 0.1, 0.4], round(seconds * 4) + 1), rate_hz // 4)
    noise = np.convolve(rng.standard_normal(count), np.ones(8) / 8, "same")
    return (0.3 * noise * levels[:count]).astype(np.float32)


def blocks(samples: NDArray[np.float32], size: int) -> Iterator[NDArray[np.float32]]:
    for start in range(0, samples.size, size):
        yield samples[start : start + size]


@pytest.mark.parametrize("rate_hz", [44100, 48000])
def test_the_tone_of_the_standard(rate_hz: int) -> None:
    """A tone of 997 Hz at full scale in one channel is -3.01 LUFS (BS.1770-4)."""
    for peak_dbfs in (0.0, -20.0):
        measured = integrated_lufs([tone(997, peak_dbfs, 5, rate_hz)], rate_hz)
        assert measured == pytest.approx(peak_dbfs - 3.01, abs=0.05)


def test_silence_in_between_does_not_count() -> None:
    """EBU Tech 3341, case 3: what is 10 LU below the rest is gated."""
    parts = [tone(1000, -36, 10, 48000), tone(1000, -23, 60, 48000), tone(1000, -36, 10, 48000)]
    measured = integrated_lufs([np.concatenate(parts)], 48000)
    assert measured == pytest.approx(-23 - 3.01, abs=0.1)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_it_measures_what_pyloudnorm_measures(rate_hz: int) -> None:
    """Within a tenth of a decibel, at every rate, on something like speech."""
    samples = speech(12, rate_hz)
    theirs = pyloudnorm.Meter(rate_hz, filter_class="DeMan").integrated_loudness(
        samples.astype(np.float64)
    )
    ours = integrated_lufs([samples], rate_hz)
    assert ours == pytest.approx(theirs, abs=0.1)


def test_blocks_do_not_matter() -> None:
    """The sound is the same whatever pieces it comes in."""
    samples = speech(5, 22050)
    whole = integrated_lufs([samples], 22050)
    for size in (100, 2205, 65536):
        assert integrated_lufs(blocks(samples, size), 22050) == pytest.approx(whole, abs=1e-6)


def test_short_and_silent_sound() -> None:
    """Less than a window is one window; silence and nothing have no loudness."""
    assert integrated_lufs([tone(997, -10, 0.2, 48000)], 48000) == pytest.approx(-13, abs=0.5)
    assert integrated_lufs([np.zeros(48000, np.float32)], 48000) is None
    assert integrated_lufs([], 48000) is None


def test_memory_does_not_grow_with_the_sound() -> None:
    """An hour needs hardly more than a minute."""

    def peak_bytes(minutes: int) -> int:
        block = speech(10, 8000)
        tracemalloc.start()
        integrated_lufs((block for _ in range(minutes * 6)), 8000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(1)
    assert peak_bytes(60) < peak_bytes(1) + 3 * 1024 * 1024
