"""Waiting for conditions instead of for time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


def eventually(
    ask: Callable[[], Any], *, within_s: float = 60.0, every_s: float = 0.05, what: str = ""
) -> Any:
    """Return the first true answer; fail loudly when none comes in time."""
    deadline_s = time.monotonic() + within_s
    while not (answer := ask()):
        if time.monotonic() > deadline_s:
            pytest.fail(f"not within {within_s:g} s: {what or ask}")
        time.sleep(every_s)
    return answer
