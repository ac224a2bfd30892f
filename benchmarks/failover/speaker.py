"""The engine as the baselines use it: the same pace and the same sound as our workers'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tts_tasks import audio
from tts_workers.engines.base import SpeakOptions, VoiceReference
from tts_workers.engines.paced import PacedEngine

if TYPE_CHECKING:
    from pathlib import Path


class Speaker:
    """One loaded engine, set up by ``TTS_PACED_*`` like a worker's."""

    def __init__(self) -> None:
        self._engine = PacedEngine()
        self._engine.load("cpu")
        self._voice = self._engine.encode_voice(VoiceReference())
        self.speak("好")

    def speak(self, text: str) -> bytes:
        """Return the text as a WAV file."""
        state, parts, pauses_s = None, [], []
        for segment in self._engine.split(text):
            spoken = self._engine.speak(segment, self._voice, state, SpeakOptions())
            state = spoken.state
            parts.append(spoken.samples)
            pauses_s.append(segment.pause_after_s)
        rate_hz = self._engine.capabilities().sample_rate_hz
        return audio.encode(audio.join(parts, pauses_s, rate_hz), rate_hz, "wav")

    def speak_to(self, path: Path, text: str) -> None:
        """Write the text as a file; a second writer overwrites the first."""
        path.write_bytes(self.speak(text))
