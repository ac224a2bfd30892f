"""A clock for tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FakeClock:
    """A clock in seconds that stands still until it is moved."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
