"""Joining, resampling, encoding and describing audio: what workers and the gateway share.

Samples are mono float32 in [-1, 1], shape ``(n,)``. Needs numpy, soundfile and soxr, which a client
does not have: nothing that a client imports may import this module.
"""

from __future__ import annotations

import io
import struct
import wave
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, cast

import numpy as np
import soundfile
import soxr

from tts_tasks.errors import EngineError, RequestError
from tts_tasks.formats import FORMAT_SAMPLE_RATES_HZ, AudioFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Blocks = Iterator[NDArray[np.float32]]

#: libsndfile's names of container and codec.
_CODECS: Final[dict[AudioFormat, tuple[str, str]]] = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
    "ogg": ("OGG", "VORBIS"),
}
_INTEGER_FORMATS: Final = frozenset({"wav", "flac"})
#: Encoded piece by piece: an hour needs no second hour of memory, and libvorbis no huge stack.
_BLOCK_FRAMES: Final = 1 << 16
_QUALITY: Final = "VHQ"
_MAX_WAV_FRAMES: Final = 2**31 - 64  #: of two bytes, under the 4 GiB that its header can count
_OGG_SERIAL: Final = 0x7474735F  # any constant; libsndfile takes a random one
_OGG_HEADER: Final = struct.Struct("<4sBBqIIIB")
_REVERSED_BITS: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What an encoded file says about itself."""

    duration_s: float
    sample_rate_hz: int
    channels: int
    format: AudioFormat


def join(
    parts: Sequence[NDArray[np.float32]], pauses_s: Sequence[float], sample_rate_hz: int
) -> NDArray[np.float32]:
    """Return the parts one after the other, part k followed by ``pauses_s[k]`` of silence.

    A pause is rounded to whole samples by itself, so that a part sounds at the same place whether
    it was joined with its predecessors at once or later.
    """
    if len(parts) != len(pauses_s):
        raise EngineError(f"{len(parts)} segments but {len(pauses_s)} pauses to join them with")
    lengths = [
        (_checked(part).size, pause_samples(pause_s, sample_rate_hz))
        for part, pause_s in zip(parts, pauses_s, strict=True)
    ]
    joined = np.zeros(sum(samples + pause for samples, pause in lengths), np.float32)
    start = 0
    for part, (samples, pause) in zip(parts, lengths, strict=True):
        joined[start : start + samples] = part
        start += samples + pause
    return joined


def pause_samples(pause_s: float, sample_rate_hz: int) -> int:
    """Return how many samples of silence a pause is."""
    return round(pause_s * sample_rate_hz)


def resample(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Return the samples at another rate (soxr, very high quality, in one go: deterministic)."""
    _checked(samples)
    if from_hz == to_hz:
        return samples
    return cast("NDArray[np.float32]", soxr.resample(samples, from_hz, to_hz, quality=_QUALITY))


def pcm16(samples: NDArray[np.float32]) -> bytes:
    """Return the samples as 16-bit little-endian PCM: rounded, and clipped where they must be.

    What a segment is kept as until its job ends: half of the size, and exactly what WAV and FLAC
    will hold. Raises `EngineError` for samples that are no audio.
    """
    _checked(samples)
    return b"".join(_to_int16(block).astype("<i2").tobytes() for block in _blocks(samples))


def encode_pcm16(
    source: IO[bytes],
    from_hz: int,
    sample_rate_hz: int,
    format: AudioFormat,  # noqa: A002
    shaped: Callable[[Blocks], Blocks] | None = None,
) -> tuple[bytes, float]:
    """Read 16-bit PCM to its end; returns a whole encoded file, and its duration in seconds.

    Like `encode`, but reads, resamples and encodes block by block: an hour of speech is never in
    memory as anything but the result. The result does not depend on how the source came about.
    ``shaped`` makes what is encoded of the resampled blocks.
    """
    rate_hz = encodable_rate_hz(sample_rate_hz, format)
    if shaped is None and from_hz == rate_hz and format in _INTEGER_FORMATS:
        data, frames = _write(_raw_blocks(source), rate_hz, format)
    else:
        blocks = _resampled(read_pcm16(source), from_hz, rate_hz)
        data, frames = _write(shaped(blocks) if shaped else blocks, rate_hz, format)
    return data, frames / rate_hz


def encode(samples: NDArray[np.float32], sample_rate_hz: int, format: AudioFormat) -> bytes:  # noqa: A002
    """Return a whole encoded file; the same samples give the same bytes, in every format.

    WAV and FLAC are 16 bit: a sample is multiplied by 32768, rounded and clipped, so what was made
    of 16-bit material is exact. A rate that the format does not know is resampled to the next
    higher one that it does. Raises `EngineError` for samples that are no audio.
    """
    if not _checked(samples).size:
        raise EngineError("there is no audio to encode: the engine returned no samples")
    rate_hz = encodable_rate_hz(sample_rate_hz, format)
    return _write(_blocks(resample(samples, sample_rate_hz, rate_hz)), rate_hz, format)[0]


def encodable_rate_hz(sample_rate_hz: int, format: AudioFormat) -> int:  # noqa: A002
    """Return the rate itself if the format knows it, else the next higher, else its highest."""
    rates = FORMAT_SAMPLE_RATES_HZ.get(format)
    if rates is None or sample_rate_hz in rates:
        return sample_rate_hz
    return next((rate for rate in sorted(rates) if rate > sample_rate_hz), max(rates))


def describe(data: bytes) -> AudioInfo:
    """Return what an encoded file is; raises `RequestError` unless it is in one of our formats."""
    try:
        info = soundfile.info(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        raise RequestError("audio", f"cannot be read as audio: {error.error_string}") from None
    # WAV and FLAC come in many widths; only Ogg needs its codec to be told apart.
    container = "WAV" if info.format == "WAVEX" else info.format
    for name, (known_container, codec) in _CODECS.items():
        if container == known_container and (container != "OGG" or info.subtype == codec):
            return AudioInfo(info.frames / info.samplerate, info.samplerate, info.channels, name)
    raise RequestError(
        "audio", f"is {info.format_info}, {info.subtype_info}; known are {', '.join(_CODECS)}"
    )


def _checked(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise EngineError(
            f"audio must be mono float32 of shape (n,), not {samples.dtype} of {samples.shape}"
        )
    return samples


def _blocks(samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, samples.size, _BLOCK_FRAMES):
        block = samples[start : start + _BLOCK_FRAMES]
        if not np.isfinite(block).all():
            raise EngineError("the audio holds values that are no numbers (NaN or infinity)")
        yield block


def _as_int16(block: NDArray[Any]) -> NDArray[np.int16]:
    return block if block.dtype == np.int16 else _to_int16(block)


def _to_int16(block: NDArray[np.float32]) -> NDArray[np.int16]:
    scaled: NDArray[np.float32] = np.rint(block * np.float32(32768))
    return scaled.clip(-32768, 32767).astype(np.int16)


def read_pcm16(source: IO[bytes]) -> Iterator[NDArray[np.float32]]:
    """Yield 16-bit little-endian PCM as blocks of samples, to its end."""
    for block in _raw_blocks(source):
        yield block.astype(np.float32) / np.float32(32768)


def _raw_blocks(source: IO[bytes]) -> Iterator[NDArray[np.int16]]:
    while data := source.read(2 * _BLOCK_FRAMES):
        yield np.frombuffer(data, "<i2")


def _resampled(
    blocks: Iterator[NDArray[np.float32]], from_hz: int, to_hz: int
) -> Iterator[NDArray[np.float32]]:
    """Resample a stream; soxr gives the same samples as for the whole in one go."""
    if from_hz == to_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=_QUALITY)
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _write(
    blocks: Iterator[NDArray[Any]],
    rate_hz: int,
    format: AudioFormat,  # noqa: A002
) -> tuple[bytes, int]:
    """Encode blocks, float32 or int16, at a rate that the format knows; returns file and frames."""
    target = io.BytesIO()
    if format == "wav":
        frames = _write_wav(target, blocks, rate_hz)
    else:
        frames = _write_coded(target, blocks, rate_hz, format)
    if not frames:
        raise EngineError("there is no audio to encode: the engine returned no samples")
    # not a copy: hours of sound would keep the interpreter from everything else meanwhile
    data = target.getvalue()
    return (_with_fixed_ogg_serial(data) if _CODECS[format][0] == "OGG" else data), frames


def _write_wav(target: IO[bytes], blocks: Iterator[NDArray[Any]], rate_hz: int) -> int:
    """Write what libsndfile would; short lines of a batch have no time for opening that."""
    frames = 0
    with wave.open(target, "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        for block in blocks:
            frames += block.size
            if frames > _MAX_WAV_FRAMES:
                hours = frames / rate_hz / 3600
                raise EngineError(f"more than {hours:.1f} h do not fit into WAV: ask for flac")
            file.writeframesraw(_as_int16(block).astype("<i2", copy=False).data)
    return frames


def _write_coded(
    target: IO[bytes],
    blocks: Iterator[NDArray[Any]],
    rate_hz: int,
    format: AudioFormat,  # noqa: A002
) -> int:
    container, codec = _CODECS[format]
    frames = 0
    with soundfile.SoundFile(
        target, "w", samplerate=rate_hz, channels=1, format=container, subtype=codec
    ) as file:
        for block in _of_one_size(blocks):
            frames += block.size
            file.write(_as_int16(block) if format in _INTEGER_FORMATS else block)
    return frames


def _of_one_size(blocks: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Cut a stream into blocks of `_BLOCK_FRAMES`: what a codec makes may depend on its bites."""
    held: list[NDArray[Any]] = []
    size = 0
    for block in blocks:
        held.append(block)
        size += block.size
        while size >= _BLOCK_FRAMES:
            joined = np.concatenate(held)
            yield joined[:_BLOCK_FRAMES]
            held = [joined[_BLOCK_FRAMES:]]
            size = held[0].size
    if size:
        yield np.concatenate(held)


def _with_fixed_ogg_serial(data: bytes) -> bytes:
    """Return an Ogg file with our serial number on each page, the checksums made right.

    The random serial number is the only difference between two encodings of the same samples; an
    attempt that is repeated must be able to recognise the artifact of the one before. RFC 3533.
    """
    pages = bytearray(data)
    start = 0
    while start < len(pages):
        magic, *_, segment_count = _OGG_HEADER.unpack_from(pages, start)
        if magic != b"OggS":
            raise EngineError("libsndfile wrote an Ogg file that is not a sequence of pages")
        body = start + _OGG_HEADER.size + segment_count
        end = body + sum(pages[body - segment_count : body])
        struct.pack_into("<I", pages, start + 14, _OGG_SERIAL)
        struct.pack_into("<I", pages, start + 22, 0)
        struct.pack_into("<I", pages, start + 22, _ogg_crc(pages[start:end]))
        start = end
    return bytes(pages)


def _ogg_crc(page: bytearray) -> int:
    """Return Ogg's CRC-32: zlib's with all bits the other way round and nothing inverted."""
    crc = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
