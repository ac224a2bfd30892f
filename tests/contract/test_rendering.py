"""A job that is interrupted at any segment sounds, to the byte, as one that was not."""

from __future__ import annotations

import io
import json
import secrets
import wave
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tts_tasks.errors import EngineError, EngineLostError, UnavailableError
from tts_tasks.ledger import Claim, JobLedger, JobMeta, SegmentLog
from tts_tasks.lexicons import Lexicon, LexiconStore, entry
from tts_tasks.redis_connection import connect
from tts_tasks.requests import SpeechRequest
from tts_tasks.settings import get_settings
from tts_tasks.storage import LocalStorage
from tts_tasks.storage.epochs import EpochMarks
from tts_tasks.storage.staging import STAGING_FOLDER, sweep_staging
from tts_tasks.voices import ReferenceStore, pin_of
from tts_workers.audio_out.finishing import with_pauses
from tts_workers.engine_host import LoadedEngine
from tts_workers.engines.base import (
    Capabilities,
    EngineVoice,
    Segment,
    Spoken,
    VoiceReference,
)
from tts_workers.pace import Pace
from tts_workers.rendering import OvertakenError, Rendering, Tools, YieldedError
from tts_workers.text import Overrides
from tts_workers.text.splitting import PARAGRAPH_PAUSE_S, SENTENCE_PAUSE_S

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

    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        text = text if lexicon is None else Overrides(text, lexicon).text
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
            return published(rendering)

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
            return published(rendering)


def published(rendering: Rendering) -> bytes:
    """Return all that is published of a job: the artifact, and its subtitles."""
    encoded = rendering.encode()
    return encoded.data + b"".join(encoded.subtitles.values())


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
        {
            "gain_db": 3.0,
            "peak_limit_dbfs": -2.0,
            "trim_silence": True,
            "fade_ms": 4.0,
            "sample_rate": 16000,
            "subtitles": ("json", "srt", "vtt"),
        },
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


@pytest.mark.parametrize("format", ["wav", "mp3", "ogg"])
def test_a_job_of_a_loudness_is_the_same_however_often_it_is_killed(
    world: World,
    format: str,  # noqa: A002 - the field's name
) -> None:
    """Loudness is measured over the kept segments, whoever spoke them."""
    fields = {"loudness_lufs": -23.0, "format": format, "subtitles": ("json",)}
    whole = world.undisturbed(**fields)
    assert whole != world.undisturbed(format=format, subtitles=("json",))
    world.accept(**fields)
    for sentence in SENTENCES[1:]:
        world.dies_at(sentence)
    assert world.render() == whole


def test_subtitles_stand_at_the_samples_where_segments_sound(world: World) -> None:
    """They come of the segments' own lengths, as they were kept, less the pauses."""
    world.accept(subtitles=("json",))
    world.dies_at(SENTENCES[2])
    with world.rendering() as rendering:
        rendering.speak()
        encoded = rendering.encode()
    told = json.loads(encoded.subtitles["json"])
    with wave.open(io.BytesIO(encoded.data)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    position = 0
    for sentence, cue in zip(SENTENCES, told["segments"], strict=True):
        assert (cue["start_sample"], cue["spoken"]) == (position, sentence)
        assert cue["end_sample"] == position + 801 * len(sentence)
        pause = round(0.0101 * len(sentence) * RATE_HZ)
        assert not samples[cue["end_sample"] :][:pause].any()
        position = cue["end_sample"] + pause
    assert position == samples.size


def test_pauses_are_those_that_a_request_wants() -> None:
    """Between sentences and between paragraphs; breaths within a sentence stay."""
    segments = [Segment("a", PARAGRAPH_PAUSE_S), Segment("b", SENTENCE_PAUSE_S), Segment("c", 0.1)]

    def pauses(**fields: Any) -> list[float]:
        request = SpeechRequest(text="a", **fields)
        return [one.pause_after_s for one in with_pauses(segments, request)]

    assert pauses() == [PARAGRAPH_PAUSE_S, SENTENCE_PAUSE_S, 0.1]
    assert pauses(sentence_pause_ms=0) == [PARAGRAPH_PAUSE_S, 0.0, 0.1]
    assert pauses(paragraph_pause_ms=1500) == [1.5, SENTENCE_PAUSE_S, 0.1]


def test_a_lexicon_that_changes_does_not_change_a_job(world: World) -> None:
    """An attempt on another worker reads the same text the same way: the request has the pin."""
    store = LexiconStore(world.storage)
    pin = store.add("bank", Lexicon((entry("三三三", "text", "五"),))).pin
    world.accept(lexicon=pin)
    world.engine.dies_at = SENTENCES[3]
    with pytest.raises(EngineError):
        world.render(world.engine)
    store.add("bank", Lexicon((entry("二二", "text", "六"),)))
    store.remove("bank")
    world.render(again := Engine())
    assert world.engine.spoken + again.spoken == ["一", "二二", "五", "四四四四", "五"]


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


class Imitator(Engine):
    """Speaks noise under the content of its voice, and notes what it has encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[str] = []

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), features=frozenset({"clone"}))

    def encode_voice(self, reference: Any) -> EngineVoice:
        self.encoded.append(reference.sha256)
        return EngineVoice(reference, reference.prompt_audio[-1] / 255)

    def speak(self, segment: Segment, voice: Any, state: Any, options: Any) -> Spoken:
        spoken = super().speak(segment, voice, state, options)
        return replace(spoken, samples=spoken.samples * np.float32(voice.payload))


def test_a_cloned_voice_is_the_same_after_its_worker_died(world: World) -> None:
    """It is read by its hash, encoded once a worker, and goes on in the middle of a text."""
    sounds = []
    for content in (b"100", b"201"):
        sha256 = ReferenceStore(world.storage).put(content, "batch/b1")
        fields = {"prompt_text": "a", "prompt_audio": pin_of(sha256)}
        world.ledger = JobLedger(world.url)
        connect(world.url).flushall()
        world.accept(**fields)
        first, second = Imitator(), Imitator()
        first.dies_at = SENTENCES[2]
        with pytest.raises(EngineError):
            world.render(first)
        sounds.append(world.render(second))
        assert (len(first.encoded), first.encoded) == (1, second.encoded)
        assert first.spoken + second.spoken == list(SENTENCES)
    assert sounds[0] != sounds[1]


class AheadEngine(Engine):
    """May begin with segments ahead; notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[list[str]] = []

    def expect(self, segments: Any, voice: Any, options: Any) -> None:
        self.told.append([segment.text for segment in segments])


def test_an_engine_is_told_what_comes_next_and_when_nothing_does(world: World) -> None:
    """What is left of the text, each time from where it goes on; and nothing when it is left."""
    whole = world.undisturbed()
    world.accept()
    engine = AheadEngine()
    with pytest.raises(YieldedError):
        world.render(engine, must_yield=lambda: len(engine.spoken) >= 2)
    engine.dies_at = SENTENCES[3]
    with pytest.raises(EngineError):
        world.render(engine)
    engine.dies_at = ""
    assert world.render(engine) == whole
    assert engine.told == [[*SENTENCES], [], [*SENTENCES[2:]], [], [*SENTENCES[3:]], []]


def test_one_segment_is_not_announced(world: World) -> None:
    """There is nothing to do ahead of it."""
    world.accept()
    world.dies_at(SENTENCES[-1])
    engine = AheadEngine()
    world.render(engine)
    assert engine.spoken == [SENTENCES[-1]]
    assert engine.told == []


def test_the_pace_is_learned_from_how_long_a_segment_took(world: World) -> None:
    """Not from how long it was waited for, where it was begun ahead."""

    class Hasty(AheadEngine):
        def speak(self, *args: Any) -> Spoken:
            return replace(super().speak(*args), took_s=8.0 * len(args[0].text))

    world.accept()
    with world.rendering(Hasty()) as rendering:
        rendering.speak()
        assert rendering._tools.pace.expected_s("speak", 1) == pytest.approx(8.0)


def test_whoever_minds_is_told_that_an_engine_is_lost(world: World) -> None:
    """And of no other error."""

    class Lost(Engine):
        def speak(self, *args: Any) -> Spoken:
            if args[0].text == SENTENCES[1]:
                raise EngineLostError("its server is gone")
            return super().speak(*args)

    world.accept()
    world.dies_at(SENTENCES[0])
    told: list[str] = []
    with world.rendering(Lost()) as rendering:
        rendering._tools = replace(rendering._tools, on_lost=lambda error: told.append(str(error)))
        with pytest.raises(EngineLostError):
            rendering.speak()
    assert told == ["its server is gone"]
    assert world.log.checkpoint(JOB).segments_done == 1


def test_an_engine_that_is_lost_over_a_voice_is_told_too(world: World) -> None:
    """Encoding one works the device as speaking does."""

    class Lost(Engine):
        def encode_voice(self, reference: VoiceReference) -> EngineVoice:
            raise EngineLostError(f"it died of {reference.name}")

    world.accept()
    told: list[str] = []
    with world.rendering(Lost()) as rendering:
        rendering._tools = replace(rendering._tools, on_lost=lambda error: told.append(str(error)))
        with pytest.raises(EngineLostError):
            rendering.speak()
    assert told == ["it died of default"]
