"""``paced``: an instrument for load and failover tests, not an engine to speak with in production.

It wraps any engine, takes as much wall time for a second of audio as it is told to, and fails
where it is told to. The sound, and so the fingerprint, is the inner engine's to the bit; but where
it is told to stand in for an engine that imitates voices, a voice of reference audio is the inner
engine's own one under noise that hangs on the content of the reference.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import numpy as np
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tts_tasks.audio import resample
from tts_tasks.clock import boottime_s
from tts_tasks.errors import (
    ConfigurationError,
    EngineError,
    EngineLoadError,
    EngineOutOfMemoryError,
)
from tts_workers.engines import load_engine
from tts_workers.engines.base import EngineVoice, FreesMemory, PacksVoices, VoiceReference

if TYPE_CHECKING:
    from tts_tasks.lexicons import Lexicon
    from tts_workers.engines.base import (
        Capabilities,
        Engine,
        EngineState,
        Segment,
        SpeakOptions,
        Spoken,
    )


logger = logging.getLogger(__name__)


#: Of the noise that makes one made-up voice differ from another: -34 dBFS.
_NOISE_PEAK = 0.02
#: Raise it when that noise changes.
_NOISE_REVISION = 1


class FaultKind(StrEnum):
    """What can go wrong on demand."""

    HANG = "hang"  #: `speak` never returns, until `close`
    CRASH = "crash"  #: the process kills itself with SIGKILL
    ABORT = "abort"  #: the process aborts, as C and C++ libraries do, with a line on stderr
    EXIT = "exit"  #: the process ends with exit code 70 and no clean-up
    OOM = "oom"  #: `EngineOutOfMemoryError`
    ERROR = "error"  #: a plain `EngineError`


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule, ``KIND@CONDITION[&CONDITION...]``; it fires when all its conditions hold.

    ``text:MARK``     the segment's text holds MARK
    ``segment:N``     it is the N-th segment this process speaks, counted from 1
    ``job:N``         it belongs to the N-th job of this process, counted by calls of `split`
    ``once:/a/path``  the file could be created: so the fault fires once over all restarts

    ``once`` is asked last and alone leaves a trace. ``crash@text:POISON`` kills every worker that
    takes the job; ``crash@segment:3&once:/tmp/m`` kills the first one to speak its third segment.
    """

    kind: FaultKind
    text: str | None = None
    segment: int | None = None
    job: int | None = None
    once: Path | None = None

    @classmethod
    def parse(cls, rule: str) -> Fault:
        """Read one rule; raises ValueError saying what is wrong with it."""
        kind, _, conditions = rule.partition("@")
        if kind not in list(FaultKind):
            raise ValueError(f"{rule!r}: the fault must be one of {', '.join(FaultKind)}")
        values: dict[str, Any] = {}
        for condition in conditions.split("&"):
            key, _, value = condition.partition(":")
            reader = {"text": str, "segment": int, "job": int, "once": Path}.get(key)
            if reader is None or not value or key in values:
                raise ValueError(
                    f"{rule!r}: after the @ come text:MARK, segment:N, job:N or once:/a/path,"
                    " each at most once, joined by &"
                )
            try:
                values[key] = reader(value)
            except ValueError:
                raise ValueError(f"{rule!r}: {key} takes a whole number") from None
        return cls(FaultKind(kind), **values)

    def fires(self, text: str, segment: int, job: int) -> bool:
        """Say whether all conditions hold for this segment."""
        holds = (
            (self.text is None or self.text in text)
            and (self.segment is None or self.segment == segment)
            and (self.job is None or self.job == job)
        )
        return holds and (self.once is None or _created(self.once))


@dataclass(frozen=True, slots=True)
class _Disguise:
    """A made-up voice: the inner engine's own, and what decides the noise over it."""

    inner: EngineVoice
    seed: str  #: hexadecimal


class PacedSettings(BaseSettings):
    """Settings of `PacedEngine`, from the environment variables ``TTS_PACED_*``."""

    model_config = SettingsConfigDict(env_prefix="TTS_PACED_", frozen=True, extra="ignore")

    inner: str = "espeak"  #: name of the engine that speaks
    #: Seconds of wall time for a second of audio, the inner engine's own time included.
    cost: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    load_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  #: added to the load
    faults: str = ""  #: rules as in `Fault`, separated by semicolons
    clone: bool = False  #: take reference audio, as an engine does that imitates voices
    #: what it says it speaks, of what the inner engine does: tags separated by commas
    languages: str = ""
    sample_rate_hz: Annotated[int, Field(ge=0)] = 0  #: of what it returns; 0: the inner engine's
    model_version: str = ""  #: that it advertises
    spans: str = ""  #: path of a file to which each spoken segment adds a line, see `PacedEngine`

    @field_validator("faults")
    @classmethod
    def _rules_are_readable(cls, value: str) -> str:
        _parse_rules(value)
        return value

    def rules(self) -> tuple[Fault, ...]:
        """Return the parsed rules of ``faults``."""
        return _parse_rules(self.faults)


class PacedEngine:
    """An engine with injected cost and faults around an inner engine; see the module.

    Settings come from the environment unless given; raises `ConfigurationError` for bad ones.
    `close` may be called from another thread and ends a wait or an injected hang.

    With ``spans`` each segment that was spoken is a line of JSON in that file: ``pid``, ``job``
    (the calls of `split` so far: 1 is the probe of a worker), ``began_s`` and ``ended_s`` on
    ``CLOCK_BOOTTIME``, and ``audio_s``. Processes may share the file.
    """

    name = "paced"

    def __init__(
        self, settings: PacedSettings | None = None, *, inner: Engine | None = None
    ) -> None:
        try:
            self._settings = settings or PacedSettings()
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            variable = f"TTS_PACED_{'_'.join(map(str, first['loc'])).upper()}"
            raise ConfigurationError(f"{variable}: {first['msg']}") from None
        if inner is None:
            if self._settings.inner == self.name:
                raise ConfigurationError("TTS_PACED_INNER: paced cannot wrap itself")
            inner = load_engine(self._settings.inner)
        self._inner = inner
        self._rules = self._settings.rules()
        self._closed = threading.Event()
        self._segments = 0
        self._jobs = 0
        self._spans_fd: int | None = None

    @property
    def version(self) -> str:
        """The inner engine's, marked as paced."""
        return f"paced {self._inner.name} {self._inner.version}"

    def capabilities(self) -> Capabilities:
        """Return the inner engine's capabilities, changed as the settings say."""
        given, inner = self._settings, self._inner.capabilities()
        tags = tuple(tag.strip() for tag in given.languages.split(",") if tag.strip())
        return replace(
            inner,
            features=inner.features | ({"clone"} if given.clone else set()),
            languages=tags or inner.languages,
            sample_rate_hz=given.sample_rate_hz or inner.sample_rate_hz,
            model_version=given.model_version or inner.model_version,
        )

    def load(self, device: str) -> None:
        """Wait ``load_s``, then load the inner engine; raises `EngineLoadError` when closed."""
        self._closed.clear()
        if self._closed.wait(self._settings.load_s):
            raise EngineLoadError("paced was closed while it was loading")
        self._inner.load(device)

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        """Encode the voice with the inner engine, or make one up of reference audio."""
        if reference.prompt_audio is None or not self._settings.clone:
            return self._inner.encode_voice(reference)
        inner = self._inner.encode_voice(VoiceReference())
        return EngineVoice(reference, _Disguise(inner, reference.sha256))

    def pack_voice(self, voice: EngineVoice) -> bytes:
        """See `PacksVoices`: of a made-up voice what its noise hangs on."""
        if isinstance(voice.payload, _Disguise):
            return voice.payload.seed.encode()
        if isinstance(self._inner, PacksVoices):
            return self._inner.pack_voice(voice)
        raise EngineError(f"{self._inner.name} packs no voices")

    def unpack_voice(self, reference: VoiceReference, data: bytes) -> EngineVoice:
        """See `PacksVoices`."""
        if not self._settings.clone:
            if isinstance(self._inner, PacksVoices):
                return self._inner.unpack_voice(reference, data)
            raise EngineError(f"{self._inner.name} packs no voices")
        seed = data.decode("ascii", "replace")
        if seed != reference.sha256:
            raise EngineError("this is another voice, or none")
        return EngineVoice(reference, _Disguise(self._inner.encode_voice(VoiceReference()), seed))

    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        """Split with the inner engine; each call counts as a new job for the fault rules."""
        self._jobs += 1
        return self._inner.split(text, lexicon) if lexicon else self._inner.split(text)

    def speak(
        self, segment: Segment, voice: EngineVoice, state: EngineState | None, options: SpeakOptions
    ) -> Spoken:
        """Speak with the inner engine, at the configured cost, unless a fault rule fires."""
        started, began_s = time.monotonic(), boottime_s()
        self._segments += 1
        for rule in self._rules:
            if rule.fires(segment.text, self._segments, self._jobs):
                self._fail(rule.kind)
        spoken = self._spoken(segment, voice, state, options)
        native_hz = self._inner.capabilities().sample_rate_hz
        audio_s = spoken.samples.size / native_hz
        if rate_hz := self._settings.sample_rate_hz:
            samples = resample(spoken.samples, native_hz, rate_hz).clip(-1.0, 1.0)
            spoken = replace(spoken, samples=samples)
        due = started + self._settings.cost * audio_s
        if self._closed.wait(max(0.0, due - time.monotonic())):
            raise EngineError("paced was closed while it was speaking")
        self._note_span(began_s, audio_s)
        return spoken

    def _spoken(
        self, segment: Segment, voice: EngineVoice, state: EngineState | None, options: SpeakOptions
    ) -> Spoken:
        disguise = voice.payload
        if not isinstance(disguise, _Disguise):
            return self._inner.speak(segment, voice, state, options)
        spoken = self._inner.speak(segment, disguise.inner, state, options)
        noise = np.random.default_rng(int(disguise.seed, 16)).uniform(
            -_NOISE_PEAK, _NOISE_PEAK, spoken.samples.size
        )
        samples = (spoken.samples * (1 - _NOISE_PEAK) + noise).astype(np.float32)
        return replace(spoken, samples=samples.clip(-1.0, 1.0))

    def fingerprint(self) -> str:
        """Return the inner engine's: pacing does not change the sound. But some settings do."""
        given, inner = self._settings, self._inner.fingerprint()
        inner += f"-{given.sample_rate_hz}Hz" if given.sample_rate_hz else ""
        return f"{inner}-clone{_NOISE_REVISION}" if given.clone else inner

    def close(self) -> None:
        """End any wait and close the inner engine."""
        self._closed.set()
        self._inner.close()
        if self._spans_fd is not None:
            os.close(self._spans_fd)
            self._spans_fd = None

    def _note_span(self, began_s: float, audio_s: float) -> None:
        if not self._settings.spans:
            return
        line = {
            "pid": os.getpid(),
            "job": self._jobs,
            "began_s": began_s,
            "ended_s": boottime_s(),
            "audio_s": audio_s,
        }
        if self._spans_fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._spans_fd = os.open(self._settings.spans, flags, 0o666)
        # one write to the end of the file: lines of several processes do not mix
        os.write(self._spans_fd, json.dumps(line).encode() + b"\n")

    def free_memory(self) -> None:
        """Have the inner engine free memory, if it can."""
        if isinstance(self._inner, FreesMemory):
            self._inner.free_memory()

    def _fail(self, kind: FaultKind) -> NoReturn:
        logger.warning("paced: %s, injected by TTS_PACED_FAULTS", kind)
        match kind:
            case FaultKind.HANG:
                self._closed.wait()
                raise EngineError("paced was closed in its injected hang")
            case FaultKind.CRASH:
                os.kill(os.getpid(), signal.SIGKILL)
                raise EngineError("SIGKILL is on its way")
            case FaultKind.ABORT:
                os.write(2, b"paced: terminate called, injected by TTS_PACED_FAULTS\n")
                os.abort()
            case FaultKind.EXIT:
                os._exit(70)
            case FaultKind.OOM:
                raise EngineOutOfMemoryError("out of memory, injected by TTS_PACED_FAULTS")
            case FaultKind.ERROR:
                raise EngineError("an error injected by TTS_PACED_FAULTS")


def _parse_rules(rules: str) -> tuple[Fault, ...]:
    return tuple(Fault.parse(rule.strip()) for rule in rules.split(";") if rule.strip())


def _created(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
