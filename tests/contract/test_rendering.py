"""A job that is interrupted at any segment sounds, to the byte, as one that was not."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tts_tasks.errors import EngineError, UnavailableError
from tts_tasks.ledger import Claim, JobLedger, JobMeta, SegmentLog
from tts_tasks.requests import SpeechRequest
from tts_tasks.settings import get_settings
from tts_tasks.storage import LocalStorage
from tts_tasks.storage.epochs import EpochMarks
from tts_tasks.storage.staging import STAGING_FOLDER, sweep_staging
from tts_workers.engine_host import LoadedEngine
from tts_workers.engines.base import Capabilities, EngineVoice, Segment, Spoken
from tts_workers.pace import Pace
from tts_workers.rendering import OvertakenError, Rendering, Tools, YieldedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOB = "b1:1"
SENTENCES = ("一", "二二", "三三三", "四四四四", "五")
RATE_HZ = 8000


class Engine:
    """Speaks noise that hangs on the text, the seed and everything that was spoken before."""

    name, version = "chained", "1"

    def __init__(self, fingerprint: str = "f") -> None:
        self._fingerprint = fingerprint
        self.spoken: list[str] = []
        self.dies_at = ""
        self.meanwhile: Callable[[], object] = lambda: None

    def capabilities(self) -> Capabilities:
        return Capabilities(languages=("zh",), sample_rate_hz=RATE_HZ)

    def load(self, device: str) -> None:
        return

    def encode_voice(self, reference: Any) -> EngineVoice:
        return EngineVoice(reference)

    def split(self, text: str) -> list[Segment]:
        return [Segment(part, 0.0101 * len(part)) for part in text.split("|")]

    def speak(self, segment: Segment, _: Any, state: Any, options: Any) -> Spoken:
        if segment.text == self.dies_at:
            raise EngineError("this engine dies here")
        self.spoken.append(segment.text)
        self.meanwhile()
        heard = [*(state or {"heard": []})["heard"], segment.text]
        seed = [options.seed, *map(ord, "".join(heard))]
        noise = np.random.default_rng(seed).uniform(-1.2, 1.2, 801 * len(segment.text))
        return Spoken(noise.astype(np.float32), {"heard": heard})

    def fingerprint(self) -> str:
        return self._fingerprint

    def close(self) -> None:
        return


@dataclass
class World:
    """One ledger and one storage; attempts at one job."""

    url: str
    root: Path
    engine: Engine = field(default_factory=Engine)
    log_bytes: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        self.ledger = JobLedger(self.url)
        self.log = SegmentLog(self.url)
        self.storage = LocalStorage(self.root)

    def accept(self, **fields: Any) -> None:
        request = SpeechRequest(text="|".join(SENTENCES), **fields)
        self.ledger.accept([(JOB, request, JobMeta(queue="q", name="a.wav"))])

    def claim(self) -> Claim:
        record = self.ledger.get(JOB)
        assert record is not None
        self.ledger.release(JOB, record.worker, None, strike=False)
        worker = f"w{record.attempt}"
        answer = self.ledger.claim(JOB, worker, None, max_strikes=9, nonce=secrets.token_hex(4))
        assert isinstance(answer, Claim)
        return answer

    def rendering(self, engine: Engine | None = None) -> Rendering:
        """Begin a new attempt."""
        engine = engine or self.engine
        claim = self.claim()
        pace = Pace(lambda _: None, floor_s=1, factor=5, unknown_s=60)
        settings = get_settings().model_copy(update={"segment_log_bytes": self.log_bytes})
        tools = Tools(self.log, pace, settings, lambda call: call())
        marks = EpochMarks(self.storage, "default.0")
        loaded = LoadedEngine(engine, engine.fingerprint(), {}, self.storage, marks)
        made = Rendering(claim, SpeechRequest(**claim.request), loaded, tools)
        made.prepare()
        return made

    def render(self, engine: Engine | None = None, must_yield: Any = lambda: False) -> bytes:
        """Make one attempt; returns the artifact."""
        with self.rendering(engine) as rendering:
            rendering.speak(must_yield)
            return rendering.encode().data

    def dies_at(self, sentence: str) -> None:
        """Make an attempt that dies while it speaks a sentence."""
        engine = Engine()
        engine.dies_at = sentence
        with pytest.raises(EngineError):
            self.render(engine)

    def staged(self) -> list[str]:
        return sorted(self.storage.list_hidden(STAGING_FOLDER))

    def undisturbed(self, **fields: Any) -> bytes:
        """Return how the job sounds that nothing happens to."""
        pace = Pace(lambda _: None, floor_s=1, factor=5, unknown_s=60)
        request = SpeechRequest(text="|".join(SENTENCES), **fields)
        other = "b1:2"
        self.ledger.accept([(other, request, JobMeta(queue="q", name="b.wav"))])
        claim = self.ledger.claim(other, "w", None, max_strikes=9, nonce="n")
        assert isinstance(claim, Claim)
        tools = Tools(self.log, pace, get_settings(), lambda call: call())
        marks = EpochMarks(self.storage, "default.0")
        loaded = LoadedEngine(Engine(), "f", {}, self.storage, marks)
        with Rendering(claim, request, loaded, tools) as rendering:
            rendering.prepare()
            rendering.speak()
            self.storage.remove(rendering.staged)
            return rendering.encode().data


@pytest.fixture
def world(redis_url: str, tmp_path: Path) -> World:
    """An empty cluster."""
    return World(redis_url, tmp_path / "store")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seed": 7, "sample_rate": 24000},
        {"format": "flac"},
        {"format": "mp3", "sample_rate": 16000},
        {"format": "opus"},
    ],
)
def test_a_job_killed_at_every_segment_sounds_as_one_that_was_not(
    world: World, fields: dict[str, Any], stream: bool
) -> None:
    """Byte for byte, in every format, pauses included; and no segment is spoken twice."""
    whole = world.undisturbed(**fields)
    world.accept(**fields, stream=stream)
    for sentence in SENTENCES:
        world.dies_at(sentence)
    assert world.render() == whole
    assert world.engine.spoken == [SENTENCES[-1]]


def test_a_worker_killed_after_the_last_segment_costs_none(world: World) -> None:
    """The next one joins what is there."""
    whole = world.undisturbed()
    world.accept()
    world.render()
    assert world.render(engine := Engine()) == whole
    assert engine.spoken == []


def test_a_job_yields_at_the_end_of_a_segment(world: World) -> None:
    """And goes on there, whoever takes it; it does not yield when nothing is left to speak."""
    whole = world.undisturbed()
    world.accept()
    with pytest.raises(YieldedError):
        world.render(must_yield=lambda: True)
    with pytest.raises(YieldedError):
        world.render(must_yield=lambda: len(world.engine.spoken) >= 3)
    assert world.engine.spoken == [*SENTENCES[:3]]
    world.engine.spoken.clear()
    assert world.render(must_yield=lambda: world.engine.spoken[-1:] == [SENTENCES[-1]]) == whole
    assert world.engine.spoken == [*SENTENCES[3:]]


def test_an_attempt_that_was_overtaken_stops_at_its_next_segment(world: World) -> None:
    """It publishes nothing, and what it had staged for that segment is removed."""
    world.accept()
    stale = world.rendering(slow := Engine())
    newer: list[bytes] = []
    slow.meanwhile = lambda: newer or newer.append(world.render())
    with pytest.raises(OvertakenError):
        stale.speak()
    assert slow.spoken == [SENTENCES[0]]
    assert len(world.staged()) == len(SENTENCES)
    assert newer == [world.undisturbed()]


def test_an_attempt_that_was_overtaken_needs_no_storage_to_stop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is none of its business any more, and what it had staged is swept."""
    world.accept()
    stale = world.rendering(slow := Engine())

    def does_not_answer(_: object) -> None:
        raise UnavailableError("the storage does not answer")

    def meanwhile() -> None:
        world.claim()
        monkeypatch.setattr(world.storage, "remove", does_not_answer)

    slow.meanwhile = meanwhile
    with pytest.raises(OvertakenError):
        stale.speak()


def test_audio_of_a_batch_is_in_storage_and_only_its_name_in_redis(world: World) -> None:
    """Nobody listens: rule 8."""
    world.accept()
    with world.rendering() as rendering:
        rendering.speak()
        assert sorted(rendering.staged) == world.staged()
        logged = world.log.read(JOB)
        assert [one.reference for one in logged] == rendering.staged
        assert not any(one.audio for one in logged)
        world.storage.remove(rendering.staged)
    assert world.staged() == []


def test_audio_that_somebody_listens_to_is_in_redis_up_to_a_bound(world: World) -> None:
    """What goes beyond it is in storage; together it is the whole, also for the next attempt."""
    whole = world.undisturbed()
    world.log_bytes = 7_100  # all but the two long ones
    world.accept(stream=True)
    world.dies_at(SENTENCES[3])
    assert world.render() == whole
    logged = world.log.read(JOB)
    assert [bool(one.audio) for one in logged] == [True, True, False, False, True]
    assert sum(len(one.audio) for one in logged) <= 7_100
    assert sorted(one.reference for one in logged if one.reference) == world.staged()


def test_one_segment_that_nobody_listens_to_is_not_kept(world: World) -> None:
    """There is nothing to go on from: short jobs cost nothing."""
    world.ledger.accept([(JOB, SpeechRequest(text="一"), JobMeta(queue="q", name="a.wav"))])
    world.render()
    assert world.log.read(JOB) == []
    assert world.staged() == []


@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_damaged_segments_are_spoken_again(world: World, damage: str) -> None:
    """A storage that lost or changed them costs time, never a wrong sound."""
    whole = world.undisturbed()
    world.accept()
    world.dies_at(SENTENCES[3])
    second = world.root / world.staged()[1]
    match damage:
        case "gone":
            second.unlink()
        case "cut":
            second.write_bytes(second.read_bytes()[:-2])
        case "changed":
            second.write_bytes(bytes(second.stat().st_size))
    assert world.render() == whole
    assert world.engine.spoken == [*SENTENCES]
    assert len(world.staged()) == len(SENTENCES)


def test_another_version_of_the_engine_begins_again(world: World) -> None:
    """A text is not spoken by two engines, unless somebody has heard its beginning."""
    world.accept()
    world.dies_at(SENTENCES[2])
    other = Engine("another")
    world.render(other)
    assert other.spoken == [*SENTENCES]


def test_another_version_of_the_engine_goes_on_where_somebody_listens(world: World) -> None:
    """What was heard cannot be unsaid; the state of the old version is not handed to it."""
    world.accept(stream=True)
    world.dies_at(SENTENCES[2])
    heard = world.log.read(JOB)
    other = Engine("another")
    world.render(other)
    assert other.spoken == [*SENTENCES[2:]]
    assert world.log.read(JOB)[:2] == heard
    assert world.log.checkpoint(JOB).engine_state == {"heard": [*SENTENCES[2:]]}


def test_what_abandoned_attempts_staged_is_swept(world: World) -> None:
    """Once nobody wants it: not while its job is open."""
    world.accept()
    world.dies_at(SENTENCES[2])
    assert sweep_staging(world.storage, set) == 0
    assert len(world.staged()) == 2
    assert sweep_staging(world.storage, lambda jobs: set(jobs) - {JOB}) == 2
    assert world.staged() == []
    assert sweep_staging(world.storage, set) == 0
