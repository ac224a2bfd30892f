"""The engine openai_http against a real server on loopback, which misbehaves on command."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from tests.recordings import recording
from tests.speech_server import sound
from tests.speech_servers import Faults, SpeechServer, command, settings
from tests.waiting import eventually
from tts_tasks.errors import (
    EngineError,
    EngineLoadError,
    EngineLostError,
    EngineOutOfMemoryError,
    RequestError,
    TTSError,
    UnspeakableTextError,
)
from tts_tasks.pools import Offer, needs_of
from tts_tasks.requests import SpeechRequest
from tts_workers.engine_host import described
from tts_workers.engines.base import Segment, SpeakOptions, VoiceReference
from tts_workers.engines.openai_http import OpenAIHttpEngine
from tts_workers.engines.openai_http.ahead import LoopThread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

TEXT = "Please mind the gap."
PORT, URL = "http://127.0.0.1:{port}/v1", "http://127.0.0.1:1/v1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SpeechServer]:
    """A server that somebody else has started."""
    with SpeechServer(tmp_path / "faults") as server:
        yield server


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """What a server that the engine starts is to do wrong."""
    return Faults(tmp_path / "own")


@pytest.fixture
def engines() -> Iterator[list[OpenAIHttpEngine]]:
    """Engines to be closed."""
    made: list[OpenAIHttpEngine] = []
    yield made
    for engine in made:
        engine.close()


def loaded(made: list[OpenAIHttpEngine], url: str, **fields: Any) -> OpenAIHttpEngine:
    engine = OpenAIHttpEngine(settings(url, **fields))
    made.append(engine)
    engine.load("cpu")
    return engine


def owner(made: list[OpenAIHttpEngine], faults: Faults, *options: str, **fields: Any) -> Any:
    return loaded(made, PORT, command=command(faults.folder, *options), **fields)


def speak(engine: OpenAIHttpEngine, text: str = TEXT, **options: Any) -> NDArray[np.float32]:
    voice = engine.encode_voice(VoiceReference())
    return engine.speak(Segment(text), voice, None, SpeakOptions(**options)).samples


def expected(text: str = TEXT, *args: Any) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = sound(text, *args).astype(np.float32) / 32768
    return samples


def processes_of(engine: OpenAIHttpEngine) -> list[psutil.Process]:
    """Return the processes of the engine's server, its guardian's first."""
    assert engine.server_pid is not None
    guardian = psutil.Process(engine.server_pid)
    return [guardian, *guardian.children(recursive=True)]


# -- what goes well -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"response_format": "pcm"}, {"stream": False}])
def test_it_speaks_what_the_server_sends(
    server: SpeechServer, engines: list[OpenAIHttpEngine], how: dict[str, Any]
) -> None:
    """To the bit, in each format that it may be asked for."""
    engine = loaded(engines, server.url, **how)

    assert np.array_equal(speak(engine), expected())
    (request,) = server.seen()["requests"]
    assert request["response_format"] == how.get("response_format", "wav")
    assert ("stream_format" in request) is how.get("stream", True)


def test_what_cannot_be_closed_is_not_loaded_again(
    engines: list[OpenAIHttpEngine], server: SpeechServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as what it is: a load that has failed, and is tried again later."""
    engine = loaded(engines, server.url)
    close = LoopThread.close

    def stuck(loop: LoopThread) -> None:
        close(loop)
        raise EngineError("it did not end")

    with monkeypatch.context() as patch:
        patch.setattr(LoopThread, "close", stuck)
        with pytest.raises(EngineLoadError, match="not closed; it did not end"):
            engine.load("cpu")
    engine.load("cpu")
    assert speak(engine).size


def test_a_streamed_wav_file_whose_header_knows_no_sizes_is_read(
    tmp_path: Path, engines: list[OpenAIHttpEngine]
) -> None:
    """0xFFFFFFFF stands for "not known yet", in vLLM-Omni and in ffmpeg's."""
    with SpeechServer(tmp_path / "faults", "--streams") as server:
        assert np.array_equal(speak(loaded(engines, server.url)), expected())


def test_sound_of_two_channels_becomes_one(
    server: SpeechServer, engines: list[OpenAIHttpEngine]
) -> None:
    """Their mean."""
    engine = loaded(engines, server.url)
    server.faults.next("stereo")
    assert np.array_equal(speak(engine), expected())


def test_a_server_that_is_slow_is_waited_for(
    server: SpeechServer, engines: list[OpenAIHttpEngine]
) -> None:
    """A first byte within the time is no fault."""
    engine = loaded(engines, server.url)
    server.faults.next("slow")
    assert np.array_equal(speak(engine), expected())


def test_voice_speed_seed_and_further_fields_reach_the_server(
    server: SpeechServer, engines: list[OpenAIHttpEngine]
) -> None:
    """The request says what the job said, by the server's own names."""
    engine = loaded(
        engines,
        server.url,
        voices="default=default,lady=anna",
        seed=True,
        extra_fields='{"language": "English"}',
    )
    lady = engine.encode_voice(VoiceReference("lady"))
    samples = engine.speak(Segment(TEXT), lady, None, SpeakOptions(seed=5, speed=2.0)).samples

    assert np.array_equal(samples, expected(TEXT, "anna", 2.0))
    (request,) = server.seen()["requests"]
    assert request == {
        "model": "tones",
        "input": TEXT,
        "voice": "anna",
        "speed": 2.0,
        "seed": 5,
        "language": "English",
        "response_format": "wav",
    }


def test_a_request_finds_the_servers_model_by_its_name(
    server: SpeechServer, engines: list[OpenAIHttpEngine]
) -> None:
    """Not by the engine's only; its version is what the operator says, its voices are its own."""
    engine = loaded(engines, server.url, revision="2026-11")
    offer = Offer.of_capabilities(described(engine), engine=engine.name)
    assert offer is not None
    assert (offer.model, offer.model_version) == ("tones", "2026-11")
    for model in ("tones", "openai_http", "default"):
        assert offer.lacks(needs_of(SpeechRequest(text=TEXT, model=model))) == []
    (lack,) = offer.lacks(needs_of(SpeechRequest(text=TEXT, model="other")))
    assert lack.reason == "has the model tones"
    for voice in ("default", "anna"):
        assert offer.lacks(needs_of(SpeechRequest(text=TEXT, voice=voice))) == []
    assert offer.lacks(needs_of(SpeechRequest(text=TEXT, voice="nobody")))


def test_a_recording_reaches_a_server_that_imitates(
    server: SpeechServer, engines: list[OpenAIHttpEngine]
) -> None:
    """As vLLM-Omni wants it: a data URL and what is said in it, and no voice."""
    engine = loaded(engines, server.url, clone=True)
    reference = VoiceReference("x", "你好", recording())
    engine.speak(Segment(TEXT), engine.encode_voice(reference), None, SpeakOptions())

    (request,) = server.seen()["requests"]
    assert request["ref_audio"].startswith("data:audio/wav;base64,UklGR")
    assert request["ref_text"] == "你好"
    assert "voice" not in request


def test_a_server_can_what_its_operator_says() -> None:
    """Nothing but the model can tell whether the emotion of a recording is heard."""
    told = {"speed": False, "clone": True}
    assert OpenAIHttpEngine(settings(URL, **told)).capabilities().features == {"clone"}
    moved = OpenAIHttpEngine(settings(URL, **told, emotion=True))
    assert moved.capabilities().features == {"clone", "emotion"}


def test_a_recording_may_be_the_default_voice(
    server: SpeechServer, engines: list[OpenAIHttpEngine], tmp_path: Path
) -> None:
    """For models that speak in nobody's voice but one that is shown to them."""
    path = tmp_path / "voice.wav"
    path.write_bytes(recording())
    engine = loaded(
        engines, server.url, clone=True, voice_audio=str(path), voice_text="你好", voices="a=anna"
    )
    speak(engine)
    assert server.seen()["requests"][0]["ref_text"] == "你好"


def test_voices_are_those_that_the_server_names(
    server: SpeechServer, engines: list[OpenAIHttpEngine]
) -> None:
    """And others are refused, with their names."""
    engine = loaded(engines, server.url)
    engine.encode_voice(VoiceReference("anna"))
    with pytest.raises(RequestError, match=r"voice: .*'nobody'; there is anna, bob, default"):
        engine.encode_voice(VoiceReference("nobody"))


def test_no_default_voice_is_an_error_at_once(
    tmp_path: Path, engines: list[OpenAIHttpEngine]
) -> None:
    """It says how to name one."""
    with (
        SpeechServer(tmp_path / "faults", "--mute") as server,
        pytest.raises(EngineLoadError, match="TTS_OPENAI_HTTP_VOICES=default=NAME"),
    ):
        loaded(engines, server.url)


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("truncated", EngineError, "broke off"),
        ("cut", EngineError, "announced .* bytes of sound and sent"),
        ("mp3", EngineError, "sent MP3 where wav was asked for"),
        ("short", EngineError, "sent audio/pcm where wav was asked for"),
        ("json", EngineError, "application/json, not with sound.*no audio was made"),
        ("html", EngineError, "text/html"),
        ("rubbish", EngineError, "WAV file"),
        ("rate", EngineError, "set TTS_OPENAI_HTTP_SAMPLE_RATE_HZ=22050"),
        ("nan", EngineError, "not numbers"),
        ("forever", EngineError, "cut off"),
        ("stall", EngineError, "silent for 2 s"),
        ("reset", EngineError, "broke off"),
        ("500", EngineError, "answered 500"),
        ("oom", EngineOutOfMemoryError, "CUDA out of memory"),
        ("429", None, ""),  # within the time for which it is waited for
        ("503", None, ""),
        ("400 Input text cannot be empty", UnspeakableTextError, "cannot be empty"),
        ("400 prompt too long", RequestError, "text: .*prompt too long"),
        ("400 Voice 'x' not found", RequestError, "voice: .*'x'"),
        ("422 speed must be 1.0", RequestError, "speed: "),
        ("404 The model `x` does not exist", EngineError, "TTS_OPENAI_HTTP_MODEL"),
        ("404 Not Found", EngineError, "TTS_OPENAI_HTTP_URL"),
        ("401 no", EngineLostError, "TTS_OPENAI_HTTP_API_KEY"),
        ("302", EngineError, "answered 302"),
    ],
)
def test_what_a_server_does_wrong_is_told_in_our_words(
    server: SpeechServer,
    engines: list[OpenAIHttpEngine],
    fault: str,
    kind: type[TTSError] | None,
    words: str,
) -> None:
    """Each misbehaviour is an error of its kind, and the next request goes well."""
    engine = loaded(engines, server.url)
    server.faults.next(fault)
    if kind is None:
        assert np.array_equal(speak(engine), expected())
        return
    with pytest.raises(kind, match=words) as raised:
        speak(engine)
    if kind is EngineError:
        assert type(raised.value) is not EngineLostError  # the server is there
    assert np.array_equal(speak(engine), expected())


@pytest.mark.parametrize(
    ("fault", "words"),
    [("odd", "ends within a sample"), ("short", "was cut off"), ("wav", "")],
)
def test_raw_samples_are_checked_as_far_as_they_can_be(
    server: SpeechServer, engines: list[OpenAIHttpEngine], fault: str, words: str
) -> None:
    """Half a sample, or a tenth of the time that the text takes; and a WAV file is seen as one."""
    engine = loaded(engines, server.url, response_format="pcm")
    server.faults.next(fault)
    if not words:
        assert np.array_equal(speak(engine), expected())
        return
    with pytest.raises(EngineError, match=words):
        speak(engine)


def test_a_server_that_sends_for_ever_is_cut_off_soon(
    server: SpeechServer, engines: list[OpenAIHttpEngine]
) -> None:
    """After what the text can be at most, not after what memory there is."""
    engine = loaded(engines, server.url)
    server.faults.next("forever")
    with pytest.raises(EngineError, match="cut off"):
        speak(engine)
    eventually(lambda: server.seen()["dropped"], what="the connection is closed")
    most_s = 10 + len(TEXT)
    assert server.seen()["endless"] < 3 * 16 * 24_000 * most_s  # and what was under way


def test_a_server_that_stays_busy_is_not_waited_for_for_long(
    server: SpeechServer, engines: list[OpenAIHttpEngine]
) -> None:
    """The job is given back; somebody else may fare better."""
    engine = loaded(engines, server.url, busy_s=0.5)
    server.faults.next(*["429 slow down"] * 9)
    with pytest.raises(EngineError, match="429: slow down"):
        speak(engine)
    assert 2 <= 9 - server.faults.left <= 4  # each is to be asked after 0.2 s


def test_a_key_is_sent_and_never_told(
    tmp_path: Path, engines: list[OpenAIHttpEngine], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in messages nor in the log, though the server writes it out."""
    caplog.set_level("DEBUG")
    key = "sk-secret-7"
    with SpeechServer(tmp_path / "faults", "--key", key) as server:
        engine = loaded(engines, server.url, api_key=key)
        assert np.array_equal(speak(engine), expected())
        with pytest.raises(EngineLoadError, match="401: see TTS_OPENAI_HTTP_API_KEY"):
            loaded(engines, server.url, api_key="sk-wrong")
    own = command(None, "--key", key, "--exit", "3")
    with pytest.raises(EngineLoadError, match=r"ended with exit status 3") as raised:
        loaded(engines, PORT, command=own, api_key=key)
    assert "no weights here, key ***" in str(raised.value)
    assert key not in f"{raised.value} {caplog.text} {engine!r} {settings(PORT, command=own)!r}"


# -- a server of its own --------------------------------------------------------------------------


def test_a_server_is_started_and_waited_for(
    engines: list[OpenAIHttpEngine], faults: Faults
) -> None:
    """It answers 503 while it loads."""
    engine = owner(engines, faults, "--ready-after-s", "1")
    assert np.array_equal(speak(engine), expected())


def test_a_server_gets_the_environment_without_our_settings(
    engines: list[OpenAIHttpEngine], faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs its GPU and its cache; it does not need the password of Redis."""
    monkeypatch.setenv("TTS_REDIS_URL", "redis://:secret@host/0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7")
    engine = owner(engines, faults)
    for process in processes_of(engine):
        environment = process.environ()
        assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-7"
        assert not [name for name in environment if name.startswith("TTS_")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/no/such/program --port {port}", "cannot be started: No such file"),
        (command(None, "--exit", "3"), "ended with exit status 3"),
        (command(None, "--ready-after-s", "99"), "was not ready within 1.5 s"),
    ],
)
def test_a_server_that_does_not_come_up_says_why(
    engines: list[OpenAIHttpEngine], line: str, words: str
) -> None:
    """With its last words, and nothing is left of it."""
    engine = OpenAIHttpEngine(settings(PORT, command=line, ready_s=1.5))
    with pytest.raises(EngineLoadError, match=words):
        engine.load("cpu")
    assert not [p for p in psutil.Process().children(recursive=True) if "guardian" in _line(p)]


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash", "ended by SIGKILL"),
        ("stop", "silent for 2 s.*it was killed"),
        ("stall", "silent for 2 s.*it was killed"),
        ("unready", "not ready any more"),
    ],
)
def test_a_server_that_is_gone_or_hangs_is_replaced(
    engines: list[OpenAIHttpEngine], faults: Faults, fault: str, words: str
) -> None:
    """Speaking says that the engine is lost; loaded again, it speaks, and nothing is left over."""
    engine = owner(engines, faults, "--spawn")
    before = processes_of(engine)
    assert len(before) == 3
    faults.next(fault)
    with pytest.raises(EngineLostError, match=words):
        speak(engine)
    assert not any(p.is_running() for p in before)
    with pytest.raises(EngineLostError):
        speak(engine)

    engine.load("cpu")
    assert np.array_equal(speak(engine), expected())


def test_a_request_that_does_not_end_keeps_no_server_alive(
    engines: list[OpenAIHttpEngine], faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, beside what else there is to tell."""
    close = LoopThread.close

    def close_late(loop: LoopThread) -> None:
        close(loop)
        raise EngineError("it did not end")

    monkeypatch.setattr(LoopThread, "close", close_late)
    engine = owner(engines, faults)
    family = processes_of(engine)
    with pytest.raises(EngineError, match="it did not end"):
        engine.close()
    assert not any(_alive(p) for p in family)
    engine.load("cpu")
    faults.next("crash")
    with pytest.raises(EngineLostError, match=r"ended.*; it did not end$"):
        speak(engine)
    with pytest.raises(EngineLoadError, match=r"not ready within.*; it did not end$"):
        loaded(engines, URL, ready_s=0.01)


def test_a_server_of_somebody_else_that_is_gone_is_attached_again(
    server: SpeechServer, engines: list[OpenAIHttpEngine]
) -> None:
    """A dead one loses the engine; one that only failed does not."""
    engine = loaded(engines, server.url)
    server.faults.next("crash")
    with pytest.raises(EngineLostError, match="not ready any more"):
        speak(engine)
    server.process.wait()
    server.start()
    engine.load("cpu")
    assert np.array_equal(speak(engine), expected())


def test_nothing_outlives_whoever_started_it(tmp_path: Path) -> None:
    """Kill -9 of the process with the engine ends the server and what that has started."""
    program = (
        "import sys, time\n"
        "from tests.speech_servers import command, settings\n"
        "from tts_workers.engines.openai_http import OpenAIHttpEngine\n"
        f"engine = OpenAIHttpEngine(settings({PORT!r}, command=command(None, '--spawn')))\n"
        "import threading\n"  # as a worker does: the thread that loads ends
        "loading = threading.Thread(target=engine.load, args=('cpu',))\n"
        "loading.start(); loading.join()\n"
        "print(engine.server_pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    import subprocess
    import sys

    holder = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([".", "workers"])},
    )
    assert holder.stdout is not None
    guardian = psutil.Process(int(holder.stdout.readline()))
    family = [guardian, *guardian.children(recursive=True)]
    assert len(family) == 3
    assert all(p.is_running() for p in family)

    holder.kill()
    holder.wait()
    holder.stdout.close()
    eventually(lambda: not any(_alive(p) for p in family), within_s=20, what="all are gone")


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_guardian_that_is_killed_takes_the_server_with_it(
    engines: list[OpenAIHttpEngine], faults: Faults
) -> None:
    """The server itself dies with its guardian."""
    engine = owner(engines, faults)
    guardian, child = processes_of(engine)
    guardian.send_signal(signal.SIGKILL)
    eventually(lambda: not _alive(child), within_s=10, what="the server is gone")
    with pytest.raises(EngineLostError):
        speak(engine)


# -- several at once ------------------------------------------------------------------------------

SENTENCES = [
    f"Sentence number {word}, please." for word in ["one", "two", "three", "four", "five", "six"]
]


def speak_all(engine: OpenAIHttpEngine, *, ahead: bool) -> list[NDArray[np.float32]]:
    voice, options = engine.encode_voice(VoiceReference()), SpeakOptions()
    segments = [Segment(text) for text in SENTENCES]
    if ahead:
        engine.expect(segments, voice, options)
    try:
        return [engine.speak(segment, voice, None, options).samples for segment in segments]
    finally:
        engine.expect((), voice, options)


def test_segments_are_asked_for_ahead_and_each_answer_is_its_own(
    tmp_path: Path, engines: list[OpenAIHttpEngine]
) -> None:
    """Three are under way at once; the sound is what it is one by one, and that of its text."""
    with SpeechServer(tmp_path / "faults", "--delay-s", "0.2") as server:
        engine = loaded(engines, server.url, concurrency=3)
        began_s = time.monotonic()
        together = speak_all(engine, ahead=True)
        took_s = time.monotonic() - began_s
        assert server.seen()["most"] == 3
        assert len(server.texts) == len(SENTENCES)
        one_by_one = speak_all(engine, ahead=False)

    assert took_s < 0.2 * len(SENTENCES)
    for text, first, second in zip(SENTENCES, together, one_by_one, strict=True):
        assert np.array_equal(first, expected(text))
        assert np.array_equal(second, expected(text))


def test_what_failed_ahead_is_asked_for_again(
    tmp_path: Path, engines: list[OpenAIHttpEngine]
) -> None:
    """Being asked for early costs a segment no attempt."""
    with SpeechServer(tmp_path / "faults", "--delay-s", "0.1") as server:
        engine = loaded(engines, server.url, concurrency=6)
        voice, options = engine.encode_voice(VoiceReference()), SpeakOptions()
        segments = [Segment(text) for text in SENTENCES]
        server.faults.next(*["500"] * 6)
        engine.expect(segments, voice, options)
        eventually(lambda: not server.faults.left, what="all have failed")
        eventually(lambda: server.seen()["now"] == 0, what="all are answered")
        spoken = [engine.speak(segment, voice, None, options).samples for segment in segments]
    for text, samples in zip(SENTENCES, spoken, strict=True):
        assert np.array_equal(samples, expected(text))


def test_what_is_not_wanted_any_more_is_given_up(
    tmp_path: Path, engines: list[OpenAIHttpEngine]
) -> None:
    """The server is told by a closed connection; and the next job is not mixed up with it."""
    with SpeechServer(tmp_path / "faults") as server:
        engine = loaded(engines, server.url, concurrency=4)
        voice, options = engine.encode_voice(VoiceReference()), SpeakOptions()
        server.faults.next(*["stall"] * 4)
        engine.expect([Segment(text) for text in SENTENCES], voice, options)
        eventually(lambda: not server.faults.left, what="all have begun")
        engine.expect((), voice, options)
        assert np.array_equal(speak(engine, "Another job."), expected("Another job."))


def test_close_ends_a_call_that_is_under_way(
    server: SpeechServer, engines: list[OpenAIHttpEngine]
) -> None:
    """From another thread, long before the server's time is over."""
    engine = loaded(engines, server.url, timeout_s=60.0)
    server.faults.next("stall")
    raised: list[Exception] = []

    def try_it() -> None:
        try:
            speak(engine)
        except EngineError as error:
            raised.append(error)

    thread = threading.Thread(target=try_it)
    thread.start()
    eventually(lambda: server.seen()["now"], what="it speaks")
    began_s = time.monotonic()
    engine.close()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - began_s < 5
    assert "closed" in str(raised[0])


# -- what is the same sound -----------------------------------------------------------------------


def test_the_fingerprint_is_of_the_sound_and_not_of_the_place(
    tmp_path: Path, engines: list[OpenAIHttpEngine]
) -> None:
    """Two servers are one pool; another model, voice, revision or field is another sound."""
    with SpeechServer(tmp_path / "a") as one, SpeechServer(tmp_path / "b") as other:
        of_one = loaded(engines, one.url).fingerprint()
        assert loaded(engines, other.url).fingerprint() == of_one
        for change in (
            {"model": "other"},
            {"revision": "2"},
            {"voices": "default=anna"},
            {"extra_fields": json.dumps({"language": "Chinese"})},
            {"seed": True},
        ):
            assert loaded(engines, one.url, **change).fingerprint() != of_one
