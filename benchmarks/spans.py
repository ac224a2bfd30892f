"""What the engines of a run did: the lines that ``paced`` wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Span:
    """One segment that was spoken, on ``CLOCK_BOOTTIME``."""

    pid: int
    began_s: float
    ended_s: float


class Spans:
    """Reads the file as it grows, the probes of workers left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._spans: list[Span] = []

    def read(self) -> list[Span]:
        """Return all spans so far, by when they ended."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole, _, _ = file.read().rpartition(b"\n")
            for line in whole.splitlines():
                told = json.loads(line)
                if told["job"] > 1:  # the first text of a process is its probe
                    self._spans.append(Span(told["pid"], told["began_s"], told["ended_s"]))
            self._offset += len(whole) + bool(whole)
        return self._spans


def speaking_s(spans: Sequence[Span]) -> float:
    """Return for how long engines spoke, all together."""
    return sum(span.ended_s - span.began_s for span in spans)


def busy_share(spans: Sequence[Span]) -> float | None:
    """Return the share of the time from first to last word in which one engine spoke.

    The last word ends it: what comes after it is no longer backlog. None for fewer than two.
    """
    if len(spans) < 2:
        return None
    began_s = min(span.began_s for span in spans)
    return speaking_s(spans) / (max(span.ended_s for span in spans) - began_s)


def rate_per_s(spans: Sequence[Span]) -> float | None:
    """Return how many texts began in a second, from the first beginning to the last.

    So neither the start of workers nor the last text counts. None for fewer than two.
    """
    began_s = sorted(span.began_s for span in spans)
    if len(began_s) < 2 or began_s[-1] == began_s[0]:
        return None
    return (len(began_s) - 1) / (began_s[-1] - began_s[0])
