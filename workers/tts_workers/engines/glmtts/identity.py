"""What a checkout and its weights are, in a hash: part of the engine's fingerprint.

The weights have 9 GB, and reading them all would take longer than loading them. Of each file its
size and three pieces of a megabyte are hashed, from its beginning, middle and end: weights that
were trained on differ in nearly all their bytes. A few numbers that somebody edits may be missed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_PIECE_BYTES: Final = 1024 * 1024


def hash_of_sources(home: Path, files: Iterable[Path]) -> str:
    """Return the hash of whole files, by their paths in the checkout."""
    digest = hashlib.sha256()
    for file in files:
        data = file.read_bytes()
        digest.update(f"{file.relative_to(home)}\n{len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def hash_of_weights(files: Iterable[Path]) -> str:
    """Return the hash of pieces of large files, by their names and those of their folders."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.parent.name}/{file.name}\n{file.stat().st_size}\n".encode())
        for piece in _pieces(file):
            digest.update(piece)
    return digest.hexdigest()


def commit_of(home: Path) -> str:
    """Return the commit that a checkout is at, shortened; empty where git does not say."""
    git = home / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if head.startswith("ref: "):
            head = _commit_of_branch(git, head.removeprefix("ref: "))
    except OSError:
        return ""
    return head[:7]


def _commit_of_branch(git: Path, ref: str) -> str:
    """Return the commit from the branch's own file, or from that in which git packs them all."""
    if (git / ref).is_file():
        return (git / ref).read_text(encoding="utf-8").strip()
    packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
    return next((line.partition(" ")[0] for line in packed if line.endswith(f" {ref}")), "")


def _pieces(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= 3 * _PIECE_BYTES:
            yield opened.read()
            return
        for start in (0, size // 2, size - _PIECE_BYTES):
            opened.seek(start)
            yield opened.read(_PIECE_BYTES)
