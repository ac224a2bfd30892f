"""The edges of a segment: silence that an engine adds, and clicks where it begins or ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Softer than this is silence: -50 dBFS.
_SILENCE_PEAK: Final = 10 ** (-50 / 20)
#: So much of it stays: breath and the end of a consonant are soft.
_KEPT_S: Final = 0.02


def trimmed(samples: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """Return the samples without the silence at both ends, but for 20 ms of it.

    What is silent from end to end stays as it is.
    """
    loud = np.flatnonzero(np.abs(samples) >= _SILENCE_PEAK)
    if not loud.size:
        return samples
    kept = round(_KEPT_S * sample_rate_hz)
    return samples[max(0, int(loud[0]) - kept) : int(loud[-1]) + 1 + kept]


def faded(samples: NDArray[np.float32], fade_ms: float, sample_rate_hz: int) -> NDArray[np.float32]:
    """Return the samples faded in and out along half a cosine, each at most half of them long."""
    length = min(round(fade_ms / 1000 * sample_rate_hz), samples.size // 2)
    if length == 0:
        return samples
    rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / length)).astype(np.float32)
    result = samples.copy()
    result[:length] *= rise
    result[-length:] *= rise[::-1]
    return result
