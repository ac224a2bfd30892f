"""Reference audio is measured, refused with the figure, or made the one kind of file there is."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from tests.recordings import decoded, encoded, recording, speech
from tts_tasks.errors import RequestError
from tts_tasks.reference_audio import RATE_HZ, prepare
from tts_tasks.voices.files import MAX_BYTES


def silence(seconds: float, rate_hz: int = 24000) -> np.ndarray:
    return np.zeros(round(seconds * rate_hz))


def refusal(data: bytes) -> str:
    with pytest.raises(RequestError) as caught:
        prepare(data)
    assert caught.value.field == "prompt_audio"
    return caught.value.reason


# -- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [16000, 22050, 44100, 96000])
@pytest.mark.parametrize(
    ("container", "codec"),
    [("WAV", "FLOAT"), ("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")],
)
def test_whatever_comes_one_kind_of_file_is_kept(rate_hz: int, container: str, codec: str) -> None:
    """Mono, 16 bit, 24 kHz, as long as the speech."""
    if (container, rate_hz) == ("OGG", 96000):
        rate_hz = 48000
    data = encoded(speech(4.0, rate_hz), rate_hz, format=container, subtype=codec)
    kept = soundfile.info(io.BytesIO(prepare(data).data))
    assert (kept.samplerate, kept.channels, kept.subtype) == (RATE_HZ, 1, "PCM_16")
    assert kept.duration == pytest.approx(4.0, abs=0.05)


def test_the_same_recording_has_the_same_hash_each_time() -> None:
    """It is what jobs are pinned to."""
    assert prepare(recording()).sha256 == prepare(recording()).sha256
    assert prepare(recording(seed=2)).sha256 != prepare(recording()).sha256


def test_silence_at_the_ends_is_cut_but_for_a_margin() -> None:
    """Eight seconds of it around four of speech."""
    padded = np.concatenate([silence(6), speech(4.0), silence(2)])
    reference = prepare(encoded(padded))
    assert reference.checks.speech_s == pytest.approx(4.0, abs=0.05)
    assert reference.checks.duration_s == pytest.approx(12.0)
    assert decoded(reference.data)[0].size / RATE_HZ == pytest.approx(4.2, abs=0.05)


@pytest.mark.parametrize("gain", [0.05, 0.3, 1.0])
def test_loudness_becomes_the_same_whatever_it_was(gain: float) -> None:
    """-23 dBFS of speech."""
    samples, _ = decoded(prepare(encoded(speech() * gain, subtype="FLOAT")).data)
    assert 10 * np.log10(np.mean(np.square(samples))) == pytest.approx(-23, abs=0.5)


def test_peaks_limit_the_loudness() -> None:
    """A single peak far above the speech is not clipped for it."""
    samples = speech() * 0.02
    samples[30_000] = 0.9
    loud, _ = decoded(prepare(encoded(samples, subtype="FLOAT")).data)
    assert 0.8 < np.abs(loud).max() < 0.9  # -1 dBFS


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "figure"), [(2.5, "2.5 s"), (11.0, "11.0 s")])
def test_too_short_and_too_long_are_refused_with_the_figure(seconds: float, figure: str) -> None:
    """What counts is the speech."""
    reason = refusal(encoded(np.concatenate([silence(1), speech(seconds), silence(1)])))
    assert figure in reason
    assert "3 to 10 s" in reason


def test_what_lasts_longer_than_a_minute_is_not_decoded() -> None:
    """The header tells."""
    assert "75.0 s long" in refusal(encoded(np.concatenate([speech(5.0), silence(70)])))


def test_a_low_rate_is_refused() -> None:
    """A telephone's."""
    assert "8000 Hz" in refusal(encoded(speech(4.0, 8000), 8000))


def test_clipping_is_refused_with_its_share() -> None:
    """Of samples at full scale."""
    reason = refusal(encoded(np.clip(speech() * 8, -1, 1)))
    assert "clipped" in reason
    assert "%" in reason


@pytest.mark.parametrize("level", [0.0, 1e-4])
def test_silence_is_refused(level: float) -> None:
    """Digital silence, and noise that nobody hears."""
    assert "is silent" in refusal(encoded(speech() * level, subtype="FLOAT"))


def test_a_whisper_from_far_away_is_refused_with_its_level() -> None:
    """There is no voice in it to imitate."""
    assert "too quiet: its speech has -54 dBFS" in refusal(
        encoded(speech() * 0.015, subtype="FLOAT")
    )


def test_long_pauses_are_refused_with_their_share() -> None:
    """More silence than speech."""
    holes = np.concatenate([speech(1.0), silence(5), speech(1.0)])
    assert "71% silence" in refusal(encoded(holes))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    """A float file can hold them."""
    samples = speech()
    samples[5] = value
    assert "no numbers" in refusal(encoded(samples, subtype="FLOAT"))


def test_channels_that_are_the_same_are_mixed_with_a_warning() -> None:
    """Two channels of one microphone are no loss."""
    stereo = prepare(encoded(np.column_stack([speech(), speech()])))
    assert stereo.checks.warnings == ("2 channels that are the same were mixed down to one",)
    assert stereo.data == prepare(encoded(speech())).data


def test_channels_that_differ_are_refused() -> None:
    """Two people, or two microphones, would be heard at once; so would one and silence."""
    two = np.column_stack([speech(seed=1), speech(seed=2)])
    assert "2 channels that are not the same" in refusal(encoded(two))
    assert "has 3 channels" in refusal(encoded(np.column_stack([speech()] * 3)))
    half = np.column_stack([speech(), silence(4)])
    assert "not the same" in refusal(encoded(half))


@pytest.mark.parametrize(
    "data",
    [b"", b"not audio at all", b"RIFF\xff\xff\xff\xffWAVEfmt ", b"\x00" * 4096],
    ids=["empty", "text", "torso", "zeros"],
)
def test_what_is_no_audio_is_refused(data: bytes) -> None:
    """Whatever its name says."""
    assert "cannot be read as audio" in refusal(data)


def test_a_header_that_promises_more_than_there_is_costs_nothing() -> None:
    """Cut in the middle, it is as long as it is."""
    whole = recording(8.0)
    assert prepare(whole[: len(whole) // 2]).checks.duration_s == pytest.approx(4.0, abs=0.1)


def test_what_is_too_large_is_not_looked_at() -> None:
    """20 MiB are more than a minute of anything useful."""
    assert "bytes large" in refusal(b"\x00" * (MAX_BYTES + 1))
