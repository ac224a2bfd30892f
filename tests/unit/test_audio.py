"""Joined, resampled and encoded audio is whole, exact where it can be, and always the same."""

from __future__ import annotations

import io
import struct
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from tts_tasks.audio import (
    AudioInfo,
    describe,
    encodable_rate_hz,
    encode,
    encode_pcm16,
    join,
    resample,
)
from tts_tasks.errors import EngineError, RequestError
from tts_tasks.formats import AUDIO_FORMATS, FORMAT_SAMPLE_RATES_HZ, AudioFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tts_tasks.formats import AudioFormat

RATES_HZ = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)


def _tones(rate_hz: int, duration_s: float = 3.137) -> NDArray[np.float32]:
    """Return a tone of 440 Hz that ends with 100 ms of a louder tone of 700 Hz."""
    time_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    last = time_s >= duration_s - 0.1
    tone = np.where(last, 0.6 * np.sin(4400 * time_s), 0.2 * np.sin(2765 * time_s))
    return tone.astype(np.float32)


def _decoded(data: bytes) -> tuple[NDArray[np.float32], int]:
    samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    return samples, rate_hz


def _rms(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def _has_magic(data: bytes, name: str) -> bool:
    match name:
        case "wav":
            return data[:4] == b"RIFF" and data[8:12] == b"WAVE"
        case "flac":
            return data[:4] == b"fLaC"
        case "mp3":
            return data[:3] == b"ID3" or (data[0] == 0xFF and data[1] & 0xE6 == 0xE2)
        case "opus":
            return data[:4] == b"OggS" and b"OpusHead" in data[:64]
        case _:
            return data[:4] == b"OggS" and b"\x01vorbis" in data[:64]


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_encoded_audio_is_whole(name: AudioFormat, rate_hz: int) -> None:
    """Each format at each rate is what its name says, of full length, with its last sound."""
    samples = _tones(rate_hz)

    data = encode(samples, rate_hz, name)

    decoded, decoded_hz = _decoded(data)
    assert _has_magic(data, name)
    assert decoded.ndim == 1
    assert abs(decoded.size / decoded_hz - 3.137) < 0.005
    assert _rms(decoded) == pytest.approx(_rms(samples), rel=0.05)
    tail = decoded[-round(0.08 * decoded_hz) :]
    assert _rms(tail) == pytest.approx(0.6 / np.sqrt(2), rel=0.1)
    assert describe(data) == AudioInfo(decoded.size / decoded_hz, decoded_hz, 1, name)


@pytest.mark.parametrize("rate_hz", [22050, 48000])
@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_encoding_is_byte_stable(name: AudioFormat, rate_hz: int) -> None:
    """The same samples give the same bytes in every format, Opus and Vorbis included."""
    samples = _tones(rate_hz)

    assert encode(samples, rate_hz, name) == encode(samples.copy(), rate_hz, name)


@pytest.mark.parametrize("name", ["opus", "ogg"])
def test_ogg_pages_have_right_checksums(name: AudioFormat) -> None:
    """After the serial number is fixed each page has the checksum that RFC 3533 defines."""
    data = encode(_tones(48000, 12.0), 48000, name)

    pages, start = 0, 0
    while start < len(data):
        segment_count = data[start + 26]
        body = start + 27 + segment_count
        end = body + sum(data[start + 27 : body])
        page = bytearray(data[start:end])
        (stored,) = struct.unpack_from("<I", page, 22)
        page[22:26] = bytes(4)
        assert stored == _rfc3533_crc(page)
        pages, start = pages + 1, end
    assert pages > 3


def _rfc3533_crc(page: bytearray) -> int:
    """Compute the checksum bit by bit, straight from its definition."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_16_bit_material_is_exact(name: AudioFormat) -> None:
    """Every 16-bit value survives the way through float and file unchanged."""
    values = np.arange(-32768, 32768).astype(np.int16)

    data = encode(values.astype(np.float32) / np.float32(32768), 24000, name)

    decoded, _ = soundfile.read(io.BytesIO(data), dtype="int16")
    assert np.array_equal(decoded, values)


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_too_loud_samples_are_clipped_and_do_not_wrap(name: AudioFormat) -> None:
    """Samples beyond full scale keep their sign."""
    samples = np.concatenate([np.full(24000, 1.5), np.full(24000, -1.5)]).astype(np.float32)

    decoded, _ = _decoded(encode(samples, 24000, name))

    # Lossy codecs take the constant away; what counts is that no sample jumped to the other end.
    expected = 0.95 if name in {"wav", "flac"} else 0.0
    assert decoded[2000] >= expected
    assert decoded[26000] <= -expected


@pytest.mark.parametrize(
    ("rate_hz", "name", "encoded_hz"),
    [
        (22050, "opus", 24000),
        (32000, "opus", 48000),
        (44100, "opus", 48000),
        (96000, "opus", 48000),
        (16000, "opus", 16000),
        (22050, "mp3", 22050),
        (96000, "mp3", 48000),
        (96000, "flac", 96000),
    ],
)
def test_unknown_rates_become_the_next_higher(
    rate_hz: int, name: AudioFormat, encoded_hz: int
) -> None:
    """A rate the format does not know is resampled upwards, so that no treble is lost."""
    data = encode(_tones(rate_hz, 1.0), rate_hz, name)

    assert encodable_rate_hz(rate_hz, name) == encoded_hz
    assert describe(data).sample_rate_hz == encoded_hz
    assert describe(data).duration_s == pytest.approx(1.0, abs=0.001)
    assert encoded_hz in FORMAT_SAMPLE_RATES_HZ.get(name, (encoded_hz,))


@pytest.mark.parametrize("name", AUDIO_FORMATS)
@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        (np.zeros(0, np.float32), "no audio to encode"),
        (np.zeros((8, 2), np.float32), r"mono float32.*\(8, 2\)"),
        (np.zeros(8, np.float64), "float64"),
        (np.array([0, np.nan], np.float32), "NaN"),
        (np.array([0, np.inf], np.float32), "infinity"),
    ],
)
def test_what_is_no_audio_is_refused(
    name: AudioFormat, samples: NDArray[np.float32], complaint: str
) -> None:
    """Empty, wrongly shaped and non-finite samples are errors, not files."""
    with pytest.raises(EngineError, match=complaint):
        encode(samples, 24000, name)


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_one_sample_is_a_file(name: AudioFormat) -> None:
    """The shortest audio there is can be encoded and read."""
    data = encode(np.full(1, 0.5, np.float32), 48000, name)

    assert describe(data).sample_rate_hz == 48000


def test_join_places_parts_and_pauses() -> None:
    """Parts follow each other, each with its own silence after it."""
    first, second = np.full(3, 0.1, np.float32), np.full(2, 0.2, np.float32)

    joined = join([first, second], [0.002, 0.001], 1000)

    assert joined.dtype == np.float32
    assert joined.tolist() == pytest.approx([0.1, 0.1, 0.1, 0, 0, 0.2, 0.2, 0])


def test_join_in_two_steps_equals_join_at_once() -> None:
    """What is joined before and after a failover is what would have been joined in one go."""
    parts = [_tones(22050, duration_s) for duration_s in (0.3, 0.5, 0.7)]
    pauses_s = [0.1234, 0.33333, 0.05]

    before = join(parts[:2], pauses_s[:2], 22050)
    resumed = join([before, parts[2]], [0.0, pauses_s[2]], 22050)

    assert np.array_equal(resumed, join(parts, pauses_s, 22050))


def test_join_of_nothing_is_nothing_and_of_unequal_lists_an_error() -> None:
    """No parts give no samples; a missing pause is an error."""
    assert join([], [], 24000).size == 0
    with pytest.raises(EngineError, match="1 segments but 0 pauses"):
        join([_tones(24000, 0.1)], [], 24000)
    with pytest.raises(EngineError, match="mono float32"):
        join([np.zeros((2, 2), np.float32)], [0.0], 24000)


@pytest.mark.parametrize("to_hz", RATES_HZ)
def test_resampling_keeps_pitch_level_and_length(to_hz: int) -> None:
    """A tone stays the same tone at another rate, and the same at each call."""
    samples = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(24000) / 24000)).astype(np.float32)

    resampled = resample(samples, 24000, to_hz)

    assert resampled.dtype == np.float32
    assert abs(resampled.size - to_hz) <= 1
    assert np.array_equal(resampled, resample(samples, 24000, to_hz))
    spectrum = np.abs(np.fft.rfft(resampled))
    assert np.argmax(spectrum) == pytest.approx(1000, abs=1)
    assert _rms(resampled[100:-100]) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    """The native rate is passed through bit by bit."""
    samples = _tones(22050, 0.5)

    assert np.array_equal(resample(samples, 22050, 22050), samples)


@pytest.mark.parametrize("data", [b"", b"not audio" * 100, b"RIFF\xff\xff\xff\xffWAVEfmt "])
def test_describing_junk_is_a_request_error(data: bytes) -> None:
    """Bytes that are no audio file are the sender's error."""
    with pytest.raises(RequestError, match="audio: cannot be read"):
        describe(data)


def test_describe_reads_what_others_wrote() -> None:
    """Stereo, other widths and extensible WAV headers are described; other formats are refused."""
    stereo = np.zeros((4410, 2), np.float32)

    def written(container: str, codec: str) -> bytes:
        target = io.BytesIO()
        soundfile.write(target, stereo, 44100, format=container, subtype=codec)
        return target.getvalue()

    assert describe(written("WAV", "PCM_24")) == AudioInfo(0.1, 44100, 2, "wav")
    assert describe(written("WAVEX", "FLOAT")).format == "wav"
    with pytest.raises(RequestError, match="AIFF"):
        describe(written("AIFF", "PCM_16"))


def test_what_is_encoded_is_in_memory_once() -> None:
    """A copy of hours of sound would also hold the interpreter for seconds."""
    source = io.BytesIO(b"\x01\x02" * 10_000_000)
    tracemalloc.start()
    try:
        data, _ = encode_pcm16(source, 8000, 8000, "wav")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) <= peak_bytes < 1.5 * len(data)


@pytest.mark.parametrize("format_", AUDIO_FORMATS)
def test_kept_pcm_gives_the_file_that_its_samples_give(format_: AudioFormat) -> None:
    """Exact formats take it as it is, others as numbers; either way the file is the same."""
    values = np.random.default_rng(1).integers(-32768, 32767, 300_000).astype("<i2")
    samples = values.astype(np.float32) / np.float32(32768)
    data, duration_s = encode_pcm16(io.BytesIO(values.tobytes()), 24000, 24000, format_)
    assert data == encode(samples, 24000, format_)
    assert duration_s == 12.5
