"""espeak-ng: the embedded engine. Real Mandarin, English and mixed speech on any CPU.

It is a formant synthesiser: intelligible, not beautiful, and about 700 times faster than real
time. It imitates no voice. The library (GPL-3) is loaded only in a helper process, which renders
each utterance in a fresh fork: docs/decisions/0003.
"""

from __future__ import annotations

import hashlib
import importlib.util
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tts_tasks.errors import EngineError, EngineLoadError, RequestError, UnspeakableTextError
from tts_workers.engines.base import (
    Capabilities,
    EngineState,
    EngineVoice,
    Segment,
    SpeakOptions,
    Spoken,
    VoiceReference,
)
from tts_workers.engines.espeak_clauses import has_han, within_limits
from tts_workers.engines.espeak_helper import MIN_RATE_WPM
from tts_workers.engines.espeak_polyphones import Polyphones
from tts_workers.engines.espeak_process import HelperProcess
from tts_workers.engines.espeak_pronunciation import for_library, has_pinyin, spell

if TYPE_CHECKING:
    from tts_tasks.lexicons import Lexicon

#: Names of espeak-ng's languages by our voice names. ``default`` chooses for each segment.
_LANGUAGES: Final = {"zh": "cmn", "en": "en", "en-gb": "en", "en-us": "en-us"}
_VARIANTS: Final = (
    *(f"f{number}" for number in range(1, 6)),
    *(f"m{number}" for number in range(1, 9)),
    "croak",
    "whisper",
    "whisperf",
)
_PLAIN_VOICES: Final = ("default", *_LANGUAGES)
_NATURAL_RATE_WPM: Final = 175
_SPEED_RANGE: Final = (0.25, 4.0)
#: Samples below this are silence: -60 dBFS.
_SILENCE_PEAK: Final = 0.001
#: Raise it when a change in this package changes the sound of an unchanged request.
_RENDERING_REVISION: Final = 3


@dataclass(frozen=True, slots=True)
class _EspeakVoice:
    """``language`` is espeak-ng's name, None to choose by the segment's script."""

    language: str | None
    variant: str | None

    def language_for(self, text: str) -> str:
        # The English inside a Mandarin sentence has a British accent, so whole sentences have too.
        return self.language or ("cmn" if has_han(text) or has_pinyin(text) else "en")


@dataclass(frozen=True, slots=True)
class _Library:
    """What the helper found installed."""

    version: str
    sample_rate_hz: int
    content_sha256: str


class EspeakEngine:
    """The espeak-ng engine; see `tts_workers.engines.base.Engine` for the contract.

    Voices are ``default`` (Mandarin for a segment with Chinese characters, else English), ``zh``,
    ``en``, ``en-gb``, ``en-us``, each also with a variant as in ``zh+f2``; a variant alone is a
    variant of ``default``. Mandarin words of several readings are looked up in a dictionary
    (`Polyphones`). There is no state between segments. ``seed`` drives the noise of breathy and
    whispered variants.

    A helper that gives no answer for ``timeout_s`` is killed: `EngineCrashedError`.
    """

    name: Final = "espeak"

    def __init__(self, timeout_s: float = 30.0) -> None:
        self._timeout_s = timeout_s
        self._helper: HelperProcess | None = None
        self._library: _Library | None = None
        self._polyphones: Polyphones | None = None

    @property
    def version(self) -> str:
        """The library's version, once loaded."""
        return f"espeak-ng {self._library.version if self._library else '(not loaded)'}"

    @property
    def helper_pid(self) -> int | None:
        """Process id of the helper, None while there is none."""
        return self._helper.pid if self._helper else None

    def capabilities(self) -> Capabilities:
        """Mandarin and English at the library's rate, at any speed from 0.25 to 4."""
        return Capabilities(
            languages=("zh", "en"),
            sample_rate_hz=self._loaded()[0].sample_rate_hz,
            features=frozenset({"speed", "phoneme"}),
            deterministic=True,
            voices=(
                *_PLAIN_VOICES,
                *_VARIANTS,
                *(f"{plain}+{variant}" for plain in _PLAIN_VOICES for variant in _VARIANTS),
            ),
        )

    def load(self, device: str) -> None:  # noqa: ARG002 - it runs on the CPU of any device
        """Start the helper and see that the library works; raises `EngineLoadError`."""
        for module in ("espeakng_loader", "pypinyin"):
            if importlib.util.find_spec(module) is None:
                raise EngineLoadError(
                    f"{module} is not installed: pip install 'tts-tasks[espeak]'"
                    " (espeak-ng is GPL-3, therefore optional)"
                )
        helper = self._helper = self._helper or HelperProcess()
        try:
            found, _ = helper.ask({"op": "describe"}, self._timeout_s)
            self._library = _Library(**found)
            self._polyphones = Polyphones(self._sounds_without_dictionary)
        except (EngineError, TypeError) as error:
            self.close()
            raise EngineLoadError(
                f"{error}. To repair: pip install --force-reinstall 'tts-tasks[espeak]'"
            ) from error

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        """Look a voice up by name; raises `RequestError` for others and for reference audio."""
        if reference.prompt_audio is not None:
            raise RequestError(
                "prompt_audio",
                "espeak cannot imitate a reference voice (it lacks the feature 'clone'): leave"
                " prompt_audio out, or send the request to a pool whose engine has 'clone'",
            )
        language, plus, variant = reference.name.partition("+")
        if not plus and language in _VARIANTS:
            language, variant = "default", language
        known = language == "default" or language in _LANGUAGES
        if not known or (plus and not variant) or (variant and variant not in _VARIANTS):
            raise RequestError(
                "voice",
                f"espeak has no voice {reference.name!r}; there is default,"
                f" {', '.join(_LANGUAGES)}, each also with one of the variants"
                f" {', '.join(_VARIANTS)} as in zh+f2",
            )
        return EngineVoice(reference, _EspeakVoice(_LANGUAGES.get(language), variant or None))

    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        """Normalise and cut a text with the shared front end.

        Of a lexicon it says pinyin, and IPA as far as English has the sounds; for others it
        raises `RequestError`.
        """
        from tts_workers.text import front_end

        return front_end(text, lexicon=lexicon, spell=spell)

    def speak(
        self,
        segment: Segment,
        voice: EngineVoice,
        state: EngineState | None,  # noqa: ARG002 - espeak remembers nothing
        options: SpeakOptions,
    ) -> Spoken:
        """Speak one segment as plain text: neither SSML nor espeak's own markup is obeyed.

        What a lexicon has put into it is.
        """
        utterance = self._utterance(segment, voice)
        slowest, fastest = _SPEED_RANGE
        if not slowest <= options.speed <= fastest:
            raise RequestError("speed", f"must be from {slowest:g} to {fastest:g}")
        rate_wpm = max(MIN_RATE_WPM, round(_NATURAL_RATE_WPM * options.speed))
        request = {
            "op": "speak",
            **utterance,
            "rate_wpm": rate_wpm,
            "stretch": min(1.0, _NATURAL_RATE_WPM * options.speed / MIN_RATE_WPM),
            "seed": options.seed,
        }
        _, pcm = self._running().ask(request, self._timeout_s)
        samples = np.frombuffer(pcm, np.int16).astype(np.float32) / np.float32(32768)
        if not samples.size or np.abs(samples).max() < _SILENCE_PEAK:
            raise UnspeakableTextError("espeak-ng knows no sound for any character of the segment")
        return Spoken(samples)

    def phonemes(self, segment: Segment, voice: EngineVoice, *, ipa: bool = False) -> str:
        """Return what would be spoken: espeak-ng's names of its sounds, or IPA."""
        return self._sounds(self._utterance(segment, voice), ipa=ipa)

    def is_mandarin(self, segment: Segment, voice: EngineVoice) -> bool:
        """Say whether a voice would speak a segment with the library's Mandarin."""
        payload = voice.payload
        return isinstance(payload, _EspeakVoice) and payload.language_for(segment.text) == "cmn"

    def fingerprint(self) -> str:
        """Hash of library, voice data, dictionary, text front end and this module's revision."""
        from tts_workers.text import FRONT_END_VERSION

        library, polyphones = self._loaded()
        parts = (
            self.name,
            self.version,
            library.content_sha256,
            polyphones.fingerprint(),
            str(_RENDERING_REVISION),
            str(FRONT_END_VERSION),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def close(self) -> None:
        """End the helper; the engine can be loaded again."""
        helper, self._helper, self._library = self._helper, None, None
        self._polyphones = None
        if helper is not None:
            helper.close()

    def _loaded(self) -> tuple[_Library, Polyphones]:
        if self._library is None or self._polyphones is None:
            raise EngineError("espeak is not loaded: call load() first")
        return self._library, self._polyphones

    def _running(self) -> HelperProcess:
        if self._helper is None:
            raise EngineError("espeak is closed: call load() first")
        return self._helper

    def _utterance(self, segment: Segment, voice: EngineVoice) -> dict[str, Any]:
        _, polyphones = self._loaded()
        if not isinstance(voice.payload, _EspeakVoice):
            raise EngineError("espeak was handed a voice that it did not encode itself")
        return _utterance(segment.text, voice.payload, polyphones)

    def _sounds(self, utterance: dict[str, Any], *, ipa: bool = False) -> str:
        request = {"op": "phonemes", **utterance, "ipa": ipa}
        header, _ = self._running().ask(request, self._timeout_s)
        return str(header["phonemes"])

    def _sounds_without_dictionary(self, text: str) -> str:
        return self._sounds(_utterance(text, _EspeakVoice("cmn", None), None))


def _utterance(text: str, voice: _EspeakVoice, polyphones: Polyphones | None) -> dict[str, Any]:
    """Return what the helper is to say, and with which of the library's voices."""
    text = _plain_text(text)
    if not any(char.isalnum() for char in text):
        raise UnspeakableTextError("the segment holds no letter and no digit")
    language, variant = voice.language_for(text), voice.variant
    mandarin = language == "cmn"
    if mandarin and polyphones is not None:
        text = polyphones.marked(text)
    said, has_phonemes = for_library(within_limits(text, mandarin=mandarin), mandarin=mandarin)
    utterance = {"text": said, "voice": f"{language}+{variant}" if variant else language}
    return {**utterance, "phonemes": True} if has_phonemes else utterance


def _plain_text(text: str) -> str:
    """Replace what espeak-ng could take for a command (it has some behind U+0001) by a space."""
    kept = []
    for char in text:
        category = unicodedata.category(char)
        if category != "Cf":  # invisible: joiners, direction marks, the byte order mark
            kept.append(" " if category in {"Cc", "Cs", "Co"} else char)
    return "".join(kept)
