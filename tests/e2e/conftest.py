"""A cluster of real workers for one test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cluster(redis_url: str, tmp_path: Path) -> Iterator[Cluster]:
    """No worker yet; whatever the test starts is ended after it."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()
