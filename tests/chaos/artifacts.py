"""What lies in the storage's folder, seen from outside: hashes, lengths, owners, strangers."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIDECARS = ".tts"
_TEMPORARY = ".tts-tmp"
_REPORTS = (".report.jsonl", ".report.csv")


class ArtifactWatch:
    """Looks at a folder again and again; tells of each file what it was at first sight."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: set[str] = set()
        self._mutex = threading.Lock()

    def look(self) -> Iterator[dict[str, Any]]:
        """Yield a record for each file that was not there at the last look."""
        with self._mutex:
            for name in self._visible():
                if name not in self._known:
                    self._known.add(name)
                    yield self._describe(name, "seen")

    def look_at_all(self) -> Iterator[dict[str, Any]]:
        """Yield a record for each file there is, at the end."""
        with self._mutex:
            for name in sorted(self._visible()):
                yield self._describe(name, "end")

    def leftovers(self) -> int:
        """Return how many temporary files lie hidden: what writers that were killed left."""
        return sum(1 for _ in (self._root / _TEMPORARY).glob("*"))

    def _visible(self) -> Iterator[str]:
        for folder, inner, leaves in os.walk(self._root):
            inner[:] = [name for name in inner if not name.startswith(".")]
            for leaf in leaves:
                yield str((Path(folder) / leaf).relative_to(self._root))

    def _describe(self, name: str, when: str) -> dict[str, Any]:
        path = self._root / name
        if path.suffix != ".wav" or path.name.startswith("."):
            kind = "report" if name.endswith(_REPORTS) else "stray"
            return {"kind": kind, "when": when, "name": name}
        data = path.read_bytes()
        return {
            "kind": "artifact",
            "when": when,
            "name": name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
            "duration_s": _decoded_s(data),
            "sidecar": self._sidecar(path),
        }

    @staticmethod
    def _sidecar(path: Path) -> dict[str, Any] | None:
        try:
            sidecar = json.loads((path.parent / _SIDECARS / f"{path.name}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return {"job": sidecar.get("job"), "sha256": sidecar.get("sha256")}


def _decoded_s(data: bytes) -> float | None:
    """Return how long the sound is when it is decoded to its end; None where it cannot be."""
    # libsndfile reads a cut file without a word: the length in the header must be the file's
    if data[:4] != b"RIFF" or int.from_bytes(data[4:8], "little") + 8 != len(data):
        return None
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(data))
    except (soundfile.SoundFileError, OSError):
        return None
    return round(len(samples) / float(rate_hz), 4)
