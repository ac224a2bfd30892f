"""A cluster of real workers for one test."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.e2e.cluster import Cluster
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cluster(redis_url: str, tmp_path: Path) -> Iterator[Cluster]:
    """No worker yet, and nothing in storage; whatever the test starts is ended after it."""
    shutil.rmtree(get_settings().storage_url.removeprefix("file://"), ignore_errors=True)
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()
