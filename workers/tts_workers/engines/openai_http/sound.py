"""What a server sent, checked and turned into samples: it may not be what was asked for."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import soundfile

from tts_tasks.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: From a letter a second to 50 letters a second: beyond that it is not the text that was spoken.
_LONGEST_S_PER_CHAR: Final = 1.0
_SHORTEST_S_PER_LETTER: Final = 1 / 50
_LONGEST_PAUSES_S: Final = 10.0
_HEADER_BYTES: Final = 64 * 1024
#: Of the widest sample that is understood: 64-bit float, in stereo.
_WIDEST_FRAME_BYTES: Final = 16
#: Sizes in a header that mean "not known yet": the writer streams.
_UNKNOWN_SIZE: Final = 0x7FFFF000
_MAGIC: Final = {b"ID3": "MP3", b"OggS": "Ogg", b"fLaC": "FLAC"}
_NOT_AUDIO: Final = ("text/", "application/json", "application/problem+json")


@dataclass(frozen=True, slots=True)
class Expected:
    """What an answer to a text must be like."""

    asked: str  #: ``wav`` or ``pcm``
    sample_rate_hz: int
    longest_s: float
    shortest_s: float

    @classmethod
    def of(cls, text: str, speed: float, asked: str, sample_rate_hz: int) -> Expected:
        """Expect the sound of a text."""
        letters = sum(char.isalnum() for char in text)
        return cls(
            asked,
            sample_rate_hz,
            (_LONGEST_PAUSES_S + len(text) * _LONGEST_S_PER_CHAR) / speed,
            letters * _SHORTEST_S_PER_LETTER / speed,
        )

    @property
    def most_bytes(self) -> int:
        """Whoever sends more than this does not stop."""
        frames = int(self.longest_s * self.sample_rate_hz)
        frame_bytes = 2 if self.asked == "pcm" else _WIDEST_FRAME_BYTES
        return frames * frame_bytes + _HEADER_BYTES


def decode(data: bytes, content_type: str, expected: Expected) -> NDArray[np.float32]:
    """Return the samples, mono; raises `EngineError` for what cannot be the sound asked for."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith(_NOT_AUDIO):
        raise EngineError(f"the server answered with {kind}, not with sound: {_quoted(data)}")
    if data.startswith(b"RIFF"):
        samples = _from_wav(data, expected.sample_rate_hz)
    else:
        samples = _from_pcm(data, kind, expected)
    _check_length(samples.size / expected.sample_rate_hz, expected)
    if not bool(np.isfinite(samples).all()):
        raise EngineError("the server's sound holds values that are not numbers")
    return np.clip(samples, -1.0, 1.0)


def _from_pcm(data: bytes, kind: str, expected: Expected) -> NDArray[np.float32]:
    other = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "")
    other = other or ("MP3" if kind in {"audio/mpeg", "audio/mp3"} else "")
    if other or expected.asked != "pcm":
        raise EngineError(
            f"the server sent {other or kind or 'something'} where {expected.asked} was asked for;"
            " TTS_OPENAI_HTTP_RESPONSE_FORMAT is wav or pcm, and it must know one of them"
        )
    if len(data) % 2:
        raise EngineError(f"the sound ends within a sample ({len(data)} bytes): it was cut off")
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def _from_wav(data: bytes, sample_rate_hz: int) -> NDArray[np.float32]:
    try:
        channels, rate_hz = soundfile.read(
            io.BytesIO(_with_sizes(data)), dtype="float32", always_2d=True
        )
    except (soundfile.LibsndfileError, struct.error) as error:
        raise EngineError(f"the server sent a WAV file that cannot be read: {error}") from error
    if rate_hz != sample_rate_hz:
        raise EngineError(
            f"the server speaks at {rate_hz} Hz: set TTS_OPENAI_HTTP_SAMPLE_RATE_HZ={rate_hz}"
        )
    samples: NDArray[np.float32] = channels.mean(axis=1, dtype=np.float32)
    return samples


def _with_sizes(data: bytes) -> bytes:
    """Return a WAV file whose header has the true sizes; raises `EngineError` for half a one."""
    at, end = 12, len(data)
    while at + 8 <= end:
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"data":
            there = end - at - 8
            if size >= _UNKNOWN_SIZE or size == 0:
                size = there
            elif size > there:
                raise EngineError(f"the server announced {size} bytes of sound and sent {there}")
            whole = bytearray(data[: at + 8 + size])
            struct.pack_into("<I", whole, 4, len(whole) - 8)
            struct.pack_into("<I", whole, at + 4, size)
            return bytes(whole)
        at += 8 + size + size % 2
    raise EngineError("the server sent a WAV file without sound")


def _check_length(seconds: float, expected: Expected) -> None:
    if seconds > expected.longest_s:
        raise EngineError(
            f"the server sent {seconds:.1f} s of sound for a text of at most"
            f" {expected.longest_s:.1f} s"
        )
    if seconds < expected.shortest_s:
        raise EngineError(
            f"the server sent {seconds:.2f} s of sound for a text of at least"
            f" {expected.shortest_s:.2f} s: it was cut off"
        )


def _quoted(data: bytes) -> str:
    return ascii(data[:200].decode(errors="replace"))
