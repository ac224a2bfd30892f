"""The audio formats a request may ask for: names and rates only, so that clients can validate.

The encoders live in `tts_tasks.audio`, which needs numpy and libsndfile.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

AudioFormat = Literal["wav", "flac", "mp3", "opus", "ogg"]
AUDIO_FORMATS: Final[tuple[str, ...]] = get_args(AudioFormat)

#: Subtitle files that are made beside an artifact; ``json`` has the times of its segments.
SubtitleFormat = Literal["srt", "vtt", "json"]
SUBTITLE_FORMATS: Final[tuple[str, ...]] = get_args(SubtitleFormat)

MEDIA_TYPES: Final[dict[str, str]] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg; codecs=opus",
    "ogg": "audio/ogg; codecs=vorbis",
}

#: Sample rates a request may ask for, in Hz. Opus and MP3 know only some of them.
SAMPLE_RATES_HZ: Final[tuple[int, ...]] = (
    8000,
    11025,
    12000,
    16000,
    22050,
    24000,
    32000,
    44100,
    48000,
)
FORMAT_SAMPLE_RATES_HZ: Final[dict[str, tuple[int, ...]]] = {
    "opus": (8000, 12000, 16000, 24000, 48000),
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
