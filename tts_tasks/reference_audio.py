"""Checks and normalises the reference audio of a voice: a few seconds of one person's speech.

What is kept is always the same kind of file: mono, 16 bit, `RATE_HZ`, without silence at its ends,
at one loudness. So every engine gets what it knows, and the same recording has the same hash
whatever it came in. Needs numpy, soundfile and soxr, which a client does not have: imported only
when there is audio to check.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import soundfile

from tts_tasks import audio
from tts_tasks.errors import RequestError
from tts_tasks.voices.files import MAX_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Of what is kept: the highest rate that GLM-TTS and its like take reference audio in.
RATE_HZ: Final = 24000
MIN_S, MAX_S = 3.0, 10.0  #: of speech, without the silence at both ends
_MAX_SOURCE_S: Final = 60.0
_MIN_RATE_HZ, _MAX_RATE_HZ = 16000, 192000
_MAX_CHANNELS: Final = 2
_MAX_DIFFERENCE_DB: Final = -30.0  #: of channels that are one recording, to their own level
_FULL_SCALE: Final = 0.999
_MAX_CLIPPED_SHARE: Final = 0.001
_MAX_SILENT_SHARE: Final = 0.5
_MIN_LEVEL_DBFS: Final = -50.0
_LEVEL_DBFS: Final = -23.0  #: RMS of the speech in what is kept,
_PEAK_DBFS: Final = -1.0  #: or less, where its peaks would be higher than this
_FRAME_S: Final = 0.02
#: A frame is silence below this, and below `_BELOW_SPEECH_DB` under the loudest ones.
_SILENCE_DBFS: Final = -60.0
_BELOW_SPEECH_DB: Final = -40.0
_MARGIN_S: Final = 0.1  #: of silence that is left at both ends


@dataclass(frozen=True, slots=True)
class Checks:
    """What was measured of a recording."""

    format: str
    sample_rate_hz: int
    channels: int
    duration_s: float  #: as it came
    speech_s: float  #: without the silence at both ends
    level_dbfs: float  #: RMS of the speech
    clipped_share: float  #: of the samples
    silent_share: float  #: of the speech
    gain_db: float  #: that was applied
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReferenceAudio:
    """Reference audio that is fit to speak with."""

    data: bytes = field(repr=False)  #: a WAV file
    checks: Checks

    @property
    def sha256(self) -> str:
        """Content hash, as hex."""
        return hashlib.sha256(self.data).hexdigest()

    def figures(self) -> dict[str, Any]:
        """Return the checks as plain JSON."""
        return asdict(self.checks) | {"warnings": list(self.checks.warnings)}


@dataclass(frozen=True, slots=True)
class _Speech:
    """Where the speech is in a recording, and what it is like."""

    start_s: float
    length_s: float  #: from the first word to the last
    level_dbfs: float
    silent_share: float


def prepare(data: bytes, field: str = "prompt_audio") -> ReferenceAudio:
    """Check a recording and normalise it.

    Raises `RequestError` for ``field`` saying what was measured, and what it has to be.
    """
    try:
        return _prepared(data)
    except ValueError as error:
        raise RequestError(field, str(error)) from None


def _prepared(data: bytes) -> ReferenceAudio:
    if len(data) > MAX_BYTES:
        raise ValueError(f"is {len(data)} bytes large; at most {MAX_BYTES}")
    info = _described(data)
    channels = _decoded(data)
    warnings: list[str] = []
    samples = _mono(channels, warnings)
    clipped = _clipped_share(channels)
    speech = _speech(samples, info.sample_rate_hz)
    kept = _cut(samples, info.sample_rate_hz, speech)
    kept = audio.resample(kept, info.sample_rate_hz, RATE_HZ)
    peak_dbfs = 20 * float(np.log10(np.abs(kept).max()))
    gain_db = min(_LEVEL_DBFS - speech.level_dbfs, _PEAK_DBFS - peak_dbfs)
    checks = Checks(
        format=info.format,
        sample_rate_hz=info.sample_rate_hz,
        channels=info.channels,
        duration_s=round(samples.size / info.sample_rate_hz, 3),
        speech_s=round(speech.length_s, 2),
        level_dbfs=round(speech.level_dbfs, 1),
        clipped_share=round(clipped, 6),
        silent_share=round(speech.silent_share, 3),
        gain_db=round(gain_db, 1),
        warnings=tuple(warnings),
    )
    loud = kept * np.float32(10 ** (gain_db / 20))
    return ReferenceAudio(audio.encode(loud, RATE_HZ, "wav"), checks)


def _clipped_share(samples: NDArray[np.float32]) -> float:
    share = float(np.mean(np.abs(samples) >= _FULL_SCALE))
    if share > _MAX_CLIPPED_SHARE:
        raise ValueError(
            f"is clipped: {share:.2%} of its samples are at full scale, at most "
            f"{_MAX_CLIPPED_SHARE:.1%}; record it again with less gain"
        )
    return share


def _speech(samples: NDArray[np.float32], rate_hz: int) -> _Speech:
    """Find the speech in a recording, and refuse what is not fit to be imitated."""
    levels_db = _frame_levels_db(samples, rate_hz)
    is_speech = levels_db > max(_SILENCE_DBFS, float(levels_db.max()) + _BELOW_SPEECH_DB)
    if not is_speech.any():
        raise ValueError(f"is silent: nothing in it is louder than {_SILENCE_DBFS:g} dBFS")
    first, last = np.flatnonzero(is_speech)[[0, -1]]
    speech = _Speech(
        start_s=float(first) * _FRAME_S,
        length_s=float(last + 1 - first) * _FRAME_S,
        level_dbfs=_mean_db(levels_db[is_speech]),
        silent_share=1.0 - float(np.mean(is_speech[first : last + 1])),
    )
    if speech.level_dbfs < _MIN_LEVEL_DBFS:
        raise ValueError(
            f"is too quiet: its speech has {speech.level_dbfs:.0f} dBFS, at least "
            f"{_MIN_LEVEL_DBFS:g}; record it again with more gain"
        )
    if not MIN_S <= speech.length_s <= MAX_S:
        raise ValueError(
            f"holds {speech.length_s:.1f} s of speech without the silence at both ends; it must "
            f"be {MIN_S:g} to {MAX_S:g} s"
        )
    if speech.silent_share > _MAX_SILENT_SHARE:
        raise ValueError(
            f"is {speech.silent_share:.0%} silence between its words, at most "
            f"{_MAX_SILENT_SHARE:.0%}; choose a part without long pauses"
        )
    return speech


def _described(data: bytes) -> audio.AudioInfo:
    """Return what a file says of itself, if it is something to decode."""
    try:
        info = audio.describe(data)
    except RequestError as error:
        raise ValueError(error.reason) from None
    if not _MIN_RATE_HZ <= info.sample_rate_hz <= _MAX_RATE_HZ:
        raise ValueError(
            f"has a sample rate of {info.sample_rate_hz} Hz; it must be {_MIN_RATE_HZ} to "
            f"{_MAX_RATE_HZ} Hz"
        )
    if info.channels > _MAX_CHANNELS:
        raise ValueError(f"has {info.channels} channels; at most {_MAX_CHANNELS}")
    if info.duration_s > _MAX_SOURCE_S:
        raise ValueError(
            f"is {info.duration_s:.1f} s long; at most {_MAX_SOURCE_S:g} s, of which {MIN_S:g} to "
            f"{MAX_S:g} s may be speech"
        )
    return info


def _decoded(data: bytes) -> NDArray[np.float32]:
    """Return the samples, shape ``(n, channels)``; no more than a header may promise."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            frames = int(_MAX_SOURCE_S * file.samplerate)
            samples: NDArray[np.float32] = file.read(frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"cannot be decoded: {error.error_string}") from None
    if not samples.shape[0]:
        raise ValueError("holds no samples")
    if not np.isfinite(samples).all():
        raise ValueError("holds values that are no numbers (NaN or infinity)")
    return samples


def _mono(channels: NDArray[np.float32], warnings: list[str]) -> NDArray[np.float32]:
    """Return one channel; several only where they are the same recording.

    Two microphones, or two people, would be heard at once.
    """
    mixed: NDArray[np.float32] = channels.mean(axis=1, dtype=np.float32)
    if channels.shape[1] == 1:
        return np.ascontiguousarray(channels[:, 0])
    level = _rms(channels)
    difference = _rms(channels - mixed[:, None])
    if difference > level * 10 ** (_MAX_DIFFERENCE_DB / 20):
        apart_db = 20 * float(np.log10(difference / level))
        raise ValueError(
            f"has {channels.shape[1]} channels that are not the same (they differ by "
            f"{apart_db:.0f} dB, at most {_MAX_DIFFERENCE_DB:g}): export one of them as mono"
        )
    warnings.append(f"{channels.shape[1]} channels that are the same were mixed down to one")
    return mixed


def _frame_levels_db(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float64]:
    """Return the level of each whole frame of `_FRAME_S`, and of the rest, in dBFS."""
    size = round(_FRAME_S * rate_hz)
    padded = np.zeros(-(-samples.size // size) * size, np.float64)
    padded[: samples.size] = samples
    powers = np.mean(np.square(padded.reshape(-1, size)), axis=1)
    levels: NDArray[np.float64] = 10 * np.log10(np.maximum(powers, 1e-12))
    return levels


def _mean_db(levels_db: NDArray[np.float64]) -> float:
    return 10 * float(np.log10(np.mean(10 ** (levels_db / 10))))


def _rms(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _cut(samples: NDArray[np.float32], rate_hz: int, speech: _Speech) -> NDArray[np.float32]:
    start = max(0, round((speech.start_s - _MARGIN_S) * rate_hz))
    end = round((speech.start_s + speech.length_s + _MARGIN_S) * rate_hz)
    return samples[start:end]
