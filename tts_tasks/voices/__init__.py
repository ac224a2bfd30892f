"""Voices: reference audio by content, and names for it in versions, in storage."""

from tts_tasks.voices.names import (
    DEFAULT_VOICE,
    VoiceName,
    named,
    pin_of,
    pinned_sha256,
    reference_sha256,
)
from tts_tasks.voices.references import ReferenceStore
from tts_tasks.voices.store import VoiceStore, VoiceVersion

__all__ = [
    "DEFAULT_VOICE",
    "ReferenceStore",
    "VoiceName",
    "VoiceStore",
    "VoiceVersion",
    "named",
    "pin_of",
    "pinned_sha256",
    "reference_sha256",
]
