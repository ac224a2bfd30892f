"""The engines that ship keep the engine contract; the suite catches engines that do not."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

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
from tts_workers.engines.paced import PacedEngine, PacedSettings
from tts_workers.testing import ContractCheck, ContractViolation, engine_contract

if TYPE_CHECKING:
    from tts_workers.engines.base import Engine


def _paced() -> PacedEngine:
    return PacedEngine(PacedSettings(cost=0.005, load_s=0.01), inner=EspeakEngine())


@pytest.mark.parametrize("check", engine_contract(EspeakEngine), ids=str)
def test_espeak_keeps_the_contract(check: ContractCheck) -> None:
    """The espeak engine passes every check of the suite."""
    check()


@pytest.mark.parametrize("check", engine_contract(_paced), ids=str)
def test_paced_keeps_the_contract(check: ContractCheck) -> None:
    """The paced instrument passes every check of the suite while it takes its time."""
    check()


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

    def split(self, text: str) -> list[Segment]:
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
    def split(self, text: str) -> list[Segment]:
        return super().split(text if any(char.isalnum() for char in text) else "nothing.")


class _UntypedEngine(_ToneEngine):
    def split(self, text: str) -> list[Segment]:
        try:
            return super().split(text)
        except UnspeakableTextError as error:
            raise EngineError(str(error)) from error


class _AnyVoiceEngine(_ToneEngine):
    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        return EngineVoice(reference, {"history": []})


class _DriftingFingerprintEngine(_ToneEngine):
    def fingerprint(self) -> str:
        return f"tone-{self.spoken_before}"


class _CloseOnceEngine(_ToneEngine):
    def close(self) -> None:
        if not self.loaded:
            raise EngineError("not loaded")
        super().close()


@pytest.mark.parametrize("check", engine_contract(_ToneEngine), ids=str)
def test_a_correct_engine_with_state_keeps_the_contract(check: ContractCheck) -> None:
    """An engine whose sound depends on its state alone passes every check."""
    check()


BROKEN_ENGINES: list[tuple[type[_ToneEngine], set[str]]] = [
    (_NamelessEngine, {"is_an_engine"}),
    (_WrongRateEngine, {"capabilities_are_honest"}),
    (_MuteEngine, {"capabilities_are_honest"}),
    (_ClippingEngine, {"capabilities_are_honest"}),
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
    checks = {check.name: check for check in engine_contract(engine_class)}

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
