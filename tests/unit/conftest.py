"""What the files about an agent and about its parts share."""

from __future__ import annotations

import pytest

from tests.agents import World


@pytest.fixture
def world() -> World:
    """An empty cluster."""
    return World()
