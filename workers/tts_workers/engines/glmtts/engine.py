"""The engine: GLM-TTS, zero-shot voices from short recordings, in Mandarin and English."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import random
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tts_tasks.errors import EngineError, EngineLoadError, RequestError
from tts_tasks.voices.names import DEFAULT_VOICE
from tts_workers.engines.base import Capabilities, EngineVoice, Spoken
from tts_workers.engines.glmtts import identity, normaliser_cache, voices
from tts_workers.engines.glmtts.checkout import Checkout
from tts_workers.engines.glmtts.failures import translated
from tts_workers.engines.glmtts.history import cache_of, state_of
from tts_workers.engines.glmtts.model import Model, load_model
from tts_workers.engines.glmtts.phonemes import spell
from tts_workers.engines.glmtts.prompt import Prompt, read_prompt
from tts_workers.engines.glmtts.settings import GlmTtsSettings, read_settings
from tts_workers.engines.glmtts.text_guard import without_phonemes
from tts_workers.engines.glmtts.voices import GlmVoice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tts_tasks.lexicons import Lexicon
    from tts_workers.engines.base import EngineState, Segment, SpeakOptions, VoiceReference

logger = logging.getLogger(__name__)

#: Raise it when this package makes other sound of the same model and text.
_RENDERING_REVISION: Final = 1
#: So many encoded voices are kept, of a few hundred kilobytes each.
_VOICES_KEPT: Final = 64
_EXAMPLES: Final = "examples/example_zh.jsonl"
_HOW_TO_NAME_A_VOICE: Final = (
    "set TTS_GLMTTS_VOICE_AUDIO to a recording of 3 to 10 s and TTS_GLMTTS_VOICE_TEXT to what is"
    " said in it"
)


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Model
    default_prompt: Prompt
    fingerprint: str
    version: str
    model_version: str


class GlmTtsEngine:
    """Speaks with GLM-TTS from a checkout; an `Engine` that also packs voices and frees memory.

    ``settings`` come from the environment unless given; raises `ConfigurationError` for bad ones.
    Determinism: the same bits on one kind of host and device; elsewhere the last digits of the
    samples, and so in rare cases a token, may be others.
    """

    name = "glmtts"

    def __init__(self, settings: GlmTtsSettings | None = None) -> None:
        self._settings = settings or read_settings()
        self._checkout = Checkout(self._settings)
        self._loaded: _Loaded | None = None
        self._voices: OrderedDict[str, GlmVoice] = OrderedDict()

    @property
    def version(self) -> str:
        """The checkout's commit or the hash of its sources, and the rate, as of the load."""
        return self._loaded.version if self._loaded else "not loaded"

    def capabilities(self) -> Capabilities:
        """Mandarin and English; it clones with the emotion, and says the pinyin of a lexicon.

        The model's version is a hash of the weights: that of the program is the engine's.
        """
        return Capabilities(
            languages=("zh", "en"),
            sample_rate_hz=self._settings.sample_rate_hz,
            features=frozenset({"clone", "emotion", "phoneme"}),
            model_version=self._loaded.model_version if self._loaded else "",
            voices=(DEFAULT_VOICE,),
        )

    def load(self, device: str) -> None:
        """Load the model from the checkout; raises `EngineLoadError` that says what is missing."""
        self.close()
        self._checkout.open()
        prompt = self._default_prompt()
        with self._checkout.inside():
            model = load_model(self._checkout, self._settings, device)
        sources = identity.hash_of_sources(self._checkout.home, self._checkout.sources())
        commit = identity.commit_of(self._checkout.home) or sources[:12]
        rate_hz = self._settings.sample_rate_hz
        self._loaded = _Loaded(
            model,
            prompt,
            self._fingerprint(sources, prompt),
            f"GLM-TTS {commit}, {rate_hz} Hz",
            f"GLM-TTS-{identity.hash_of_weights(self._checkout.checkpoint())[:12]}",
        )

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        """Encode reference audio, once for the same audio and text.

        Raises `RequestError` for what is unusable, and for a name without audio but ``default``.
        """
        loaded = self._need_loaded()
        if reference.prompt_audio is not None:
            prompt = read_prompt(reference.prompt_audio, reference.prompt_text)
        elif reference.name == DEFAULT_VOICE:
            prompt = loaded.default_prompt
        else:
            raise RequestError(
                "voice",
                f"glmtts has no voice {reference.name!r} of its own; there is default, and any"
                " voice with a recording",
            )
        key = _hash_of(prompt)
        if key not in self._voices:
            with self._running(loaded.model):
                encoded = voices.encode(loaded.model, prompt, self._settings.sample_rate_hz)
            self._keep(key, encoded)
        self._voices.move_to_end(key)
        return EngineVoice(reference, self._voices[key])

    def pack_voice(self, voice: EngineVoice) -> bytes:
        """Return an encoded voice as bytes, for other workers with this fingerprint."""
        return voices.pack(_payload_of(voice))

    def unpack_voice(self, reference: VoiceReference, data: bytes) -> EngineVoice:
        """Return the voice that another worker has packed; raises `EngineError` for other data."""
        return EngineVoice(reference, voices.unpack(data))

    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        """Normalise and cut a text with the shared front end.

        Of a lexicon it says other words and pinyin; for IPA it raises `RequestError`.
        """
        from tts_workers.text import front_end

        return front_end(without_phonemes(text), lexicon=lexicon, spell=spell)

    def speak(
        self,
        segment: Segment,
        voice: EngineVoice,
        state: EngineState | None,
        options: SpeakOptions,
    ) -> Spoken:
        """Speak one segment in the voice, after what the state remembers; see `Engine`."""
        model = self._need_loaded().model
        if options.speed != 1.0:
            raise RequestError("speed", "glmtts speaks at its own speed: leave it at 1.0")
        encoded = _payload_of(voice)
        torch = model.torch
        cache = cache_of(encoded, state, torch)
        with self._running(model), _randomness_kept():
            made, *_ = model.module.generate_long(
                frontend=model.frontend,
                text_frontend=model.text,
                llm=model.llm,
                flow=model.flow,
                text_info=["segment", segment.text],
                cache=cache,
                device=model.module.DEVICE,
                embedding=torch.from_numpy(encoded.speaker[None]).to(model.module.DEVICE),
                seed=options.seed,
                flow_prompt_token=torch.tensor([list(encoded.speech_tokens)], dtype=torch.int32).to(
                    model.module.DEVICE
                ),
                speech_feat=torch.from_numpy(encoded.mel[None]).to(model.module.DEVICE),
                local_llm_forward=model.speech_tokens,
                use_phoneme=self._settings.phoneme,
            )
            samples = _samples_of(made)
        return Spoken(samples, state_of(cache))

    def fingerprint(self) -> str:
        """Hash of sources, weights, rate, phoneme mode, default voice and text front end."""
        return self._need_loaded().fingerprint

    def free_memory(self) -> None:
        """Forget encoded voices and give unused blocks back to the device."""
        self._voices.clear()
        gc.collect()
        if self._loaded is not None:
            self._loaded.model.torch.cuda.empty_cache()

    def close(self) -> None:
        """Free the model; the engine can be loaded again."""
        loaded, self._loaded = self._loaded, None
        self._voices.clear()
        self._checkout.close()
        if loaded is not None:
            torch = loaded.model.torch
            del loaded
            gc.collect()
            # a device that failed is no reason not to close
            with contextlib.suppress(Exception):
                torch.cuda.empty_cache()

    # -- voices -----------------------------------------------------------------------

    def _default_prompt(self) -> Prompt:
        """Return the voice ``default``; raises `EngineLoadError` that says how to have one."""
        settings = self._settings
        try:
            if settings.voice_audio:
                return read_prompt(Path(settings.voice_audio).read_bytes(), settings.voice_text)
            examples = self._checkout.home / _EXAMPLES
            first = json.loads(examples.read_text(encoding="utf-8").splitlines()[0])
            audio = (self._checkout.home / first["prompt_speech"]).read_bytes()
            prompt = read_prompt(audio, str(first["prompt_text"]))
        except (OSError, ValueError, LookupError, RequestError) as error:
            raise EngineLoadError(
                f"there is no voice 'default': {error}; {_HOW_TO_NAME_A_VOICE}"
            ) from error
        logger.warning(
            "the voice 'default' is the checkout's example %s, which its authors license for"
            " research only; for your own: %s",
            first["prompt_speech"],
            _HOW_TO_NAME_A_VOICE,
        )
        return prompt

    def _keep(self, key: str, encoded: GlmVoice) -> None:
        self._voices[key] = encoded
        while len(self._voices) > _VOICES_KEPT:
            self._voices.popitem(last=False)

    # -- the model ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _running(self, model: Model) -> Iterator[None]:
        """Run the checkout's code: in its place, without gradients, with its errors translated."""
        with (
            translated(model.torch.cuda.synchronize),
            self._checkout.inside(),
            model.torch.no_grad(),
        ):
            yield

    def _need_loaded(self) -> _Loaded:
        if self._loaded is None:
            raise EngineError("glmtts is not loaded: call load() first")
        return self._loaded

    def _fingerprint(self, sources: str, prompt: Prompt) -> str:
        from tts_workers.text import FRONT_END_VERSION

        parts = (
            self.name,
            sources,
            identity.hash_of_weights(self._checkout.weights()),
            str(self._settings.sample_rate_hz),
            str(self._settings.phoneme),
            _hash_of(prompt),
            normaliser_cache.package_version(),
            str(FRONT_END_VERSION),
            str(_RENDERING_REVISION),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _payload_of(voice: EngineVoice) -> GlmVoice:
    if not isinstance(voice.payload, GlmVoice):
        raise EngineError("glmtts was handed a voice that it did not encode itself")
    return voice.payload


def _hash_of(prompt: Prompt) -> str:
    digest = hashlib.sha256(f"{prompt.text}\n{prompt.sample_rate_hz}\n".encode())
    digest.update(prompt.samples.tobytes())
    return digest.hexdigest()


def _samples_of(made: Any) -> NDArray[np.float32]:
    """Return what the vocoder made as the samples that `Spoken` promises."""
    samples = np.array(made.cpu().numpy(), dtype=np.float32).reshape(-1)
    if not samples.size or not bool(np.isfinite(samples).all()):
        raise EngineError("GLM-TTS made no sound of the segment, or one that is not a number")
    return np.clip(samples, -1.0, 1.0)


@contextlib.contextmanager
def _randomness_kept() -> Iterator[None]:
    """Leave the process's random numbers as they were: the checkout seeds them with each segment.

    Whoever spreads retries by them would otherwise spread them alike in all workers.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
