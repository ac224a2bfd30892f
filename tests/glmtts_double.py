"""The engine glmtts on the double of its checkout: `tests/doubles/glmtts`."""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from tts_workers.engines.base import SpeakOptions, Spoken, VoiceReference
from tts_workers.engines.glmtts import GlmTtsEngine, GlmTtsSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_workers.engines.base import EngineState, Segment

DOUBLE = Path(__file__).parent / "doubles" / "glmtts"
#: The built grammars and the working directories of all tests of this process.
CACHE = Path(tempfile.mkdtemp(prefix="tts-glmtts-"))
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

PROMPT_TEXT = "这是另一个人说的一句话，用来认识他的声音。"


def double_engine(**settings: Any) -> GlmTtsEngine:
    """Return an engine on the double, not yet loaded."""
    given = {"home": str(DOUBLE), "cache": str(CACHE), **settings}
    return GlmTtsEngine(GlmTtsSettings.model_validate(given))


def environment(**variables: str) -> dict[str, str]:
    """Return what makes a worker speak with the double."""
    return {
        "TTS_ENGINE": "glmtts",
        "TTS_GLMTTS_HOME": str(DOUBLE),
        "TTS_GLMTTS_CACHE": str(CACHE),
        **variables,
    }


def copy_of_the_double(directory: Path) -> Path:
    """Return a checkout that a test may damage."""
    home = directory / "checkout"
    shutil.copytree(DOUBLE, home, ignore=shutil.ignore_patterns("__pycache__"))
    return home


def recording(
    duration_s: float = 4.0, rate_hz: int = 24_000, channels: int = 1, hertz: float = 200.0
) -> bytes:
    """Return a WAV file in which something hums."""
    times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    hum = 0.3 * np.sin(2 * np.pi * hertz * times_s) * (1 + np.sin(2 * np.pi * 2 * times_s)) / 2
    file = io.BytesIO()
    soundfile.write(file, np.repeat(hum[:, None], channels, axis=1), rate_hz, format="WAV")
    return file.getvalue()


def speak_all(
    engine: GlmTtsEngine,
    segments: Sequence[Segment],
    state: EngineState | None = None,
    *,
    seed: int = 7,
    voice: VoiceReference | None = None,
) -> list[Spoken]:
    """Speak segments one after the other."""
    encoded = engine.encode_voice(voice or VoiceReference())
    spoken: list[Spoken] = []
    for segment in segments:
        spoken.append(engine.speak(segment, encoded, state, SpeakOptions(seed=seed)))
        state = spoken[-1].state
    return spoken


#: Two people that a test may have imitated.
SPEAKERS = (
    VoiceReference("first", PROMPT_TEXT, recording(hertz=120.0)),
    VoiceReference("second", PROMPT_TEXT, recording(hertz=210.0)),
)
