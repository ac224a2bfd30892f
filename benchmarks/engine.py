"""``silent``: an engine that costs nothing, and the cost that a benchmark adds around it.

It is found by an entry point that `install` writes into a run's folder, so that the product knows
nothing of it. ``paced`` wraps it to make it cost time and to note when it spoke.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tts_tasks import audio
from tts_tasks.clock import boottime_s
from tts_tasks.formats import AUDIO_FORMATS
from tts_tasks.storage import LocalStorage
from tts_workers.engines.base import Capabilities, EngineVoice, Segment, Spoken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tts_workers.engines.base import EngineState, SpeakOptions, VoiceReference

#: Audio for one character, about as fast as people speak Chinese.
AUDIO_S_PER_CHAR = 0.2
SAMPLE_RATE_HZ = 24_000
_SENTENCES = re.compile(r"[^。.!?]+[。.!?]?")
_ENTRY_POINTS = """[tts_tasks.engines]
silent = benchmarks.engine:SilentEngine
"""


class SilentEngine:
    """Makes silence of the right length in no time, a segment a sentence."""

    name = "silent"
    version = "silent 1"

    def capabilities(self) -> Capabilities:
        """Return what is true of silence."""
        return Capabilities(languages=("zh", "en"), sample_rate_hz=SAMPLE_RATE_HZ)

    def load(self, device: str) -> None:  # noqa: ARG002 - the Protocol's
        """Make encoding and storing in this process cost what the environment says."""
        inject_costs()

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        """Know every voice."""
        return EngineVoice(reference)

    def split(self, text: str) -> list[Segment]:
        """Cut after full stops."""
        return [Segment(found.strip()) for found in _SENTENCES.findall(text) if found.strip()]

    def speak(
        self,
        segment: Segment,
        voice: EngineVoice,  # noqa: ARG002 - the Protocol's
        state: EngineState | None,  # noqa: ARG002
        options: SpeakOptions,  # noqa: ARG002
    ) -> Spoken:
        """Return zeros."""
        samples = round(len(segment.text) * AUDIO_S_PER_CHAR * SAMPLE_RATE_HZ)
        return Spoken(np.zeros(samples, np.float32))

    def fingerprint(self) -> str:
        """Return a constant."""
        return "silent-1"

    def close(self) -> None:
        """Have nothing to free."""


def install(directory: Path) -> None:
    """Make the engine known to every process that has ``directory/site`` on its path."""
    info = directory / "site" / "bench_engines-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-engines\nVersion: 1\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)


def environment(directory: Path, *, speak_s: float = 0.0, chars: int = 1) -> dict[str, str]:
    """Return the ``TTS_*`` by which a text of ``chars`` characters takes ``speak_s`` to speak."""
    return {
        "TTS_ENGINE": "paced",
        "TTS_GPU": "cpu",
        "TTS_PACED_INNER": "silent",
        "TTS_PACED_COST": repr(speak_s / (chars * AUDIO_S_PER_CHAR)),
        "TTS_PACED_SPANS": str(directory / "spans"),
    }


# -- what the benchmark adds ----------------------------------------------------------------------


def inject_costs() -> None:
    """Make each encoding take ``BENCH_ENCODE_S`` and each publishing ``BENCH_STORE_S`` longer.

    It sleeps, as codecs and stores do not hold the interpreter's lock either. Each time is noted
    in ``BENCH_COSTS``, so that a benchmark sees that it was paid.
    """
    encode_s = float(os.environ.get("BENCH_ENCODE_S", "0"))
    store_s = float(os.environ.get("BENCH_STORE_S", "0"))
    if encode_s:
        audio.encode = _slowed(audio.encode, encode_s, "encode")
        audio.encode_pcm16 = _slowed(audio.encode_pcm16, encode_s, "encode")
    if store_s:
        create = _slowed(LocalStorage.create, store_s, "store", _is_artifact)
        create_many = _slowed(LocalStorage._create_many, store_s, "store", _artifacts)  # noqa: SLF001 - where it does not call `create`
        LocalStorage.create = create  # type: ignore[method-assign]
        LocalStorage._create_many = create_many  # type: ignore[method-assign]  # noqa: SLF001


def _is_artifact(_: LocalStorage, name: str, *__: object) -> int:
    return name.rpartition(".")[2] in AUDIO_FORMATS


def _artifacts(storage: LocalStorage, objects: Sequence[tuple[str, bytes]]) -> int:
    return sum(_is_artifact(storage, name) for name, _ in objects)


def _slowed(
    function: Callable[..., Any],
    cost_s: float,
    kind: str,
    times: Callable[..., int] = lambda *_: 1,
) -> Callable[..., Any]:
    path = Path(os.environ["BENCH_COSTS"])

    def slowed(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        for _ in range(times(*args)):
            time.sleep(cost_s)
            with path.open("ab", buffering=0) as file:
                file.write(json.dumps({"kind": kind, "at_s": boottime_s()}).encode() + b"\n")
        return result

    return slowed
