"""The engine contract suite: public, for whoever writes an engine.

With pytest::

    @pytest.mark.parametrize("check", engine_contract(MyEngine), ids=str)
    def test_my_engine_keeps_the_contract(check: ContractCheck) -> None:
        check()

Each check makes its own engines with the factory, loads and closes them. A broken promise raises
`ContractViolation`, an AssertionError. What is promised: `tts_workers.engines.base.Engine`.
"""

from __future__ import annotations

import copy
import json
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from tts_tasks.errors import EngineError, RequestError, TTSError, UnspeakableTextError
from tts_tasks.lexicons import Lexicon, entry, is_han
from tts_workers.engines.base import (
    Engine,
    EngineState,
    EngineVoice,
    PacksVoices,
    SpeakOptions,
    Spoken,
    VoiceReference,
)
from tts_workers.testing_checks import (
    ContractViolation,
    close_ends_what_is_under_way,
    expected_segments_sound_the_same,
    speed_is_obeyed_or_refused,
)
from tts_workers.testing_checks import demand as _demand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tts_tasks.lexicons import Kind
    from tts_workers.engines.base import Segment

__all__ = [
    "MAX_STATE_BYTES",
    "SAMPLE_TEXTS",
    "UNSPEAKABLE_TEXTS",
    "ContractCheck",
    "ContractViolation",
    "engine_contract",
]

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
UNSPEAKABLE_TEXTS: Final = ("", "   ", "。！？……", "\u200b\ufeff", "🎉🎉")
#: Tens of kilobytes are a state; more is audio or a cache in disguise.
MAX_STATE_BYTES: Final = 64 * 1024
_FEATURES: Final = frozenset({"clone", "emotion", "phoneme", "stream", "speed"})
_SILENCE_RMS: Final = 0.001  # -60 dBFS


@dataclass(frozen=True, slots=True)
class ContractCheck:
    """One promise of the contract as a callable; ``str()`` is its name."""

    name: str
    _suite: _Suite = field(repr=False)
    _check: Callable[[_Suite], None] = field(repr=False)

    def __call__(self) -> None:
        """Check the promise; raises `ContractViolation`, or what the engine raised by mistake."""
        try:
            self._check(self._suite)
        except TTSError as error:
            raise ContractViolation(f"{type(error).__name__} was not due: {error}") from error

    def __str__(self) -> str:
        return self.name


def engine_contract(
    factory: Callable[[], Engine],
    *,
    device: str = "cpu",
    texts: dict[str, str] | None = None,
    voice: VoiceReference | None = None,
    clones: tuple[VoiceReference, VoiceReference] | None = None,
) -> list[ContractCheck]:
    """Return the checks that an engine made by ``factory`` must pass.

    ``texts`` maps a BCP 47 primary language to a text of at least two segments, for languages
    other than those of `SAMPLE_TEXTS`; ``voice`` is one that the engine has; ``clones`` are two
    references with audio of two speakers, for an engine that has the feature ``clone``.
    """
    known = {**SAMPLE_TEXTS, **(texts or {})}
    suite = _Suite(factory, device, known, voice or VoiceReference(), clones)
    return [ContractCheck(check.__name__, suite, check) for check in _CHECKS]


@dataclass(frozen=True, slots=True)
class _Suite:
    factory: Callable[[], Engine]
    device: str
    texts: dict[str, str]
    reference: VoiceReference
    clones: tuple[VoiceReference, VoiceReference] | None = None

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        engine = self.factory()
        try:
            engine.load(self.device)
            yield engine
        finally:
            engine.close()

    def texts_for(self, engine: Engine) -> list[str]:
        languages = [tag.partition("-")[0].lower() for tag in engine.capabilities().languages]
        _demand(bool(languages), "capabilities().languages is empty")
        missing = [language for language in languages if language not in self.texts]
        _demand(not missing, f"engine_contract(texts=...) needs a text for {missing}")
        return [self.texts[language] for language in languages]

    def whole(self, engine: Engine, text: str, options: SpeakOptions) -> list[Spoken]:
        return self.go_on(engine, engine.split(text), None, options)

    def go_on(
        self,
        engine: Engine,
        segments: Sequence[Segment],
        state: EngineState | None,
        options: SpeakOptions,
    ) -> list[Spoken]:
        voice = engine.encode_voice(self.reference)
        spoken: list[Spoken] = []
        for segment in segments:
            spoken.append(engine.speak(segment, voice, state, options))
            state = spoken[-1].state
        return spoken


_OPTIONS: Final = SpeakOptions(seed=7)


def _demand_same(expected: Sequence[Spoken], actual: Sequence[Spoken], when: str) -> None:
    _demand(len(expected) == len(actual), f"{when}: the number of segments differs")
    for index, (first, second) in enumerate(zip(expected, actual, strict=True)):
        same = np.array_equal(first.samples, second.samples)
        _demand(same, f"{when}: the samples of segment {index} differ")
        _demand(first.state == second.state, f"{when}: the state after segment {index} differs")


def is_an_engine(suite: _Suite) -> None:
    """Have all methods of the Protocol, a name without spaces, and a version."""
    engine = suite.factory()
    try:
        _demand(isinstance(engine, Engine), "a member of the Engine Protocol is missing")
        _demand(bool(engine.name) and not engine.name.split()[1:], f"bad name {engine.name!r}")
        engine.load(suite.device)
        _demand(bool(engine.version), "the version is empty")
    finally:
        engine.close()


def capabilities_are_honest(suite: _Suite) -> None:
    """Speak each advertised language, audibly, as mono float32 within [-1, 1]."""
    with suite.engine() as engine:
        capabilities = engine.capabilities()
        _demand(capabilities.sample_rate_hz > 0, "the sample rate is not positive")
        unknown = capabilities.features - _FEATURES
        _demand(not unknown, f"unknown features {sorted(unknown)}; known: {sorted(_FEATURES)}")
        for text in suite.texts_for(engine):
            letters = sum(char.isalnum() for char in text)
            spoken = suite.whole(engine, text, _OPTIONS)
            for part in spoken:
                _check_samples(part)
            seconds = sum(part.samples.size for part in spoken) / capabilities.sample_rate_hz
            # From 2 to 50 letters a second: a wrong sample rate or a cut text falls outside.
            plausible = letters / 50 <= seconds <= letters / 2
            _demand(plausible, f"{letters} letters took {seconds:.2f} s of audio")


def _check_samples(part: Spoken) -> None:
    samples = part.samples
    _demand(samples.ndim == 1, f"samples have the shape {samples.shape}, not (n,)")
    _demand(samples.dtype == np.float32, f"samples are {samples.dtype}, not float32")
    _demand(bool(np.isfinite(samples).all()), "samples hold NaN or infinity")
    peak = float(np.abs(samples).max(initial=0.0))
    _demand(peak <= 1.0, f"samples leave [-1, 1]: the peak is {peak}")
    loudness = math.sqrt(float(np.mean(np.square(samples, dtype=np.float64)))) if peak else 0.0
    _demand(loudness > _SILENCE_RMS, "a segment is silent")


def same_request_gives_same_samples(suite: _Suite) -> None:
    """Give the same bits for the same request, in one engine and in another one."""
    with suite.engine() as engine:
        if not engine.capabilities().deterministic:
            return
        texts = suite.texts_for(engine)
        expected = [suite.whole(engine, text, _OPTIONS) for text in texts]
        for text, first in zip(texts, expected, strict=True):
            _demand_same(first, suite.whole(engine, text, _OPTIONS), "spoken again")
    with suite.engine() as other:
        for text, first in zip(texts, expected, strict=True):
            _demand_same(first, suite.whole(other, text, _OPTIONS), "spoken by a new engine")


def order_does_not_matter(suite: _Suite) -> None:
    """Give the same bits whatever was spoken before, and between two segments of a job."""
    with suite.engine() as engine:
        if not engine.capabilities().deterministic:
            return
        texts = suite.texts_for(engine)
        text = texts[0]
        expected = suite.whole(engine, text, _OPTIONS)
    with suite.engine() as engine:
        for other in reversed(texts):
            suite.whole(engine, other, SpeakOptions(seed=99))
        voice = engine.encode_voice(suite.reference)
        state: EngineState | None = None
        actual: list[Spoken] = []
        for segment in engine.split(text):
            actual.append(engine.speak(segment, voice, state, _OPTIONS))
            state = actual[-1].state
            suite.go_on(engine, engine.split(texts[-1])[:1], None, SpeakOptions(seed=3))
        _demand_same(expected, actual, "with other jobs in between")


def resume_at_every_segment_equals_the_whole(suite: _Suite) -> None:
    """Go on in a new engine from the stored state exactly as the first one would have."""
    with suite.engine() as engine:
        if not engine.capabilities().deterministic:
            return
        text = suite.texts_for(engine)[0]
        segments = engine.split(text)
        _demand(len(segments) > 1, "the text is one segment only: resuming cannot be checked")
        expected = suite.whole(engine, text, _OPTIONS)
    for index in range(1, len(segments)):
        stored = json.loads(json.dumps(expected[index - 1].state))
        with suite.engine() as resumed:
            _demand(resumed.split(text) == segments, "another engine splits the text otherwise")
            actual = suite.go_on(resumed, segments[index:], stored, _OPTIONS)
        _demand_same(expected[index:], actual, f"resumed at segment {index}")


def state_is_small_json(suite: _Suite) -> None:
    """Return None or a JSON object of at most 64 KiB as the state, unchanged by a round trip."""
    with suite.engine() as engine:
        for text in suite.texts_for(engine):
            for part in suite.whole(engine, text, _OPTIONS):
                _check_state(part.state)


def _check_state(state: EngineState | None) -> None:
    try:
        encoded = json.dumps(state, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContractViolation(f"the state is not JSON: {error}") from error
    _demand(json.loads(encoded) == state, "the state changes when it goes through JSON")
    _demand(state is None or isinstance(state, dict), "the state is neither None nor an object")
    _demand(len(encoded) <= MAX_STATE_BYTES, f"the state has {len(encoded)} bytes")


def arguments_are_not_changed(suite: _Suite) -> None:
    """Leave the states and the voice it was handed, and the states it returned, as they were."""
    with suite.engine() as engine:
        segments = engine.split(suite.texts_for(engine)[0])
        voice = engine.encode_voice(suite.reference)
        runs: list[list[Spoken]] = []
        for _ in range(2):
            state: EngineState | None = None
            runs.append([])
            snapshots: list[EngineState | None] = []
            for segment in segments:
                spoken = engine.speak(segment, voice, state, _OPTIONS)
                state = spoken.state
                runs[-1].append(spoken)
                snapshots.append(copy.deepcopy(state))
            kept = [spoken.state for spoken in runs[-1]] == snapshots
            _demand(kept, "a state was changed after it had been returned")
        if engine.capabilities().deterministic:
            _demand_same(runs[0], runs[1], "with the same encoded voice")


def unspeakable_text_is_typed(suite: _Suite) -> None:
    """Refuse a text without anything to speak with `UnspeakableTextError`, then goes on."""
    with suite.engine() as engine:
        for text in UNSPEAKABLE_TEXTS:
            try:
                segments = engine.split(text)
            except UnspeakableTextError:
                continue
            raise ContractViolation(f"split({text!r}) returned {segments} and raised nothing")
        suite.whole(engine, suite.texts_for(engine)[0], _OPTIONS)


def unknown_voice_is_refused(suite: _Suite) -> None:
    """Refuse an unknown voice, and reference audio unless it can clone, with `RequestError`."""
    references = [VoiceReference(name="no-such-voice-in-any-engine")]
    with suite.engine() as engine:
        if "clone" not in engine.capabilities().features:
            references.append(VoiceReference(prompt_text="hello", prompt_audio=b"RIFF"))
        for reference in references:
            try:
                voice: EngineVoice = engine.encode_voice(reference)
            except RequestError:
                continue
            raise ContractViolation(f"{voice.reference.name!r} was accepted as a voice")


def lexicons_are_obeyed_or_refused(suite: _Suite) -> None:
    """Say what a lexicon says, or refuse with `RequestError`; ignore phrases that are not there."""
    with suite.engine() as engine:
        for text in suite.texts_for(engine):
            plain = engine.split(text)
            absent = Lexicon((entry("qqxzvkjw", "text", "x"),))
            _demand(engine.split(text, absent) == plain, "a phrase that is not there changed it")
            phrase = text[:2] if is_han(text[0]) else text.split()[0]
            rest = text.removeprefix(phrase)
            words = Lexicon((entry(phrase, "text", f"{phrase} {phrase}"),))
            replaced = engine.split(f"{phrase} {phrase}{rest}")
            _demand(engine.split(text, words) == replaced, f"{phrase!r} was not replaced")
            _check_sounds(engine, suite.reference, text, phrase)


def _check_sounds(engine: Engine, reference: VoiceReference, text: str, phrase: str) -> None:
    sounds: list[tuple[Kind, str]] = [("ipa", "heˈləʊ")]
    if is_han(phrase[0]):
        sounds.append(("pinyin", "wu3 _"))
    for kind, said in sounds:
        try:
            segments = engine.split(text, Lexicon((entry(phrase, kind, said),)))
        except RequestError as error:
            _demand(error.field == "lexicon", f"the field of the refusal is {error.field!r}")
            continue
        _demand(segments != engine.split(text), f"the {kind} of {phrase!r} changed nothing")
        _check_samples(engine.speak(segments[0], engine.encode_voice(reference), None, _OPTIONS))


def reference_audio_decides_the_voice(suite: _Suite) -> None:
    """Imitate two speakers in two ways, each the same from a packed voice as from its audio."""
    with suite.engine() as engine:
        if "clone" not in engine.capabilities().features:
            return
        _demand(suite.clones is not None, "engine_contract(clones=...) needs two references")
        segment = engine.split(suite.texts_for(engine)[0])[0]
        heard = []
        for reference in suite.clones or ():
            voice = engine.encode_voice(reference)
            heard.append(engine.speak(segment, voice, None, _OPTIONS))
            _check_samples(heard[-1])
            if isinstance(engine, PacksVoices):
                unpacked = engine.unpack_voice(reference, engine.pack_voice(voice))
                again = engine.speak(segment, unpacked, None, _OPTIONS)
                _demand_same(heard[-1:], [again], "with a voice that was packed")
                _check_packed(engine, reference)
        same = np.array_equal(heard[0].samples, heard[1].samples)
        _demand(not same, "two references sound the same")


def _check_packed(engine: PacksVoices, reference: VoiceReference) -> None:
    for data in (b"", b"\x00" * 7, b"no voice at all"):
        try:
            engine.unpack_voice(reference, data)
        except EngineError:
            continue
        raise ContractViolation(f"unpack_voice took {data!r} for a voice")


def fingerprint_is_stable(suite: _Suite) -> None:
    """Have the same, non-empty fingerprint in each engine, before and after speaking."""
    with suite.engine() as engine:
        before = engine.fingerprint()
        _demand(bool(before), "the fingerprint is empty")
        suite.whole(engine, suite.texts_for(engine)[0], _OPTIONS)
        _demand(engine.fingerprint() == before, "speaking changed the fingerprint")
    with suite.engine() as other:
        _demand(other.fingerprint() == before, "two engines have two fingerprints")


def close_may_be_called_twice(suite: _Suite) -> None:
    """Close without an error when loaded, when closed already, and when never loaded."""
    engine = suite.factory()
    engine.load(suite.device)
    engine.close()
    engine.close()
    suite.factory().close()


_CHECKS: Final[tuple[Callable[[_Suite], None], ...]] = (
    is_an_engine,
    capabilities_are_honest,
    same_request_gives_same_samples,
    order_does_not_matter,
    resume_at_every_segment_equals_the_whole,
    state_is_small_json,
    arguments_are_not_changed,
    unspeakable_text_is_typed,
    unknown_voice_is_refused,
    reference_audio_decides_the_voice,
    lexicons_are_obeyed_or_refused,
    speed_is_obeyed_or_refused,
    expected_segments_sound_the_same,
    fingerprint_is_stable,
    close_ends_what_is_under_way,
    close_may_be_called_twice,
)
