"""The paced instrument costs what it is told to and fails where it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tts_tasks.clock import boottime_s
from tts_tasks.errors import (
    ConfigurationError,
    EngineError,
    EngineLoadError,
    EngineOutOfMemoryError,
)
from tts_workers.engines import load_engine
from tts_workers.engines.base import (
    Capabilities,
    EngineState,
    EngineVoice,
    Segment,
    SpeakOptions,
    Spoken,
    VoiceReference,
)
from tts_workers.engines.paced import Fault, FaultKind, PacedEngine, PacedSettings


class _InstantEngine:
    """Speaks a tenth of a second of a constant for each character, in no time."""

    name = "instant"
    version = "1"

    def __init__(self) -> None:
        self.loads = 0

    def capabilities(self) -> Capabilities:
        return Capabilities(languages=("en",), sample_rate_hz=1000)

    def load(self, device: str) -> None:
        self.loads += 1

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        return EngineVoice(reference)

    def split(self, text: str) -> list[Segment]:
        return [Segment(text)]

    def speak(
        self,
        segment: Segment,
        voice: EngineVoice,
        state: EngineState | None,
        options: SpeakOptions,
    ) -> Spoken:
        return Spoken(np.full(100 * len(segment.text), 0.5, np.float32), {"characters": 1})

    def fingerprint(self) -> str:
        return "instant-fingerprint"

    def close(self) -> None:
        pass


def _paced(**settings: object) -> PacedEngine:
    engine = PacedEngine(PacedSettings.model_validate(settings), inner=_InstantEngine())
    engine.load("cpu")
    return engine


def _speak(engine: PacedEngine, text: str) -> Spoken:
    (segment,) = engine.split(text)
    return engine.speak(segment, engine.encode_voice(VoiceReference()), None, SpeakOptions())


def test_it_is_the_inner_engine_but_for_the_name() -> None:
    """Sound, state, fingerprint and capabilities are the inner engine's; name and version tell."""
    inner, paced = _InstantEngine(), _paced(cost=0.01)
    expected = inner.speak(Segment("hello"), EngineVoice(VoiceReference()), None, SpeakOptions())

    spoken = _speak(paced, "hello")

    assert np.array_equal(spoken.samples, expected.samples)
    assert spoken.state == expected.state
    assert paced.fingerprint() == inner.fingerprint()
    assert paced.capabilities() == inner.capabilities()
    assert (paced.name, paced.version) == ("paced", "paced instant 1")


def test_it_costs_wall_time_for_each_second_of_audio() -> None:
    """Two seconds of audio at a cost of 0.2 take 0.4 s, and no time at no cost."""
    dear, free = _paced(cost=0.2), _paced()

    started = time.monotonic()
    _speak(dear, "x" * 20)
    dear_s = time.monotonic() - started
    started = time.monotonic()
    _speak(free, "x" * 20)
    free_s = time.monotonic() - started

    assert 0.4 <= dear_s < 5
    assert free_s < 0.2


def test_load_takes_the_extra_time() -> None:
    """A slow load takes its time before the inner engine is loaded."""
    started = time.monotonic()
    _paced(load_s=0.3)

    assert time.monotonic() - started >= 0.3


def test_close_ends_a_slow_load() -> None:
    """Closing from another thread ends the wait; the inner engine is never loaded."""
    inner = _InstantEngine()
    engine = PacedEngine(PacedSettings(load_s=600), inner=inner)
    closer = threading.Timer(0.2, engine.close)
    closer.start()

    with pytest.raises(EngineLoadError, match="closed while it was loading"):
        engine.load("cpu")

    assert inner.loads == 0


@pytest.mark.parametrize("settings", [{"cost": 600}, {"faults": "hang@text:hello"}])
def test_close_ends_a_wait_and_a_hang(settings: dict[str, object]) -> None:
    """Closing from another thread ends the pacing and the injected hang with an error."""
    engine = _paced(**settings)
    with ThreadPoolExecutor(1) as pool:
        speaking = pool.submit(_speak, engine, "hello")
        with pytest.raises(TimeoutError):
            speaking.result(timeout=0.2)

        engine.close()

        with pytest.raises(EngineError, match="paced was closed"):
            speaking.result(timeout=30)


def test_fault_by_text_fires_each_time() -> None:
    """A text rule fires for each segment that holds the marker and for no other."""
    engine = _paced(faults="oom@text:POISON")

    assert _speak(engine, "good").samples.size
    for _ in range(2):
        with pytest.raises(EngineOutOfMemoryError, match="injected"):
            _speak(engine, "a POISON pill")
    assert _speak(engine, "good again").samples.size


def test_fault_by_segment_and_job_counts_from_one() -> None:
    """The n-th segment of the process fails, and each segment of the n-th job."""
    engine = _paced(faults="error@segment:2; oom@job:2")
    voice = engine.encode_voice(VoiceReference())

    def speak() -> Spoken:
        return engine.speak(Segment("x"), voice, None, SpeakOptions())

    engine.split("first job")
    speak()
    with pytest.raises(EngineError, match="an error injected"):
        speak()
    engine.split("second job")
    for _ in range(2):
        with pytest.raises(EngineOutOfMemoryError):
            speak()
    engine.split("third job")
    assert speak().samples.size


def test_fault_once_survives_restarts(tmp_path: Path) -> None:
    """A once rule fires in one engine only, and leaves its marker alone until the rest holds."""
    marker = tmp_path / "fired"
    rule = f"error@text:POISON&once:{marker}"

    assert _speak(_paced(faults=rule), "good").samples.size
    assert not marker.exists()
    with pytest.raises(EngineError, match="injected"):
        _speak(_paced(faults=rule), "POISON")
    assert _speak(_paced(faults=rule), "POISON").samples.size


@pytest.mark.parametrize(
    ("fault", "code"), [("crash", -signal.SIGKILL), ("abort", -signal.SIGABRT), ("exit", 70)]
)
def test_fatal_faults_end_the_process(fault: str, code: int) -> None:
    """The crash fault is a SIGKILL from inside, the exit fault an exit without clean-up."""
    script = (
        "import atexit, sys\n"
        "from tts_workers.engines import load_engine\n"
        "from tts_workers.engines.base import *\n"
        "atexit.register(print, 'cleaned up')\n"
        "engine = load_engine('paced')\n"
        "engine.load('cpu')\n"
        "voice = engine.encode_voice(VoiceReference())\n"
        "engine.speak(Segment('good'), voice, None, SpeakOptions())\n"
        "print('spoken', flush=True)\n"
        "engine.speak(Segment('POISON'), voice, None, SpeakOptions())\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TTS_PACED_FAULTS": f"{fault}@text:POISON",
    }

    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == code, done.stderr
    assert done.stdout == "spoken\n"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """TTS_PACED_* configure the engine that is loaded by its name."""
    monkeypatch.setenv("TTS_PACED_COST", "0.5")
    monkeypatch.setenv("TTS_PACED_LOAD_S", "40")
    monkeypatch.setenv("TTS_PACED_FAULTS", "crash@segment:3&once:/tmp/marker;hang@job:2")

    settings = PacedSettings()

    assert (settings.inner, settings.cost, settings.load_s) == ("espeak", 0.5, 40)
    assert settings.rules() == (
        Fault(FaultKind.CRASH, segment=3, once=Path("/tmp/marker")),  # noqa: S108
        Fault(FaultKind.HANG, job=2),
    )
    assert load_engine("paced").name == "paced"


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("TTS_PACED_COST", "-1", "greater than or equal to 0"),
        ("TTS_PACED_COST", "nan", "finite"),
        ("TTS_PACED_LOAD_S", "soon", "valid number"),
        ("TTS_PACED_FAULTS", "explode@text:x", "one of hang, crash, abort, exit, oom, error"),
        ("TTS_PACED_FAULTS", "crash", "after the @ come text:MARK"),
        ("TTS_PACED_FAULTS", "crash@weekday:Monday", "after the @ come text:MARK"),
        ("TTS_PACED_FAULTS", "crash@text:a&text:b", "each at most once"),
        ("TTS_PACED_FAULTS", "crash@segment:third", "segment takes a whole number"),
        ("TTS_PACED_INNER", "paced", "cannot wrap itself"),
    ],
)
def test_bad_settings_name_their_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    """A setting that cannot be read is an error with the variable's name and the reason."""
    monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigurationError, match=rf"{variable}: .*{complaint}"):
        PacedEngine()


def test_spans_tell_when_it_spoke(tmp_path: Path) -> None:
    """Each segment is a line; two engines share the file, and their jobs are told apart."""
    spans = tmp_path / "spans"
    before_s = boottime_s()
    engines = [_paced(cost=0.2, spans=str(spans)), _paced(spans=str(spans))]
    for engine in engines:
        _speak(engine, "x" * 2)
    _speak(engines[0], "x")

    lines = [json.loads(line) for line in spans.read_text().splitlines()]

    assert [(line["pid"], line["job"], line["audio_s"]) for line in lines] == [
        (os.getpid(), 1, 0.2),
        (os.getpid(), 1, 0.2),
        (os.getpid(), 2, 0.1),
    ]
    assert all(before_s <= line["began_s"] < line["ended_s"] <= boottime_s() for line in lines)
    assert lines[0]["ended_s"] - lines[0]["began_s"] >= 0.2 * 0.2


def test_what_it_advertises_may_be_given() -> None:
    """Languages and version are words; the rate is the one at which it speaks."""
    paced, plain = _paced(languages="zh, en-GB", sample_rate_hz=2000, model_version="7"), _paced()
    capabilities = paced.capabilities()
    assert (capabilities.languages, capabilities.model_version) == (("zh", "en-GB"), "7")
    assert capabilities.sample_rate_hz == 2000
    assert paced.fingerprint() != plain.fingerprint()
    voice = paced.encode_voice(VoiceReference())
    samples = paced.speak(Segment("hello"), voice, None, SpeakOptions()).samples
    assert (samples.size, samples.dtype) == (1000, np.float32)
    assert np.abs(samples).max() <= 1.0


def test_a_made_up_voice_hangs_on_the_content_of_its_reference() -> None:
    """Noise over the inner engine's default voice; named voices are the inner engine's own."""
    paced, plain = _paced(clone=True), _paced()
    assert "clone" in paced.capabilities().features
    assert "clone" not in plain.capabilities().features
    assert paced.fingerprint() != plain.fingerprint()
    references = [VoiceReference("a", "text", b"1"), VoiceReference("b", "text", b"1")]
    references.append(VoiceReference("a", "text", b"2"))
    segment = Segment("hello")
    heard = [
        paced.speak(segment, paced.encode_voice(one), None, SpeakOptions()).samples
        for one in (*references, VoiceReference())
    ]
    assert np.array_equal(heard[0], heard[1])
    assert not np.array_equal(heard[0], heard[2])
    own = plain.speak(segment, plain.encode_voice(VoiceReference()), None, SpeakOptions()).samples
    assert np.array_equal(heard[3], own)
    assert 0 < np.abs(heard[0] - own).max() < 0.05


def test_without_an_inner_engine_that_packs_nothing_is_packed() -> None:
    """What is wrapped decides, unless paced stands in for it."""
    paced = _paced()
    reference = VoiceReference("a", "text", b"1")
    with pytest.raises(EngineError, match="packs no voices"):
        paced.pack_voice(EngineVoice(reference))
    with pytest.raises(EngineError, match="packs no voices"):
        paced.unpack_voice(reference, b"")
