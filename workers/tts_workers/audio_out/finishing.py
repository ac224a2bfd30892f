"""What a request asks to be done to its sound, before its segments are kept and when all are there.

Segments are finished before they are logged: whoever listens hears what will be published, and an
attempt that goes on elsewhere joins the same samples. Loudness is a matter of the whole, and so is
done when all of it is there, over the kept 16-bit PCM, which is read twice and never in memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import IO, TYPE_CHECKING, Final

import numpy as np

from tts_tasks import audio
from tts_workers.audio_out.dynamics import limited, with_gain
from tts_workers.audio_out.edges import faded, trimmed
from tts_workers.audio_out.loudness import integrated_lufs
from tts_workers.text.splitting import PARAGRAPH_PAUSE_S, SENTENCE_PAUSE_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tts_tasks.requests import SpeechRequest
    from tts_workers.engines.base import Segment

#: What a loudness that has to be made up by gain may not pass, where the request says nothing.
_PEAK_DBFS: Final = -1.0


def with_pauses(segments: Sequence[Segment], request: SpeechRequest) -> list[Segment]:
    """Return the segments with the pauses that a request wants.

    A pause as long as that between paragraphs is one, and so for sentences; shorter ones are
    breaths within a sentence, and stay.
    """
    sentence_ms, paragraph_ms = request.sentence_pause_ms, request.paragraph_pause_ms
    found = []
    for segment in segments:
        pause_ms = None
        if segment.pause_after_s >= PARAGRAPH_PAUSE_S:
            pause_ms = paragraph_ms
        elif segment.pause_after_s >= SENTENCE_PAUSE_S:
            pause_ms = sentence_ms
        paused = segment if pause_ms is None else replace(segment, pause_after_s=pause_ms / 1000)
        found.append(paused)
    return found


def finished_segment(
    samples: NDArray[np.float32], request: SpeechRequest, sample_rate_hz: int
) -> NDArray[np.float32]:
    """Return what is kept of a segment that was spoken."""
    if request.trim_silence:
        samples = trimmed(samples, sample_rate_hz)
    if request.fade_ms:
        samples = faded(samples, request.fade_ms, sample_rate_hz)
    if request.gain_db:
        (samples,) = with_gain([samples], request.gain_db)
    if request.peak_limit_dbfs is not None and samples.size:
        blocks = limited([samples], request.peak_limit_dbfs, sample_rate_hz)
        samples = np.concatenate(list(blocks))
    return samples


def encoded_whole(
    pcm: IO[bytes], sample_rate_hz: int, rate_hz: int, request: SpeechRequest
) -> tuple[bytes, float]:
    """Return a whole encoded file of 16-bit PCM, as loud as is asked for, and its seconds."""
    pcm.seek(0)
    gain_db = 0.0
    peak_dbfs = request.peak_limit_dbfs
    if request.loudness_lufs is not None:
        peak_dbfs = _PEAK_DBFS if peak_dbfs is None else peak_dbfs
        measured = integrated_lufs(audio.read_pcm16(pcm), sample_rate_hz)
        gain_db = 0.0 if measured is None else request.loudness_lufs - measured
        pcm.seek(0)

    def shaped(blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        louder = with_gain(blocks, gain_db) if gain_db else blocks
        return louder if peak_dbfs is None else limited(louder, peak_dbfs, rate_hz)

    plain = not gain_db and peak_dbfs is None
    return audio.encode_pcm16(
        pcm, sample_rate_hz, rate_hz, request.format, None if plain else shaped
    )
