"""``sherpa_onnx``: Kokoro, VITS, Matcha and Kitten models; see ``docs/how-to/sherpa-onnx.md``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tts_tasks.errors import (
    EngineError,
    EngineLoadError,
    EngineLostError,
    EngineOutOfMemoryError,
    RequestError,
    UnspeakableTextError,
)
from tts_workers.engines import sherpa_onnx_trial
from tts_workers.engines.base import Capabilities, EngineVoice, Spoken
from tts_workers.engines.engine_settings import read_settings
from tts_workers.engines.sherpa_onnx_model import (
    NEEDS,
    ModelFiles,
    SherpaOnnxSettings,
    find_files,
    speakers_of,
)

if TYPE_CHECKING:
    from tts_tasks.lexicons import Lexicon
    from tts_workers.engines.base import EngineState, Segment, SpeakOptions, VoiceReference

logger = logging.getLogger(__name__)

#: Raise it when a change in this package changes the sound of an unchanged request.
_RENDERING_REVISION: Final = 1
_SPEED_RANGE: Final = (0.25, 4.0)
#: Samples below this are silence: -60 dBFS.
_SILENCE_PEAK: Final = 0.001
_TRIAL_S: Final = 300.0
_LAST_WORDS_CHARS: Final = 400
_GO_ON, _STOP = 1, 0  #: what the library wants to hear between two sentences
_OUT_OF_MEMORY: Final = ("out of memory", "failed to allocate memory", "_alloc_failed")
_DEVICE_LOST: Final = ("cuda failure", "cudnn failure", "cublas failure")


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Any  #: sherpa_onnx.OfflineTts
    sample_rate_hz: int
    speakers: dict[str, int]
    deterministic: bool
    files_sha256: str
    fingerprint: str
    closed: threading.Event


class SherpaOnnxEngine:
    """Speaks with a model that the user brings; see `tts_workers.engines.base.Engine`.

    ``settings`` come from the environment unless given; raises `ConfigurationError` for bad ones.
    There is no state between segments. It is deterministic on the CPU with one thread if the model
    draws no random numbers, or ``noise`` is 0 and takes them all away.
    """

    name = "sherpa_onnx"

    def __init__(self, settings: SherpaOnnxSettings | None = None) -> None:
        self._settings = settings or read_settings(SherpaOnnxSettings)
        self._loaded: _Loaded | None = None

    @property
    def version(self) -> str:
        """The library's version and the kind of model."""
        return f"sherpa-onnx {_library_version()}, {self._settings.model_type}"

    def capabilities(self) -> Capabilities:
        """Languages as they were named, and the model's rate, at any speed from 0.25 to 4."""
        loaded = self._need_loaded()
        return Capabilities(
            languages=self._settings.language_tags(),
            sample_rate_hz=loaded.sample_rate_hz,
            features=frozenset({"speed"}),
            deterministic=loaded.deterministic,
            model=Path(self._settings.model).name,
            model_version=loaded.files_sha256[:12],
            voices=tuple(loaded.speakers),
        )

    def load(self, device: str) -> None:
        """Look for the files, try them in another process, and load them.

        Raises `EngineLoadError` that names the file and what a model of its kind needs.
        """
        self.close()
        if importlib.util.find_spec("sherpa_onnx") is None:
            raise EngineLoadError(
                "sherpa-onnx is not installed: pip install 'tts-tasks[sherpa-onnx]'"
            )
        settings = self._settings
        provider = device if settings.provider == "auto" else settings.provider
        files = find_files(settings)
        arguments: dict[str, Any] = {
            "family": files.family,
            "model": files.arguments,
            "provider": provider,
            "threads": settings.threads,
        }
        described = _tried(arguments, files)
        try:
            model = sherpa_onnx_trial.make_model(**arguments)
        except RuntimeError as error:
            raise EngineLoadError(f"sherpa-onnx: {error}") from error
        files_sha256 = files.sha256()
        self._loaded = _Loaded(
            model,
            int(described["rate_hz"]),
            _named(settings, max(1, int(described["speakers"]))),
            provider == "cpu" and settings.threads == 1 and not files.draws_random_numbers,
            files_sha256,
            _fingerprint(files_sha256, settings),
            threading.Event(),
        )

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        """Look a speaker up by name; raises `RequestError` for others and for reference audio."""
        speakers = self._need_loaded().speakers
        if reference.prompt_audio is not None:
            raise RequestError(
                "prompt_audio", "sherpa_onnx imitates no voice (it lacks the feature 'clone')"
            )
        if reference.name not in speakers:
            named = ", ".join(list(speakers)[:40])
            raise RequestError(
                "voice", f"the model has no speaker {reference.name!r}; there is {named}"
            )
        return EngineVoice(reference, speakers[reference.name])

    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        """Normalise and cut a text with the shared front end; of a lexicon it says words only."""
        from tts_workers.text import front_end

        tags = {tag.partition("-")[0].lower() for tag in self._settings.language_tags()}
        return front_end(text, default_language="zh" if "zh" in tags else "en", lexicon=lexicon)

    def speak(
        self,
        segment: Segment,
        voice: EngineVoice,
        state: EngineState | None,  # noqa: ARG002 - the models remember nothing
        options: SpeakOptions,
    ) -> Spoken:
        """Speak one segment; characters that the model has no token for are left out."""
        loaded = self._need_loaded()
        if not isinstance(voice.payload, int):
            raise EngineError("sherpa_onnx was handed a voice that it did not encode itself")
        slowest, fastest = _SPEED_RANGE
        if not slowest <= options.speed <= fastest:
            raise RequestError("speed", f"must be from {slowest:g} to {fastest:g}")
        try:
            made = loaded.model.generate(
                segment.text,
                sid=voice.payload,
                speed=options.speed,
                callback=lambda _samples, _share: _STOP if loaded.closed.is_set() else _GO_ON,
            )
        except RuntimeError as error:
            raise _translated(error) from error
        if loaded.closed.is_set():
            raise EngineError("sherpa_onnx was closed while it was speaking")
        samples = np.array(made.samples, dtype=np.float32)
        if not samples.size or np.abs(samples).max() < _SILENCE_PEAK:
            raise UnspeakableTextError("the model knows no sound for any character of the segment")
        if not bool(np.isfinite(samples).all()):
            raise EngineError("the model made sound that is not a number")
        return Spoken(np.clip(samples, -1.0, 1.0))

    def fingerprint(self) -> str:
        """Hash of the library's version, all files of the model, noise and the text front end."""
        return self._need_loaded().fingerprint

    def close(self) -> None:
        """Let the model go, at the end of the sentence in hand; it can be loaded again."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.closed.set()

    def _need_loaded(self) -> _Loaded:
        if self._loaded is None:
            raise EngineError("sherpa_onnx is not loaded: call load() first")
        return self._loaded


def _library_version() -> str:
    try:
        return importlib.metadata.version("sherpa-onnx")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _tried(arguments: dict[str, Any], files: ModelFiles) -> dict[str, Any]:
    """Load a model in a process of its own; returns what it is, raises `EngineLoadError`."""
    try:
        done = subprocess.run(
            # -P: nothing is imported from beside the file
            [sys.executable, "-P", sherpa_onnx_trial.__file__],
            input=json.dumps(arguments),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineLoadError(f"{files.onnx[0]} did not load within {_TRIAL_S:g} s") from None
    said = " ".join(done.stderr.split())[-_LAST_WORDS_CHARS:]
    if done.returncode != 0:
        names = ", ".join(str(path) for path in (*files.onnx, *files.others[:3]))
        raise EngineLoadError(
            f"sherpa-onnx cannot use {names}: {said or f'it ended with {done.returncode}'}."
            f" A {files.family} model needs {NEEDS[files.family]}, made for sherpa-onnx (it reads"
            " metadata from the model)"
        )
    if arguments["provider"] == "cuda" and "fallback to cpu" in said.lower():
        raise EngineLoadError(
            f"this sherpa-onnx cannot use CUDA ({said}): install a build for CUDA"
            " (docs/how-to/sherpa-onnx.md), or set TTS_SHERPA_ONNX_PROVIDER=cpu"
        )
    if said:
        logger.info("sherpa-onnx: %s", said)
    described: dict[str, Any] = json.loads(done.stdout)
    return described


def _named(settings: SherpaOnnxSettings, count: int) -> dict[str, int]:
    """Return the speakers by name; raises `EngineLoadError` for those that the model lacks."""
    speakers = speakers_of(settings.speakers)
    for name, number in speakers.items():
        if number >= count:
            raise EngineLoadError(
                f"TTS_SHERPA_ONNX_SPEAKERS: {name}={number}, but the model's speakers are 0 to"
                f" {count - 1}"
            )
    if speakers:
        return {"default": next(iter(speakers.values()))} | speakers
    return {"default": 0} | {str(number): number for number in range(count)}


def _fingerprint(files_sha256: str, settings: SherpaOnnxSettings) -> str:
    from tts_workers.text import FRONT_END_VERSION

    parts = (
        SherpaOnnxEngine.name,
        _library_version(),
        files_sha256,
        settings.languages,
        settings.speakers,
        f"{FRONT_END_VERSION} {_RENDERING_REVISION}",
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _translated(error: RuntimeError) -> EngineError:
    said = str(error).lower()
    if any(words in said for words in _OUT_OF_MEMORY):
        return EngineOutOfMemoryError(f"sherpa-onnx: {error}")
    if any(words in said for words in _DEVICE_LOST):
        return EngineLostError(f"sherpa-onnx: {error}")
    return EngineError(f"sherpa-onnx: {error}")
