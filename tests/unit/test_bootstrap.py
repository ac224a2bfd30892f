"""What a worker checks before it starts anything."""

from __future__ import annotations

import importlib.util

import pytest

from tts_tasks.errors import ConfigurationError
from tts_workers import bootstrap


def test_a_client_installation_is_told_what_a_worker_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the worker's packages the parent says which extra to install."""
    bootstrap.check_worker_packages()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"numpy.*tts-tasks\[worker\]"):
        bootstrap.check_worker_packages()
