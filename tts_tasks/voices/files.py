"""Reference audio from files: below a folder that somebody names, or wherever the caller says.

What stands in a batch file is hostile: it must not lead out of its folder, nor make us open a
device or wait for a pipe.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tts_tasks.errors import ConfigurationError, RequestError
from tts_tasks.wording import shown

if TYPE_CHECKING:
    from tts_tasks.reference_audio import ReferenceAudio

#: A file is read no further: whatever is larger is no reference audio.
MAX_BYTES: Final = 20 * 1024 * 1024
# O_NONBLOCK: a pipe must not stop us.
_OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class ReferenceFiles:
    """The reference audio below one folder: that of a batch file, or of an upload."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, path: str) -> bytes:
        """Return the audio of a file, checked and normalised; raises `RequestError`."""
        return prepared(self.read(path)).data

    def read(self, path: str) -> bytes:
        """Return the bytes of a file; raises `RequestError` for what may not be read.

        Symbolic links are followed within the folder. What counts is the file that was opened: a
        folder that is swapped for a link in between leads nowhere.
        """
        try:
            root = self._root.resolve(strict=True)
            file = (root / path).resolve()
            if not file.is_relative_to(root):
                raise RequestError("prompt_audio", f"leads out of {root} through a symbolic link")
            if not file.is_file():
                raise RequestError(
                    "prompt_audio", f"there is no file {shown(path, 200)} below {root}"
                )
            return _read(file, root)
        except (OSError, RuntimeError, ValueError) as error:
            reason = f"{shown(path, 200)} below {self._root} cannot be read: {error}"
            raise RequestError("prompt_audio", reason) from None


def read_audio(source: bytes | os.PathLike[str]) -> bytes:
    """Return the bytes of a recording that the caller has or names; raises `RequestError`."""
    if isinstance(source, bytes):
        return source
    path = Path(source)
    try:
        return _read(path, None)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RequestError("prompt_audio", f"{path} cannot be read: {reason}") from None


def prepared(data: bytes) -> ReferenceAudio:
    """Check and normalise a recording; raises `RequestError`, `ConfigurationError`."""
    try:
        from tts_tasks.reference_audio import prepare
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tts_tasks"):
            raise
        raise ConfigurationError(
            f"reference audio is checked and normalised with {error.name}, which is not installed "
            "here: pip install 'tts-tasks[worker]'"
        ) from None
    return prepare(data)


def _read(path: Path, root: Path | None) -> bytes:
    descriptor = os.open(path, _OPEN)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if root is not None:
            opened = Path(f"/proc/self/fd/{descriptor}").readlink()
            if not opened.is_relative_to(root):
                raise ValueError("it leads out of its folder")
        if found.st_size > MAX_BYTES:
            raise ValueError(f"it is {found.st_size} bytes large; at most {MAX_BYTES}")
        if not found.st_size:
            raise ValueError("it is empty")
        return file.read(MAX_BYTES + 1)
