"""What the espeak engine sounds like, and that it always sounds the same."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tts_tasks.errors import (
    EngineCrashedError,
    EngineError,
    EngineLoadError,
    RequestError,
    UnspeakableTextError,
)
from tts_workers.engines.base import Segment, SpeakOptions, VoiceReference
from tts_workers.engines.espeak import EspeakEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MANDARIN = "重庆银行的行长重新回到了上海虹桥车站。"
ENGLISH = "The next train to the airport leaves from platform three."
MIXED = "请到三号站台, the train to Beijing South Railway Station, 马上就要开了。"
OTHERS = [
    ("下一位，请到二号窗口。", "zh+f2", 2.0),
    ("Please hold the line.", "en-us+whisper", 0.5),
    (MIXED, "default+m3", 0.3),
    ("Thank you!", "en+f5", 4.0),
    ("谢谢。", "default", 1.0),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[EspeakEngine]:
    """Yield a loaded engine, one for all tests: what was spoken before must not matter."""
    engine = EspeakEngine()
    engine.load("cpu")
    yield engine
    engine.close()


def _speak(
    engine: EspeakEngine, text: str, voice: str = "default", speed: float = 1.0, seed: int = 0
) -> NDArray[np.float32]:
    encoded = engine.encode_voice(VoiceReference(voice))
    return engine.speak(Segment(text), encoded, None, SpeakOptions(seed, speed)).samples


def _seconds(samples: NDArray[np.float32]) -> float:
    return samples.size / 22050


@pytest.mark.parametrize("text", [MANDARIN, ENGLISH, MIXED])
@pytest.mark.parametrize("speed", [0.25, 1.0, 4.0])
def test_speech_is_audible_and_has_headroom(engine: EspeakEngine, text: str, speed: float) -> None:
    """Mandarin, English and mixed text become speech of a plausible length, unclipped."""
    samples = _speak(engine, text, speed=speed)

    letters = sum(char.isalnum() for char in text)
    assert letters / 25 < _seconds(samples) * speed < letters / 2.5
    assert samples.dtype == np.float32
    assert 0.2 < np.abs(samples).max() < 0.9
    assert np.sqrt(np.mean(samples**2)) > 0.02


@pytest.mark.parametrize("earlier_utterances", [0, 1, 50])
def test_earlier_utterances_change_no_bit(earlier_utterances: int) -> None:
    """A fresh helper gives the same bits after 0, 1 and 50 utterances of every kind."""
    requests = [(MANDARIN, "default", 1.0), (ENGLISH, "en-us+f2", 1.3), (MIXED, "zh+f3", 0.4)]
    expected = []
    for text, voice, speed in requests:
        reference_engine = EspeakEngine()
        reference_engine.load("cpu")
        expected.append(_speak(reference_engine, text, voice, speed, seed=5))
        reference_engine.close()
    engine = EspeakEngine()
    engine.load("cpu")

    for text, voice, speed in islice(cycle(OTHERS), earlier_utterances):
        _speak(engine, text, voice, speed, seed=11)
    actual = [_speak(engine, text, voice, speed, seed=5) for text, voice, speed in requests]
    engine.close()

    for first, second in zip(expected, actual, strict=True):
        assert np.array_equal(first, second)


def test_engines_that_speak_at_the_same_time_agree() -> None:
    """Two helpers fed in opposite orders at the same time give the same bits."""
    requests = [(MANDARIN, "default", 1.0), (ENGLISH, "f2", 1.0), *OTHERS]

    def speak_all(order: int) -> list[NDArray[np.float32]]:
        engine = EspeakEngine()
        engine.load("cpu")
        spoken = [_speak(engine, *request) for request in requests[::order]]
        engine.close()
        return spoken[::order]

    with ThreadPoolExecutor(2) as pool:
        forwards, backwards = pool.map(speak_all, (1, -1))

    for first, second in zip(forwards, backwards, strict=True):
        assert np.array_equal(first, second)


def test_seed_and_not_the_clock_drives_the_noise(engine: EspeakEngine) -> None:
    """A breathy voice repeats itself for one seed and differs for another."""
    first = _speak(engine, ENGLISH, "en+f2", seed=1)

    assert np.array_equal(first, _speak(engine, ENGLISH, "en+f2", seed=1))
    assert not np.array_equal(first, _speak(engine, ENGLISH, "en+f2", seed=2))


@pytest.mark.parametrize("text", [MANDARIN, ENGLISH])
@pytest.mark.parametrize("speed", [0.25, 0.4, 0.5, 0.8, 1.5, 2.0, 3.0, 4.0])
def test_speed_changes_the_duration(engine: EspeakEngine, text: str, speed: float) -> None:
    """Speed divides the duration, within a fifth, over the whole range of a request."""
    natural = _seconds(_speak(engine, text))

    assert natural / speed == pytest.approx(_seconds(_speak(engine, text, speed=speed)), rel=0.2)


@pytest.mark.parametrize("speed", [0.2, 4.1, float("nan")])
def test_speed_out_of_range_is_refused(engine: EspeakEngine, speed: float) -> None:
    """A speed that cannot be honoured is an error, not another speed."""
    with pytest.raises(RequestError, match=r"speed: .*0.25 to 4"):
        _speak(engine, ENGLISH, speed=speed)


def test_default_voice_follows_the_script(engine: EspeakEngine) -> None:
    """The default voice is the Mandarin one for Chinese characters and the English one without."""
    assert np.array_equal(_speak(engine, MIXED), _speak(engine, MIXED, "zh"))
    assert np.array_equal(_speak(engine, ENGLISH), _speak(engine, ENGLISH, "en"))
    assert not np.array_equal(_speak(engine, ENGLISH), _speak(engine, ENGLISH, "zh"))


def test_each_voice_speaks_and_variants_differ(engine: EspeakEngine) -> None:
    """Every listed language and variant speaks; no variant silently falls back to the plain one."""
    variants = [*(f"f{n}" for n in range(1, 6)), *(f"m{n}" for n in range(1, 9))]
    variants += ["croak", "whisper", "whisperf"]
    names = ["zh", "en", "en-gb", "en-us", *(f"zh+{variant}" for variant in variants)]

    spoken = {name: _speak(engine, MANDARIN, name) for name in names}

    sounds = {samples.tobytes() for name, samples in spoken.items() if name != "en-gb"}
    assert len(sounds) == len(names) - 1
    assert np.array_equal(spoken["en"], spoken["en-gb"])
    assert all(np.abs(samples).max() < 0.95 for samples in spoken.values())
    assert np.array_equal(_speak(engine, MANDARIN, "f1"), spoken["zh+f1"])
    assert {*names, "default", *variants, "default+f1"} < set(engine.capabilities().voices)


@pytest.mark.parametrize("name", ["alice", "zh+nobody", "zh+", "+f1", "fr", "f1+zh", "../zh", ""])
def test_unknown_voice_is_refused_with_a_list(engine: EspeakEngine, name: str) -> None:
    """An unknown voice is an error that lists the voices there are."""
    with pytest.raises(RequestError, match=r"voice: .*default, zh, en, .*f1, .*zh\+f2"):
        engine.encode_voice(VoiceReference(name))


def test_reference_audio_is_refused(engine: EspeakEngine) -> None:
    """Reference audio is not silently ignored: the error names the feature that is missing."""
    with pytest.raises(RequestError, match=r"prompt_audio: .*'clone'"):
        engine.encode_voice(VoiceReference(prompt_text="hello", prompt_audio=b"RIFF"))


@pytest.mark.parametrize("text", ["", "。", "🎉", "\u200b", "\x00"])
def test_segment_without_sound_is_unspeakable(engine: EspeakEngine, text: str) -> None:
    """A segment that gives no sound is an error that no further attempt will cure."""
    with pytest.raises(UnspeakableTextError):
        _speak(engine, text)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("one\x01900Stwo", "one 900Stwo"),  # espeak's embedded command for the speed
        ("one\x00two", "one two"),
        ("one\ue000two\ud800", "one two "),
        ("\ufeffone t\u200bwo", "one two"),
    ],
)
def test_control_characters_are_spaces(engine: EspeakEngine, text: str, plain: str) -> None:
    """Characters that espeak obeys or stops at are spoken as spaces, invisible ones not at all."""
    assert np.array_equal(_speak(engine, text), _speak(engine, plain))


@pytest.mark.parametrize("text", ["[[_:_:_:]] hello", "<break time='9s'/> hello"])
def test_markup_is_text(engine: EspeakEngine, text: str) -> None:
    """Phoneme markup and SSML are read out as text: their letters can be heard."""
    no_markup = _speak(engine, "hello")

    samples = _speak(engine, text)

    added = samples[: samples.size - no_markup.size]
    assert 0.3 < _seconds(added) < 4
    quiet = np.abs(added).reshape(-1)[: added.size // 2205 * 2205].reshape(-1, 2205).max(axis=1)
    assert np.mean(quiet > 0.02) > 0.5


@pytest.mark.parametrize("voice", ["zh", "en"])
@pytest.mark.parametrize(
    "unit",
    ["你好世界", "hello my world ", "W", "777777 ", "www. ", "x,", "hello", "50% ", "你好 hi "],
)
def test_long_segment_loses_nothing(engine: EspeakEngine, unit: str, voice: str) -> None:
    """Text far beyond espeak's buffers, without punctuation or spaces, is spoken to its end."""
    once = _seconds(_speak(engine, unit * 10, voice)) / 10

    assert _seconds(_speak(engine, unit * 200, voice)) / 200 == pytest.approx(once, rel=0.1)


def test_killed_helper_is_reported_and_replaced(engine: EspeakEngine) -> None:
    """Killing the helper fails one utterance as a crash; the next one sounds as before."""
    expected, first_pid = _speak(engine, MANDARIN), engine.helper_pid
    assert first_pid is not None
    os.kill(first_pid, signal.SIGKILL)

    with pytest.raises(EngineCrashedError, match=rf"pid {first_pid}.* died .*signal 9"):
        _speak(engine, MANDARIN)

    assert np.array_equal(_speak(engine, MANDARIN), expected)
    assert engine.helper_pid != first_pid


def test_hung_helper_is_killed_at_the_deadline() -> None:
    """A helper that stands still is killed after the timeout and replaced."""
    engine = EspeakEngine(timeout_s=1.0)
    engine.load("cpu")
    pid = engine.helper_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    with pytest.raises(EngineCrashedError, match="hung: no answer within 1 s"):
        _speak(engine, MANDARIN)

    assert not Path(f"/proc/{pid}").exists()
    assert _speak(engine, MANDARIN).size
    engine.close()


class _InterruptedError(Exception):
    """Stands for Celery's soft time limit, which a signal handler raises."""


def test_interrupted_utterance_does_not_answer_the_next(engine: EspeakEngine) -> None:
    """An exception from a signal handler ends the helper, so that no answer comes a turn late."""
    expected, pid = _speak(engine, ENGLISH), engine.helper_pid
    assert pid is not None

    def interrupt(*_: object) -> None:
        raise _InterruptedError

    previous = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    os.kill(pid, signal.SIGSTOP)
    try:
        timer.start()
        with pytest.raises(_InterruptedError):
            _speak(engine, MANDARIN)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, previous)

    assert np.array_equal(_speak(engine, ENGLISH), expected)


def test_library_stays_out_of_this_process(engine: EspeakEngine) -> None:
    """Speaking loads neither the loader package nor the GPL library into the worker's process."""
    assert _speak(engine, MANDARIN).size

    assert "espeakng_loader" not in sys.modules
    assert "espeak-ng" not in Path("/proc/self/maps").read_text()


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without espeakng-loader the load error says what to install."""
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)

    with pytest.raises(EngineLoadError, match=r"pip install 'tts-tasks\[espeak\]'"):
        EspeakEngine().load("cpu")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("return '/nonexistent.so'\ndef get_data_path():\n    return '/'", "nonexistent"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise ImportError('wrong architecture')", "wrong architecture"),
    ],
)
def test_broken_library_is_a_load_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, complaint: str
) -> None:
    """A library that cannot be loaded, or kills its process, is a load error with the cause."""
    (tmp_path / "espeakng_loader.py").write_text(f"def get_library_path():\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    engine = EspeakEngine()

    with pytest.raises(EngineLoadError, match=complaint):
        engine.load("cpu")

    assert engine.helper_pid is None


def test_engine_that_is_not_loaded_says_so() -> None:
    """Using the engine before it is loaded is a clear error, and its version is still a string."""
    engine = EspeakEngine()

    assert "not loaded" in engine.version
    with pytest.raises(EngineError, match="call load"):
        engine.capabilities()
    with pytest.raises(EngineError, match="call load"):
        engine.fingerprint()


def test_engine_can_be_loaded_again_after_close(engine: EspeakEngine) -> None:
    """After close and load the engine speaks as before, from another helper."""
    expected, fingerprint = _speak(engine, MANDARIN), engine.fingerprint()

    engine.close()
    engine.load("cuda")

    assert np.array_equal(_speak(engine, MANDARIN), expected)
    assert engine.fingerprint() == fingerprint


def test_fingerprint_changes_with_the_front_end(
    engine: EspeakEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of the text front end is another fingerprint."""
    before = engine.fingerprint()

    monkeypatch.setattr("tts_workers.text.FRONT_END_VERSION", "another")

    assert engine.fingerprint() != before
    assert len(before) == 16


def test_split_uses_the_shared_front_end(engine: EspeakEngine) -> None:
    """A text becomes the front end's segments, numbers as words, each of which can be spoken."""
    segments = engine.split("会议在2026年10月1日9:30开始。请准时参加。")

    assert len(segments) >= 2
    assert not any(char.isdigit() for segment in segments for char in segment.text)
    assert all(_speak(engine, segment.text).size for segment in segments)
