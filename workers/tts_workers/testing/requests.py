"""Checks of the engine contract about what is asked for: texts, voices, lexicons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tts_tasks.errors import EngineError, RequestError, UnspeakableTextError
from tts_tasks.lexicons import Lexicon, entry, is_han
from tts_workers.engines.base import PacksVoices, VoiceReference
from tts_workers.testing.suite import (
    OPTIONS,
    ContractViolation,
    check_samples,
    demand,
    demand_same,
)

if TYPE_CHECKING:
    from tts_tasks.lexicons import Kind
    from tts_workers.engines.base import Engine, EngineVoice
    from tts_workers.testing.suite import Suite

UNSPEAKABLE_TEXTS: Final = ("", "   ", "。！？……", "\u200b\ufeff", "🎉🎉")


def unspeakable_text_is_typed(suite: Suite) -> None:
    """Refuse a text without anything to speak with `UnspeakableTextError`, then goes on."""
    with suite.engine() as engine:
        for text in UNSPEAKABLE_TEXTS:
            try:
                segments = engine.split(text)
            except UnspeakableTextError:
                continue
            raise ContractViolation(f"split({text!r}) returned {segments} and raised nothing")
        suite.whole(engine, suite.texts_for(engine)[0], OPTIONS)


def unknown_voice_is_refused(suite: Suite) -> None:
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


def reference_audio_decides_the_voice(suite: Suite) -> None:
    """Imitate two speakers in two ways, each the same from a packed voice as from its audio."""
    with suite.engine() as engine:
        if "clone" not in engine.capabilities().features:
            return
        demand(suite.clones is not None, "engine_contract(clones=...) needs two references")
        segment = engine.split(suite.texts_for(engine)[0])[0]
        heard = []
        for reference in suite.clones or ():
            voice = engine.encode_voice(reference)
            heard.append(engine.speak(segment, voice, None, OPTIONS))
            check_samples(heard[-1])
            if isinstance(engine, PacksVoices):
                unpacked = engine.unpack_voice(reference, engine.pack_voice(voice))
                again = engine.speak(segment, unpacked, None, OPTIONS)
                demand_same(heard[-1:], [again], "with a voice that was packed")
                _check_packed(engine, reference)
        same = np.array_equal(heard[0].samples, heard[1].samples)
        demand(not same, "two references sound the same")


def _check_packed(engine: PacksVoices, reference: VoiceReference) -> None:
    for data in (b"", b"\x00" * 7, b"no voice at all"):
        try:
            engine.unpack_voice(reference, data)
        except EngineError:
            continue
        raise ContractViolation(f"unpack_voice took {data!r} for a voice")


def lexicons_are_obeyed_or_refused(suite: Suite) -> None:
    """Say what a lexicon says, or refuse with `RequestError`; ignore phrases that are not there."""
    with suite.engine() as engine:
        for text in suite.texts_for(engine):
            plain = engine.split(text)
            absent = Lexicon((entry("qqxzvkjw", "text", "x"),))
            demand(engine.split(text, absent) == plain, "a phrase that is not there changed it")
            phrase = text[:2] if is_han(text[0]) else text.split()[0]
            rest = text.removeprefix(phrase)
            words = Lexicon((entry(phrase, "text", f"{phrase} {phrase}"),))
            replaced = engine.split(f"{phrase} {phrase}{rest}")
            demand(engine.split(text, words) == replaced, f"{phrase!r} was not replaced")
            _check_sounds(engine, suite.reference, text, phrase)


def _check_sounds(engine: Engine, reference: VoiceReference, text: str, phrase: str) -> None:
    sounds: list[tuple[Kind, str]] = [("ipa", "heˈləʊ")]
    if is_han(phrase[0]):
        sounds.append(("pinyin", "wu3 _"))
    for kind, said in sounds:
        try:
            segments = engine.split(text, Lexicon((entry(phrase, kind, said),)))
        except RequestError as error:
            demand(error.field == "lexicon", f"the field of the refusal is {error.field!r}")
            continue
        demand(segments != engine.split(text), f"the {kind} of {phrase!r} changed nothing")
        check_samples(engine.speak(segments[0], engine.encode_voice(reference), None, OPTIONS))
