"""Checks of the engine contract about what an engine is and says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tts_tasks.errors import RequestError
from tts_tasks.voices.names import DEFAULT_VOICE
from tts_workers.engines.base import Engine, VoiceReference
from tts_workers.testing.suite import OPTIONS, ContractViolation, check_samples, demand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_workers.testing.suite import Suite

_FEATURES: Final = frozenset({"clone", "emotion", "phoneme", "stream", "speed"})


def is_an_engine(suite: Suite) -> None:
    """Have all methods of the Protocol, a name without spaces, and a version."""
    engine = suite.factory()
    try:
        demand(isinstance(engine, Engine), "a member of the Engine Protocol is missing")
        demand(bool(engine.name) and not engine.name.split()[1:], f"bad name {engine.name!r}")
        engine.load(suite.device)
        demand(bool(engine.version), "the version is empty")
    finally:
        engine.close()


def capabilities_are_honest(suite: Suite) -> None:
    """Speak each advertised language, audibly, as mono float32 within [-1, 1].

    An emotion is that of a recording: who has ``emotion`` has ``clone``. Voices that it names are
    there, and ``default`` is among them.
    """
    with suite.engine() as engine:
        capabilities = engine.capabilities()
        demand(capabilities.sample_rate_hz > 0, "the sample rate is not positive")
        unknown = capabilities.features - _FEATURES
        demand(not unknown, f"unknown features {sorted(unknown)}; known: {sorted(_FEATURES)}")
        imitates = "clone" in capabilities.features or "emotion" not in capabilities.features
        demand(imitates, "the feature 'emotion' is nothing without 'clone'")
        _check_voices(engine, capabilities.voices)
        for text in suite.texts_for(engine):
            letters = sum(char.isalnum() for char in text)
            spoken = suite.whole(engine, text, OPTIONS)
            for part in spoken:
                check_samples(part)
            seconds = sum(part.samples.size for part in spoken) / capabilities.sample_rate_hz
            # From 2 to 50 letters a second: a wrong sample rate or a cut text falls outside.
            plausible = letters / 50 <= seconds <= letters / 2
            demand(plausible, f"{letters} letters took {seconds:.2f} s of audio")


def _check_voices(engine: Engine, names: Sequence[str]) -> None:
    demand(not names or DEFAULT_VOICE in names, f"{DEFAULT_VOICE!r} is missing among its voices")
    for name in names:
        try:
            engine.encode_voice(VoiceReference(name))
        except RequestError as error:
            raise ContractViolation(f"it names the voice {name!r}, and {error}") from error


def fingerprint_is_stable(suite: Suite) -> None:
    """Have the same, non-empty fingerprint in each engine, before and after speaking."""
    with suite.engine() as engine:
        before = engine.fingerprint()
        demand(bool(before), "the fingerprint is empty")
        suite.whole(engine, suite.texts_for(engine)[0], OPTIONS)
        demand(engine.fingerprint() == before, "speaking changed the fingerprint")
    with suite.engine() as other:
        demand(other.fingerprint() == before, "two engines have two fingerprints")


def close_may_be_called_twice(suite: Suite) -> None:
    """Close without an error when loaded, when closed already, and when never loaded."""
    engine = suite.factory()
    engine.load(suite.device)
    engine.close()
    engine.close()
    suite.factory().close()
