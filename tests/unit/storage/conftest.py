"""The storage that is a folder of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tts_tasks.storage import LocalStorage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """Return an empty local storage."""
    return LocalStorage(tmp_path / "store")
