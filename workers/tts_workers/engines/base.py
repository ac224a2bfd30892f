"""What an engine is: the Protocol every engine fulfils, and the values it exchanges.

An engine lives in the worker's child process (never in the parent, never in a client). It is
found by the entry-point group ``tts_tasks.engines``. One call at a time is made to one engine, in
one thread; only `Engine.split` may be called beside it, by one other thread at a time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tts_tasks.voices.names import reference_sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tts_tasks.lexicons import Lexicon

#: What an engine remembers between two segments: plain JSON, small (tens of kB), never audio.
EngineState = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; advertised by its worker and used for routing."""

    languages: tuple[str, ...]  #: BCP 47 tags, e.g. ``("zh", "en")``
    sample_rate_hz: int  #: native rate of what `Engine.speak` returns
    #: of ``clone, emotion, phoneme, speed``; ``stream`` is added for every worker
    features: frozenset[str] = frozenset()
    deterministic: bool = True  #: same request, same bits, on any worker of the pool
    model: str = ""  #: what speaks, as a request's ``model`` names it; empty: the engine's name
    model_version: str = ""  #: of that model; empty: the engine's
    #: names that `Engine.encode_voice` takes without a recording; empty: any may be known
    voices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VoiceReference:
    """The voice a request asks for: a name, or reference audio with its transcript."""

    name: str = "default"
    prompt_text: str | None = None
    prompt_audio: bytes | None = None  #: a mono 16-bit WAV file of 24 kHz, normalised

    @property
    def sha256(self) -> str:
        """Hash of what decides the sound: audio and transcript, or the name of an engine's own."""
        if self.prompt_audio is not None:
            return reference_sha256(self.prompt_text, hashlib.sha256(self.prompt_audio).hexdigest())
        content = json.dumps(["name", self.name, self.prompt_text])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Segment:
    """The piece of text an engine speaks in one go, normalised, with the silence that follows."""

    text: str
    pause_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SpeakOptions:
    """What shapes the sound besides text and voice; pinned when the job was accepted."""

    seed: int = 0
    speed: float = 1.0  #: 1.0 is natural; 2.0 is twice as fast


@dataclass(frozen=True, slots=True)
class Spoken:
    """One spoken segment: mono float32 in [-1, 1], shape ``(n,)``, and the state after it."""

    samples: NDArray[np.float32]
    state: EngineState | None = None
    took_s: float | None = None  #: where the work began before `Engine.speak` was called


@dataclass(frozen=True, slots=True)
class EngineVoice:
    """A voice as the engine has encoded it. ``payload`` is the engine's own affair."""

    reference: VoiceReference
    payload: Any = field(default=None, repr=False)


@runtime_checkable
class Engine(Protocol):
    """What speaks.

    Determinism contract: for the same segment, voice, state and options, `speak` returns the same
    samples whatever was spoken before, and a fresh process that is handed the state after segment
    k continues with segment k+1 exactly as the first process would have.
    """

    @property
    def name(self) -> str:
        """Stable name, e.g. ``espeak``."""
        ...

    @property
    def version(self) -> str:
        """What is installed, e.g. ``espeak-ng 1.52.0``. Part of the fingerprint."""
        ...

    def capabilities(self) -> Capabilities:
        """Say what this engine can do; valid after `load`."""
        ...

    def load(self, device: str) -> None:
        """Become able to speak on ``device`` (``cpu`` or ``cuda``); raises `EngineLoadError`.

        `EngineLostError` says that no further try in this process can succeed.
        """
        ...

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        """Prepare a voice; raises `RequestError` for one that is unknown or unusable.

        Also an `EngineError`, as `speak` does.
        """
        ...

    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        """Normalise a whole text and cut it; raises `UnspeakableTextError` if nothing is left.

        What a lexicon says of a phrase stands in the segments' texts, in the engine's own
        spelling; `RequestError` with the field ``lexicon`` for what the engine cannot say.
        Without a lexicon it is called with the text alone. It may be called while another thread
        is in `speak`.
        """
        ...

    def speak(
        self, segment: Segment, voice: EngineVoice, state: EngineState | None, options: SpeakOptions
    ) -> Spoken:
        """Speak one segment from a state to a state; raises an `EngineError`.

        `EngineLostError` says that the engine is of no more use before it is loaded again.
        """
        ...

    def fingerprint(self) -> str:
        """Hash of what changes the sound: version, weights, lexicon, front end."""
        ...

    def close(self) -> None:
        """Free the device and every helper process; may be called twice.

        Also from another thread while the engine speaks: that call of `speak` then ends, with an
        `EngineError` or with what it had to say, and leaves nothing running.
        """
        ...


@runtime_checkable
class FreesMemory(Protocol):
    """What an engine may be able to do besides.

    It is asked when it has run out of memory (`EngineOutOfMemoryError`, `MemoryError`, or any
    error whose class is called ``OutOfMemoryError``, such as torch's), before the job is tried
    once more in the same place.
    """

    def free_memory(self) -> None:
        """Give back what it can do without: caches, encoded voices, unused blocks."""
        ...


@runtime_checkable
class SpeaksAhead(Protocol):
    """What an engine may be able to do besides: begin with segments before they are asked for.

    For an engine whose segments do not depend on each other, and that can work on several at once,
    such as a server's client. What it returns must be the same without.
    """

    def expect(
        self, segments: Sequence[Segment], voice: EngineVoice, options: SpeakOptions
    ) -> None:
        """Learn what `speak` will be called with next, in this order, by the same thread.

        It takes the place of what was expected before, and what was begun of that is given up;
        without segments, nothing is expected any more. It does not wait, and raises nothing.
        """
        ...


@runtime_checkable
class PacksVoices(Protocol):
    """What an engine may be able to do besides: hand encoded voices on to other workers.

    What it packs is kept in storage under its fingerprint and the content hash of the reference.
    Whoever can write to the storage can change it, so it must not be able to run anything when it
    is read: no pickles. Voices without reference audio are not packed.
    """

    def pack_voice(self, voice: EngineVoice) -> bytes:
        """Return a voice with reference audio as bytes; raises `EngineError`."""
        ...

    def unpack_voice(self, reference: VoiceReference, data: bytes) -> EngineVoice:
        """Return the voice that was packed; raises `EngineError` for data it cannot use."""
        ...
