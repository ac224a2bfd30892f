"""Integrated loudness as ITU-R BS.1770 and EBU R 128 have it, of sound that comes in blocks.

K-weighting is two recursive filters. Here their joint impulse response, which has died away after
a quarter of a second, is convolved with the sound by FFT: numpy has no recursive filter, and a
library that has one (pyloudnorm, with scipy) wants all of the sound in memory, an hour of which
is 635 MB. Agrees with pyloudnorm and with the standard's test tones:
``tests/unit/audio_out/test_loudness.py``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

#: The window whose energy counts, how far apart windows are, and what is too soft to count.
_STEP_S: Final = 0.1
_STEPS_OF_A_WINDOW: Final = 4
_ABSOLUTE_GATE_LUFS: Final = -70.0
_RELATIVE_GATE_LU: Final = -10.0
_OFFSET: Final = -0.691

_RESPONSE_S: Final = 0.25
#: Corner, gain and quality of the two filters: a shelf for the head, and a high-pass (BS.1770-4
#: gives coefficients for 48 kHz; these are the analogue values behind them, for any rate).
_SHELF: Final = (1681.974450955533, 3.999843853973347, 0.7071752369554196)
_HIGH_PASS: Final = (38.13547087602444, 0.5003270373238773)


def integrated_lufs(blocks: Iterable[NDArray[np.float32]], sample_rate_hz: int) -> float | None:
    """Return the gated loudness of mono sound; None where nothing of it is above -70 LUFS.

    What is shorter than a window of 0.4 s counts as one window. Memory: a number for each 0.1 s.
    """
    step = max(1, round(sample_rate_hz * _STEP_S))
    energies, rest = _energies(blocks, sample_rate_hz, step)
    if len(energies) < _STEPS_OF_A_WINDOW:
        samples = len(energies) * step + rest[1]
        windows = np.array([(sum(energies) + rest[0]) / samples]) if samples else np.zeros(0)
    else:
        sums = np.convolve(energies, np.ones(_STEPS_OF_A_WINDOW), "valid")
        windows = sums / (step * _STEPS_OF_A_WINDOW)
    loud = windows[windows > _power(_ABSOLUTE_GATE_LUFS)]
    if not loud.size:
        return None
    loud = loud[loud > _power(_lufs(float(loud.mean())) + _RELATIVE_GATE_LU)]
    return _lufs(float(loud.mean()))


def _lufs(power: float) -> float:
    return _OFFSET + 10 * math.log10(power)


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - _OFFSET) / 10))


def _energies(
    blocks: Iterable[NDArray[np.float32]], sample_rate_hz: int, step: int
) -> tuple[list[float], tuple[float, int]]:
    """Return the energy of each whole step of the weighted sound, and that of the rest."""
    response = _response(sample_rate_hz)
    tail = np.zeros(response.size - 1)
    held = np.zeros(0)
    energies: list[float] = []
    for block in blocks:
        weighted = _convolved(block.astype(np.float64), response)
        weighted[: tail.size] += tail
        tail = weighted[block.size :]
        held = np.concatenate((held, weighted[: block.size]))
        whole = held.size // step * step
        energies += np.square(held[:whole]).reshape(-1, step).sum(axis=1).tolist()
        held = held[whole:]
    return energies, (float(np.square(held).sum()), held.size)


def _convolved(block: NDArray[np.float64], response: NDArray[np.float64]) -> NDArray[np.float64]:
    samples = block.size + response.size - 1
    size = 1 << (samples - 1).bit_length()
    spectrum = np.fft.rfft(block, size) * np.fft.rfft(response, size)
    convolved: NDArray[np.float64] = np.fft.irfft(spectrum, size)[:samples]
    return convolved


@lru_cache(maxsize=8)
def _response(sample_rate_hz: int) -> NDArray[np.float64]:
    """Return the impulse response of both filters, one after the other."""
    impulse = [1.0] + [0.0] * (round(sample_rate_hz * _RESPONSE_S) - 1)
    return np.array(
        _filtered(_filtered(impulse, *_shelf(sample_rate_hz)), *_high_pass(sample_rate_hz))
    )


def _shelf(sample_rate_hz: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    corner_hz, gain_db, quality = _SHELF
    k = math.tan(math.pi * corner_hz / sample_rate_hz)
    high = 10 ** (gain_db / 20)
    middle = high**0.4996667741545416
    a0 = 1 + k / quality + k * k
    b = (
        high + middle * k / quality + k * k,
        2 * (k * k - high),
        high - middle * k / quality + k * k,
    )
    return tuple(one / a0 for one in b), (2 * (k * k - 1) / a0, (1 - k / quality + k * k) / a0)


def _high_pass(sample_rate_hz: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    corner_hz, quality = _HIGH_PASS
    k = math.tan(math.pi * corner_hz / sample_rate_hz)
    a0 = 1 + k / quality + k * k
    return (1.0, -2.0, 1.0), (2 * (k * k - 1) / a0, (1 - k / quality + k * k) / a0)


def _filtered(samples: list[float], b: tuple[float, ...], a: tuple[float, ...]) -> list[float]:
    """Run one recursive filter of the second order (transposed direct form II)."""
    z1 = z2 = 0.0
    filtered = []
    for sample in samples:
        out = b[0] * sample + z1
        z1 = b[1] * sample - a[0] * out + z2
        z2 = b[2] * sample - a[1] * out
        filtered.append(out)
    return filtered
