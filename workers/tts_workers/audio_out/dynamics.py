"""Gain, and a limiter that lets no sample pass a peak: on sound that comes in blocks.

The limiter looks ahead: it turns the sound down before a peak and up again after it, in 5 ms each,
so that nothing clicks and nothing is clipped. The same sound gives the same samples, whatever
blocks it comes in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

_REACH_S: Final = 0.005
#: What a sample of 16 bits is rounded by at most: a limit holds after rounding, too.
_HALF_STEP: Final = 0.5 / 32768


def amplitude(decibels: float) -> float:
    """Return the factor that so many decibels are."""
    return float(10 ** (decibels / 20))


def with_gain(
    blocks: Iterable[NDArray[np.float32]], gain_db: float
) -> Iterator[NDArray[np.float32]]:
    """Yield the blocks louder (or softer)."""
    factor = np.float32(amplitude(gain_db))
    for block in blocks:
        yield block * factor


def limited(
    blocks: Iterable[NDArray[np.float32]], peak_dbfs: float, sample_rate_hz: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the sound with no sample beyond a peak, in blocks that may be others.

    Where it comes nowhere near the peak, samples are those that they were, to the bit.
    """
    reach = max(1, round(sample_rate_hz * _REACH_S))
    limiter = _Limiter(amplitude(peak_dbfs) - _HALF_STEP, reach)
    for block in blocks:
        if (ready := limiter.take(block)).size:
            yield ready
    if (rest := limiter.rest()).size:
        yield rest


class _Limiter:
    """Holds back as much sound as a peak reaches: twice ``reach``, before and after."""

    def __init__(self, peak: float, reach: int) -> None:
        self._peak = peak
        self._reach = reach
        self._held = np.zeros(2 * reach, np.float32)  # silence before the beginning
        self._skip = 0

    def take(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what is not reached by any peak that is still to come."""
        held = np.concatenate((self._held, block))
        margin = 2 * self._reach
        if held.size <= 2 * margin:
            self._held = held
            return held[:0]
        ready = self._turned_down(held)
        self._held = held[held.size - 2 * margin :]
        return ready

    def rest(self) -> NDArray[np.float32]:
        """Return the end."""
        margin = 2 * self._reach
        held = np.concatenate((self._held, np.zeros(margin, np.float32)))
        return self._turned_down(held) if held.size > 2 * margin else held[:0]

    def _turned_down(self, held: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the samples that have a margin on both sides."""
        margin, reach = 2 * self._reach, self._reach
        middle = held[margin : held.size - margin]
        loudest = np.abs(held)
        if not loudest.size or float(loudest.max()) <= self._peak:
            return middle
        wanted = np.minimum(1.0, self._peak / np.maximum(loudest, 1e-9).astype(np.float64))
        # As low as any peak within reach wants it, then smoothed over as much: never higher.
        window = 2 * reach + 1
        low = np.lib.stride_tricks.sliding_window_view(wanted, window).min(axis=1)
        smooth = np.lib.stride_tricks.sliding_window_view(low, window).mean(axis=1)
        turned: NDArray[np.float32] = (middle * smooth).astype(np.float32)
        return turned
