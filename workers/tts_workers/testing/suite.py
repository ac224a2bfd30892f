"""What the checks of the engine contract share: engines, texts, and the verdict."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from tts_workers.engines.base import SpeakOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tts_workers.engines.base import Engine, EngineState, Segment, Spoken, VoiceReference

#: A text of several segments for each language that the suite knows how to ask for.
SAMPLE_TEXTS: Final[dict[str, str]] = {
    "zh": (
        "各位旅客请注意，开往上海虹桥的列车马上就要进站了。请您带好随身物品，到三号站台等候上车。"
        "重庆银行的行长重新回到了银行。今天的天气很好，我们一起去公园散步吧。"
        "祝您旅途愉快，下次再见。"
    ),
    "en": (
        "Passengers travelling to the airport, please go to platform three. "
        "The next train leaves in ten minutes, and it will stop at every station. "
        "Thank you for travelling with us. We wish you a pleasant journey."
    ),
}
#: What the checks speak with, unless it matters.
OPTIONS: Final = SpeakOptions(seed=7)
_SILENCE_RMS: Final = 0.001  # -60 dBFS


class ContractViolation(AssertionError):  # noqa: N818 - a verdict of a test, as AssertionError is
    """The engine does not do what the contract promises."""


def demand(kept: bool, otherwise: str) -> None:
    """Raise `ContractViolation` unless something holds."""
    if not kept:
        raise ContractViolation(otherwise)


@dataclass(frozen=True, slots=True)
class Suite:
    """What a check needs to know: how to make an engine, and what to have it say."""

    factory: Callable[[], Engine]
    device: str
    texts: dict[str, str]
    reference: VoiceReference
    clones: tuple[VoiceReference, VoiceReference] | None = None

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Return a loaded engine, to be closed at the end."""
        engine = self.factory()
        try:
            engine.load(self.device)
            yield engine
        finally:
            engine.close()

    def texts_for(self, engine: Engine) -> list[str]:
        """Return a text for each of the engine's languages."""
        languages = [tag.partition("-")[0].lower() for tag in engine.capabilities().languages]
        demand(bool(languages), "capabilities().languages is empty")
        missing = [language for language in languages if language not in self.texts]
        demand(not missing, f"engine_contract(texts=...) needs a text for {missing}")
        return [self.texts[language] for language in languages]

    def whole(self, engine: Engine, text: str, options: SpeakOptions) -> list[Spoken]:
        """Speak a whole text."""
        return self.go_on(engine, engine.split(text), None, options)

    def go_on(
        self,
        engine: Engine,
        segments: Sequence[Segment],
        state: EngineState | None,
        options: SpeakOptions,
    ) -> list[Spoken]:
        """Speak segments after a state, one after the other."""
        voice = engine.encode_voice(self.reference)
        spoken: list[Spoken] = []
        for segment in segments:
            spoken.append(engine.speak(segment, voice, state, options))
            state = spoken[-1].state
        return spoken


def demand_same(expected: Sequence[Spoken], actual: Sequence[Spoken], when: str) -> None:
    """Raise `ContractViolation` unless two runs are the same in samples and states."""
    demand(len(expected) == len(actual), f"{when}: the number of segments differs")
    for index, (first, second) in enumerate(zip(expected, actual, strict=True)):
        same = np.array_equal(first.samples, second.samples)
        demand(same, f"{when}: the samples of segment {index} differ")
        demand(first.state == second.state, f"{when}: the state after segment {index} differs")


def check_samples(part: Spoken) -> None:
    """Raise `ContractViolation` unless a segment is mono float32 in [-1, 1], and audible."""
    samples = part.samples
    demand(samples.ndim == 1, f"samples have the shape {samples.shape}, not (n,)")
    demand(samples.dtype == np.float32, f"samples are {samples.dtype}, not float32")
    demand(bool(np.isfinite(samples).all()), "samples hold NaN or infinity")
    peak = float(np.abs(samples).max(initial=0.0))
    demand(peak <= 1.0, f"samples leave [-1, 1]: the peak is {peak}")
    loudness = math.sqrt(float(np.mean(np.square(samples, dtype=np.float64)))) if peak else 0.0
    demand(loudness > _SILENCE_RMS, "a segment is silent")
