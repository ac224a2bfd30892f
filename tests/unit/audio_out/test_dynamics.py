"""The limiter passes no peak and changes nothing else; edges are trimmed and faded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_workers.audio_out.dynamics import amplitude, limited, with_gain
from tts_workers.audio_out.edges import faded, trimmed

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_HZ = 8000


def noise(count: int, peak: float, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-peak, peak, count).astype(np.float32)


def limit(samples: NDArray[np.float32], peak_dbfs: float, *cuts: int) -> NDArray[np.float32]:
    parts = np.split(samples, sorted(cuts))
    return np.concatenate([np.zeros(0, np.float32), *limited(parts, peak_dbfs, RATE_HZ)])


@settings(deadline=None)
@given(
    st.integers(0, 5000),
    st.floats(0.1, 4),
    st.floats(-20, 0),
    st.lists(st.integers(0, 5000), max_size=6),
)
def test_no_sample_passes_the_peak(
    count: int, peak: float, peak_dbfs: float, cuts: list[int]
) -> None:
    """Whatever comes, in whatever blocks: all samples are there, none beyond the peak."""
    samples = noise(count, peak)
    result = limit(samples, peak_dbfs, *[cut for cut in cuts if cut <= count])
    assert result.size == count
    assert np.abs(result).max(initial=0) <= amplitude(peak_dbfs)
    assert np.rint(np.abs(result) * 32768).max(initial=0) <= amplitude(peak_dbfs) * 32768
    assert np.array_equal(result, limit(samples, peak_dbfs))


def test_what_is_soft_stays_to_the_bit() -> None:
    """Only around a peak anything is turned down, and smoothly."""
    samples = noise(4000, 0.1)
    samples[2000] = 1.0
    result = limit(samples, -6)
    reach = 2 * round(0.005 * RATE_HZ)
    changed = np.flatnonzero(result != samples)
    assert changed.size
    assert changed.min() >= 2000 - reach
    assert changed.max() <= 2000 + reach
    gains = result[changed] / samples[changed]
    assert np.abs(np.diff(gains)).max() < 0.05
    assert np.array_equal(limit(noise(4000, 0.4), -6), noise(4000, 0.4))


def test_gain_is_in_decibels() -> None:
    """Six decibels are twice as much."""
    (louder,) = with_gain([noise(10, 0.1)], 20 * np.log10(2))
    assert louder == pytest.approx(noise(10, 0.1) * 2, rel=1e-6)
    assert louder.dtype == np.float32


def test_silence_at_the_ends_is_trimmed_but_for_a_little() -> None:
    """20 ms stay on each side; silence within stays, and so does a segment of silence."""
    sound = np.concatenate([noise(400, 0.5, 1), np.zeros(800, np.float32), noise(400, 0.5, 2)])
    sound[0] = sound[-1] = 0.5
    padded = np.concatenate([np.zeros(3000, np.float32), sound, np.zeros(2000, np.float32)])
    assert trimmed(padded, RATE_HZ).size == sound.size + 2 * 160
    assert np.array_equal(trimmed(padded, RATE_HZ)[160:-160], sound)
    assert np.array_equal(trimmed(sound, RATE_HZ), sound)
    silence = np.full(500, 0.001, np.float32)
    assert trimmed(silence, RATE_HZ) is silence


def test_fades_begin_and_end_in_silence() -> None:
    """The middle stays; a short segment is faded over half of it; the given samples stay."""
    ones = np.ones(1000, np.float32)
    result = faded(ones, 10, RATE_HZ)
    assert result[0] == result[-1] < 0.01
    assert np.all(np.diff(result[:80]) > 0)
    assert np.array_equal(result[80:-80], ones[80:-80])
    assert np.array_equal(result, result[::-1])
    assert faded(ones[:9], 10, RATE_HZ)[4] == 1.0
    assert faded(ones[:1], 10, RATE_HZ).tolist() == [1.0]
    assert ones.min() == 1.0
