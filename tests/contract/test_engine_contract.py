"""The engines that ship keep the engine contract; the suite catches engines that do not."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests import tiny_model
from tests.glmtts_double import SPEAKERS, double_engine
from tests.recordings import recording
from tests.speech_servers import SpeechServer
from tests.speech_servers import settings as served_settings
from tts_tasks.errors import EngineError, RequestError, UnspeakableTextError
from tts_workers.engines.base import (
    Capabilities,
    EngineState,
    EngineVoice,
    Segment,
    SpeakOptions,
    Spoken,
    VoiceReference,
)
from tts_workers.engines.espeak import EspeakEngine
from tts_workers.engines.openai_http import OpenAIHttpEngine
from tts_workers.engines.paced import PacedEngine, PacedSettings
from tts_workers.engines.sherpa_onnx import SherpaOnnxEngine
from tts_workers.testing import ContractCheck, ContractViolation, engine_contract
from tts_workers.text import Overrides

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tts_tasks.lexicons import Lexicon
    from tts_workers.engines.base import Engine


def _paced() -> PacedEngine:
    return PacedEngine(PacedSettings(cost=0.005, load_s=0.01), inner=EspeakEngine())


@pytest.mark.parametrize("check", engine_contract(EspeakEngine), ids=str)
def test_espeak_keeps_the_contract(check: ContractCheck) -> None:
    """The espeak engine passes every check of the suite."""
    check()


@pytest.mark.parametrize("check", engine_contract(double_engine, clones=SPEAKERS), ids=str)
def test_glmtts_keeps_the_contract(check: ContractCheck) -> None:
    """The engine glmtts passes every check of the suite, on the double of its checkout."""
    check()


@pytest.mark.parametrize("check", engine_contract(_paced), ids=str)
def test_paced_keeps_the_contract(check: ContractCheck) -> None:
    """The paced instrument passes every check of the suite while it takes its time."""
    check()


def _imitating() -> PacedEngine:
    return PacedEngine(PacedSettings(clone=True), inner=EspeakEngine())


_SPEAKERS = (
    VoiceReference("alice", "你好", recording(seed=1)),
    VoiceReference("bob", "你好", recording(seed=2)),
)


@pytest.mark.parametrize("check", engine_contract(_imitating, clones=_SPEAKERS), ids=str)
def test_paced_keeps_the_contract_where_it_imitates(check: ContractCheck) -> None:
    """Made-up voices are as deterministic as others, and can be packed."""
    check()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpeechServer]:
    """A speech server that answers alike to the same request."""
    with SpeechServer(tmp_path_factory.mktemp("faults")) as server:
        yield server


#: Two kinds of servers: one that names voices, one that imitates.
SERVED: dict[str, dict[str, Any]] = {"names": {}, "imitates": {"clone": True, "seed": True}}


CHECKS = [check.name for check in engine_contract(EspeakEngine)]


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("how", SERVED)
def test_openai_http_keeps_the_contract_where_the_server_does(
    server: SpeechServer, how: str, name: str
) -> None:
    """The engine openai_http passes every check on a deterministic server."""
    settings = served_settings(server.url, deterministic=True, **SERVED[how])
    checks = engine_contract(lambda: OpenAIHttpEngine(settings), clones=_SPEAKERS)
    next(check for check in checks if check.name == name)()


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("noise", [0.0, 1.0], ids=["deterministic", "noisy"])
def test_sherpa_onnx_keeps_the_contract(tiny: Path, noise: float, name: str) -> None:
    """The real library, on a model that is built here, passes every check."""
    settings = tiny_model.settings(tiny, noise=noise)
    checks = engine_contract(lambda: SherpaOnnxEngine(settings))
    next(check for check in checks if check.name == name)()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for sherpa-onnx."""
    return tiny_model.build(tmp_path_factory.mktemp("tiny"))


class _ToneEngine:
    """A correct engine with a state: each segment is a tone that the history so far decides."""

    name = "tone"
    version = "tone 1"

    def __init__(self) -> None:
        self.spoken_before = 0
        self.loaded = False

    def capabilities(self) -> Capabilities:
        return Capabilities(languages=("en",), sample_rate_hz=8000)

    def load(self, device: str) -> None:
        self.loaded = True

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        if reference.name != "default" or reference.prompt_audio is not None:
            raise RequestError("voice", "only default")
        return EngineVoice(reference, {"history": []})

    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        if lexicon is not None:
            if any(match.entry.kind != "text" for match in lexicon.matches(text)):
                raise RequestError("lexicon", "tone takes text only")
            text = Overrides(text, lexicon).text
        if not any(char.isalnum() for char in text):
            raise UnspeakableTextError("nothing to speak")
        return [Segment(part.strip() + ".") for part in text.split(".") if part.strip()]

    def speak(
        self,
        segment: Segment,
        voice: EngineVoice,
        state: EngineState | None,
        options: SpeakOptions,
    ) -> Spoken:
        if options.speed != 1.0:
            raise RequestError("speed", "tone has one speed")
        self.spoken_before += 1
        history = [*(state or {}).get("history", []), len(segment.text)]
        time_s = np.arange(400 * len(segment.text)) / 8000
        pitch_hz = 100 + sum(history) % 200 + options.seed
        samples = (0.5 * np.sin(2 * np.pi * pitch_hz * time_s)).astype(np.float32)
        return Spoken(samples, {"history": history})

    def fingerprint(self) -> str:
        return "tone-1"

    def close(self) -> None:
        self.loaded = False


class _NamelessEngine(_ToneEngine):
    name = ""


class _WrongRateEngine(_ToneEngine):
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), sample_rate_hz=500)


class _MuteEngine(_ToneEngine):
    def speak(self, *args: Any) -> Spoken:
        spoken = super().speak(*args)
        return replace(spoken, samples=np.zeros_like(spoken.samples))


class _ClippingEngine(_ToneEngine):
    def speak(self, *args: Any) -> Spoken:
        spoken = super().speak(*args)
        return replace(spoken, samples=spoken.samples * np.float32(3))


class _RandomEngine(_ToneEngine):
    def speak(self, *args: Any) -> Spoken:
        spoken = super().speak(*args)
        return replace(spoken, samples=spoken.samples * np.float32(random.uniform(0.5, 1)))


class _RememberingEngine(_ToneEngine):
    """Its sound depends on how many utterances its process has spoken."""

    def speak(self, *args: Any) -> Spoken:
        spoken = super().speak(*args)
        return replace(spoken, samples=spoken.samples / np.float32(self.spoken_before))


class _ForgetfulEngine(_ToneEngine):
    """It keeps in the process what belongs into the state."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, Any] | None = None

    def speak(
        self, segment: Segment, voice: EngineVoice, state: EngineState | None, options: SpeakOptions
    ) -> Spoken:
        spoken = super().speak(segment, voice, self.history if state else None, options)
        self.history = spoken.state
        return Spoken(spoken.samples, {"index": len((self.history or {})["history"])})


class _MutatingEngine(_ToneEngine):
    """It extends the state it was handed in place, as GLM-TTS does."""

    def speak(
        self, segment: Segment, voice: EngineVoice, state: EngineState | None, options: SpeakOptions
    ) -> Spoken:
        spoken = super().speak(segment, voice, state, options)
        if state is None:
            return spoken
        state["history"].append(len(segment.text))
        return Spoken(spoken.samples, state)


class _VoicePoisoningEngine(_ToneEngine):
    """It keeps its history in the encoded voice, so that one job changes the next."""

    def speak(
        self, segment: Segment, voice: EngineVoice, state: EngineState | None, options: SpeakOptions
    ) -> Spoken:
        spoken = super().speak(segment, voice, voice.payload, options)
        voice.payload["history"].append(len(segment.text))
        return Spoken(spoken.samples, state)


class _FatStateEngine(_ToneEngine):
    def speak(self, *args: Any) -> Spoken:
        return replace(super().speak(*args), state={"history": [0] * 50_000})


class _BinaryStateEngine(_ToneEngine):
    def speak(self, *args: Any) -> Spoken:
        return replace(super().speak(*args), state={"history": b"\0"})


class _ChattyEngine(_ToneEngine):
    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        return super().split(text if any(char.isalnum() for char in text) else "nothing.", lexicon)


class _DeafEngine(_ToneEngine):
    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        return super().split(text)


class _RudeEngine(_ToneEngine):
    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        try:
            return super().split(text, lexicon)
        except RequestError as error:
            raise RequestError("text", error.reason) from error


class _UntypedEngine(_ToneEngine):
    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        try:
            return super().split(text, lexicon)
        except UnspeakableTextError as error:
            raise EngineError(str(error)) from error


class _AnyVoiceEngine(_ToneEngine):
    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        return EngineVoice(reference, {"history": []})


class _DriftingFingerprintEngine(_ToneEngine):
    def fingerprint(self) -> str:
        return f"tone-{self.spoken_before}"


class _HastyEngine(_ToneEngine):
    """Speaks as fast as ever, whatever it claims."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), features=frozenset({"speed"}))

    def speak(
        self, segment: Segment, voice: EngineVoice, state: EngineState | None, options: SpeakOptions
    ) -> Spoken:
        return super().speak(segment, voice, state, replace(options, speed=1.0))


class _EasyEngine(_ToneEngine):
    """Takes any speed, and speaks at one."""

    def speak(
        self, segment: Segment, voice: EngineVoice, state: EngineState | None, options: SpeakOptions
    ) -> Spoken:
        return super().speak(segment, voice, state, replace(options, speed=1.0))


class _MixedUpEngine(_ToneEngine):
    """Answers with what was announced, whatever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.announced: list[Segment] = []

    def expect(
        self, segments: Sequence[Segment], voice: EngineVoice, options: SpeakOptions
    ) -> None:
        self.announced = list(segments)

    def speak(self, segment: Segment, *args: Any) -> Spoken:
        if self.announced:
            segment = self.announced.pop(0)
        return super().speak(segment, *args)


class _BrokenByCloseEngine(_ToneEngine):
    """What it works with is gone in the middle of its work."""

    def speak(self, *args: Any) -> Spoken:
        if not self.loaded:
            raise AttributeError("NoneType has no attribute 'generate'")
        return super().speak(*args)


class _LeavingEngine(_ToneEngine):
    """Its helper stays when it goes."""

    def load(self, device: str) -> None:
        self.helper = subprocess.Popen(["sleep", "60"])
        LEFT_BEHIND.append(self.helper)


LEFT_BEHIND: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def _nobody_is_left_behind() -> Iterator[None]:
    yield
    while LEFT_BEHIND:
        process = LEFT_BEHIND.pop()
        process.kill()
        process.wait()


class _CloseOnceEngine(_ToneEngine):
    def close(self) -> None:
        if not self.loaded:
            raise EngineError("not loaded")
        super().close()


@pytest.mark.parametrize("check", engine_contract(_ToneEngine), ids=str)
def test_a_correct_engine_with_state_keeps_the_contract(check: ContractCheck) -> None:
    """An engine whose sound depends on its state alone passes every check."""
    check()


class _CloningEngine(_ToneEngine):
    """Claims to imitate, and has one voice for all."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), features=frozenset({"clone"}))

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        if reference.prompt_audio is not None:
            return EngineVoice(reference)
        return super().encode_voice(reference)


class _MoodyEngine(_ToneEngine):
    """Claims an emotion, of no recording."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), features=frozenset({"emotion"}))


class _BoastingEngine(_ToneEngine):
    """Names a voice that it does not have."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), voices=("default", "caruso"))


class _DefaultlessEngine(_ToneEngine):
    """Keeps the voice quiet that every engine has."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), voices=("high",))

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        is_high = reference.name == "high"
        return super().encode_voice(VoiceReference() if is_high else reference)


class _CredulousEngine(_CloningEngine):
    """Takes whatever it is handed for a voice."""

    def pack_voice(self, voice: EngineVoice) -> bytes:
        return b"voice"

    def unpack_voice(self, reference: VoiceReference, data: bytes) -> EngineVoice:
        return EngineVoice(reference)


BROKEN_ENGINES: list[tuple[type[_ToneEngine], set[str]]] = [
    (_NamelessEngine, {"is_an_engine"}),
    (_WrongRateEngine, {"capabilities_are_honest"}),
    (_MuteEngine, {"capabilities_are_honest"}),
    (_ClippingEngine, {"capabilities_are_honest"}),
    (_MoodyEngine, {"capabilities_are_honest"}),
    (_BoastingEngine, {"capabilities_are_honest"}),
    (_DefaultlessEngine, {"capabilities_are_honest"}),
    (_RandomEngine, {"same_request_gives_same_samples"}),
    (_RememberingEngine, {"same_request_gives_same_samples", "order_does_not_matter"}),
    (_ForgetfulEngine, {"order_does_not_matter", "resume_at_every_segment_equals_the_whole"}),
    (_MutatingEngine, {"arguments_are_not_changed"}),
    (_VoicePoisoningEngine, {"arguments_are_not_changed"}),
    (_FatStateEngine, {"state_is_small_json"}),
    (_BinaryStateEngine, {"state_is_small_json"}),
    (_ChattyEngine, {"unspeakable_text_is_typed"}),
    (_UntypedEngine, {"unspeakable_text_is_typed"}),
    (_AnyVoiceEngine, {"unknown_voice_is_refused"}),
    (_CloningEngine, {"reference_audio_decides_the_voice"}),
    (_CredulousEngine, {"reference_audio_decides_the_voice"}),
    (_DeafEngine, {"lexicons_are_obeyed_or_refused"}),
    (_RudeEngine, {"lexicons_are_obeyed_or_refused"}),
    (_HastyEngine, {"speed_is_obeyed_or_refused"}),
    (_EasyEngine, {"speed_is_obeyed_or_refused"}),
    (_MixedUpEngine, {"expected_segments_sound_the_same"}),
    (_BrokenByCloseEngine, {"close_ends_what_is_under_way"}),
    (_LeavingEngine, {"close_ends_what_is_under_way"}),
    (_DriftingFingerprintEngine, {"fingerprint_is_stable"}),
    (_CloseOnceEngine, {"close_may_be_called_twice"}),
]


@pytest.mark.parametrize(
    ("engine_class", "guilty"),
    BROKEN_ENGINES,
    ids=[engine_class.__name__ for engine_class, _ in BROKEN_ENGINES],
)
def test_the_suite_catches_a_broken_engine(
    engine_class: type[_ToneEngine], guilty: set[str]
) -> None:
    """Each way of breaking the contract is reported by the check that is about it."""
    checks = {check.name: check for check in engine_contract(engine_class, clones=_SPEAKERS)}

    for name in guilty:
        with pytest.raises(ContractViolation):
            checks[name]()


def test_the_suite_asks_for_a_text_in_an_unknown_language() -> None:
    """A language without a sample text is demanded by name and can be handed in."""

    class Swahili(_ToneEngine):
        def capabilities(self) -> Capabilities:
            return replace(super().capabilities(), languages=("sw-KE",))

    def honest(texts: dict[str, str] | None) -> ContractCheck:
        checks = engine_contract(Swahili, texts=texts)
        return next(check for check in checks if check.name == "capabilities_are_honest")

    with pytest.raises(ContractViolation, match="sw"):
        honest(None)()
    honest({"sw": "Habari ya asubuhi. Karibu sana."})()


def test_the_classes_used_here_are_engines() -> None:
    """The engines of this module fulfil the Protocol for the type checker too."""
    engines: list[Engine] = [_ToneEngine(), EspeakEngine(), _paced()]

    assert [engine.name for engine in engines] == ["tone", "espeak", "paced"]
