"""What lies in a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def files_below(root: Path) -> list[str]:
    """Return the files below a folder by their paths from there, in order."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
