"""Ready means it has spoken (rule 7)."""

from __future__ import annotations

import queue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tts_tasks.errors import EngineLoadError, EngineLostError, StorageError
from tts_tasks.requests import Requirements
from tts_tasks.storage import LocalStorage
from tts_workers import engine_host
from tts_workers.engine_host import MOST_VOICES, PROBE_TEXT, EngineHost, described
from tts_workers.engines.base import Capabilities, EngineVoice, Segment, Spoken
from tts_workers.pace import Pace

if TYPE_CHECKING:
    from pathlib import Path


class Engine:
    """Makes as many samples of each segment as it is told to."""

    name, version = "probed", "1"

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.spoken: list[str] = []
        self.closed = False

    def capabilities(self) -> Capabilities:
        return Capabilities(languages=("zh",), sample_rate_hz=8000)

    def load(self, device: str) -> None:
        return

    def encode_voice(self, reference: Any) -> EngineVoice:
        return EngineVoice(reference)

    def split(self, text: str) -> list[Segment]:
        return [Segment(text)]

    def speak(self, segment: Segment, *_: Any) -> Spoken:
        self.spoken.append(segment.text)
        return Spoken(np.zeros(self.samples, dtype=np.float32))

    def fingerprint(self) -> str:
        return "f"

    def close(self) -> None:
        self.closed = True


class World:
    """An engine's host, and what it tells the parent."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, *, samples: int) -> None:
        self.engine = Engine(samples)
        monkeypatch.setattr(engine_host, "load_engine", lambda _: self.engine)
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        link: Any = SimpleNamespace(say=self.said.put)
        self.budgets_s: list[float] = []
        self.host = EngineHost(
            "probed",
            "cpu",
            link,
            pace=Pace(self.budgets_s.append, floor_s=1, factor=5, unknown_s=60),
            storage_url=root.as_uri(),
            lane_key="default.0",
        )


def test_a_worker_is_ready_after_its_engine_has_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before; and it tells what it is."""
    world = World(tmp_path / "store", monkeypatch, samples=8)
    with pytest.raises(EngineLoadError):
        world.host.wait(0)
    world.host.start()
    said = world.said.get(timeout=30)
    assert (said["event"], said["fingerprint"]) == ("ready", "f")
    told = said["capabilities"]
    assert (told["languages"], told["features"], told["model"]) == (("zh",), ["stream"], "probed")
    assert told["model_version"] == "1"
    assert world.engine.spoken == [PROBE_TEXT]
    assert world.host.wait(0).name == "probed (1)"


def test_a_worker_whose_storage_takes_nothing_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take jobs that it cannot publish, and cannot even claim."""

    def refuse(*_: object) -> None:
        raise StorageError("no permission")

    monkeypatch.setattr(LocalStorage, "replace", refuse)
    monkeypatch.setattr(LocalStorage, "write", refuse)
    world = World(tmp_path / "store", monkeypatch, samples=8)
    world.host.start()
    said = world.said.get(timeout=30)
    assert said == {"event": "load_failed", "reason": "no permission"}
    assert world.engine.spoken == []


@pytest.mark.parametrize(
    ("engines", "models", "advertised"),
    [
        ("1", "", "1"),
        ("espeak-ng 1.52.0", "", "espeak-ng-1.52.0"),
        ("sherpa-onnx 2.0.0, vits", "", "sherpa-onnx-2.0.0-vits"),
        ("zai-org/GLM-TTS", "", "zai-org-GLM-TTS"),
        ("/srv/models/x", "", "srv-models-x"),
        ("1", "版本 7", "7"),
        ("1", "x" * 300, "x" * 128),
    ],
)
def test_a_request_can_require_the_version_that_is_advertised(
    engines: str, models: str, advertised: str
) -> None:
    """Whatever the engine calls it: `Requirements` takes plain names only."""
    engine: Any = Engine(1)
    engine.version = engines
    given = Capabilities(languages=("zh",), sample_rate_hz=8000, model_version=models)
    engine.capabilities = lambda: given
    told = described(engine)["model_version"]
    assert told == advertised
    assert Requirements(model_version=told).model_version == advertised


def test_the_voices_of_an_engine_are_advertised_unless_there_are_too_many() -> None:
    """In the order of numbers; a name that no request can have is not told."""
    engine: Any = Engine(1)

    def told(*voices: str) -> list[str]:
        given = Capabilities(languages=("zh",), sample_rate_hz=8000, voices=voices)
        engine.capabilities = lambda: given
        names: list[str] = described(engine)["voices"]
        return names

    assert told() == []
    assert told("default", "10", "9", "9", "x" * 129) == ["9", "10", "default"]
    assert len(told(*map(str, range(MOST_VOICES)))) == MOST_VOICES
    assert told(*map(str, range(MOST_VOICES + 1))) == []


def test_the_probe_teaches_nothing_about_the_pace_of_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first job gets the time for a first step: another voice, or a long text, is no hang."""
    world = World(tmp_path / "store", monkeypatch, samples=8)
    world.host._load()
    assert world.engine.spoken == [PROBE_TEXT]
    for kind in ("voice", "speak"):
        assert world.host.pace.budget_s(kind, 1) == 60
    assert world.budgets_s == []


def test_an_engine_that_makes_no_sound_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded is not enough: it would lead the lane and answer with silence."""
    world = World(tmp_path / "store", monkeypatch, samples=0)
    with pytest.raises(EngineLoadError, match="no sound"):
        world.host._load()
    assert world.engine.closed
    assert world.said.empty()


def test_a_lost_engine_ends_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, with the status of a child that says so, and the reason in the log."""
    world = World(tmp_path / "store", monkeypatch, samples=8)
    ended: list[int] = []
    monkeypatch.setattr(engine_host.os, "_exit", ended.append)
    world.host.lost(EngineLostError("its server is gone"))
    assert ended == [engine_host.LOST_EXIT_STATUS]
    assert "the engine probed is lost: its server is gone" in caplog.text
    assert not world.engine.closed  # what is lost may hang


@pytest.mark.parametrize("call", ["load", "encode_voice", "speak"])
def test_an_engine_that_is_lost_before_it_is_ready_ends_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The parent is told why; another try here would meet what is broken, and so would `close`."""
    world = World(tmp_path / "store", monkeypatch, samples=8)
    ended: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(engine_host.os, "_exit", ended.put)
    monkeypatch.setattr(engine_host, "_LOST_PAUSE_S", 0.01)

    def lose(*_: object) -> None:
        raise EngineLostError("the CUDA context is lost")

    monkeypatch.setattr(world.engine, call, lose)
    world.host.start()
    assert ended.get(timeout=10) == engine_host.LOST_EXIT_STATUS
    assert world.said.get_nowait() == {
        "event": "load_failed",
        "reason": "the CUDA context is lost",
    }
    assert world.said.empty()
    assert not world.engine.closed


def test_an_engine_is_loaded_only_where_its_device_is_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why not is told to the parent, and it is tried again."""
    world = World(tmp_path / "store", monkeypatch, samples=8)
    faults = iter([EngineLoadError("1 of 24 GiB free")])

    def check() -> None:
        for fault in faults:
            raise fault

    monkeypatch.setattr(engine_host, "_FIRST_RETRY_S", 0.01)
    world.host._check_device = check
    world.host.start()
    refused, ready = world.said.get(timeout=30), world.said.get(timeout=30)
    assert refused == {"event": "load_failed", "reason": "1 of 24 GiB free"}
    assert ready["event"] == "ready"
    assert world.engine.spoken == [PROBE_TEXT]
