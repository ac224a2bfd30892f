"""How voices are named, and what the content of a reference is known by."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import Final, Self

from tts_tasks.errors import RequestError

#: What engines call the voice that they speak with when nobody asks for one; never in the store.
DEFAULT_VOICE: Final = "default"

_SPEC: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,47})"
    r"(?::(?P<style>[A-Za-z0-9][A-Za-z0-9_-]{0,31}))?"
    r"(?:@(?P<version>[1-9][0-9]{0,7}))?"
)
_PIN_PREFIX: Final = "sha256:"
_PIN: Final = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class VoiceName:
    """``NAME[:STYLE][@VERSION]``; without a version the newest one is meant."""

    name: str
    style: str = ""
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a name; None for one that no voice of the store can have."""
        found = _SPEC.fullmatch(text)
        if found is None or found["name"] == DEFAULT_VOICE:
            return None
        version = int(found["version"]) if found["version"] else None
        return cls(found["name"], found["style"] or "", version)

    @property
    def entry(self) -> str:
        """``NAME`` or ``NAME:STYLE``: what has versions."""
        return f"{self.name}:{self.style}" if self.style else self.name

    def at(self, version: int) -> VoiceName:
        """Return the name of one version."""
        return replace(self, version=version)

    def __str__(self) -> str:
        return self.entry if self.version is None else f"{self.entry}@{self.version}"


def named(text: str) -> VoiceName:
    """Read the name of a voice of the store; raises `RequestError` for what cannot be one."""
    if text == DEFAULT_VOICE:
        raise RequestError("voice", f"{DEFAULT_VOICE!r} is the engine's own voice: choose a name")
    found = VoiceName.parse(text)
    if found is None:
        raise RequestError(
            "voice",
            f"{text[:120]!r} is not NAME or NAME:STYLE: letters, digits and . _ - (a letter or "
            "digit first, at most 48), and for the style letters, digits and _ - (at most 32)",
        )
    return found


def pin_of(sha256: str) -> str:
    """Return what stands in ``prompt_audio`` for reference audio of this content."""
    return f"{_PIN_PREFIX}{sha256}"


def pinned_sha256(prompt_audio: str | None) -> str | None:
    """Return the content hash that ``prompt_audio`` holds; None where it is something else."""
    found = _PIN.fullmatch(prompt_audio or "")
    return found[1] if found else None


def reference_sha256(prompt_text: str | None, audio_sha256: str) -> str:
    """Return the content hash of a reference: its audio and its transcript, whatever its name."""
    content = json.dumps(["reference", prompt_text, audio_sha256])
    return hashlib.sha256(content.encode()).hexdigest()
