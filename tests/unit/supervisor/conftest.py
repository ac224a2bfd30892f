"""What the tests of the supervisor's parts share."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that would run for long."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()
