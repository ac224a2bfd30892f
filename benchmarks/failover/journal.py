"""What the baselines' workers did: one file of JSON lines, which no fault cuts off."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from tts_tasks.clock import boottime_s

if TYPE_CHECKING:
    from pathlib import Path

    from tts_tasks.clock import Clock


class Journal:
    """Appended to by several processes, read by the benchmark."""

    def __init__(self, path: Path, *, clock: Clock = boottime_s) -> None:
        self._path = path
        self._clock = clock

    def write(self, event: str, worker: str, **fields: Any) -> None:
        """Append one line, with the time."""
        line = {"event": event, "worker": worker, "at_s": self._clock(), **fields}
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, json.dumps(line).encode() + b"\n")  # one write: whole or not
        finally:
            os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        """Return all lines so far."""
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_bytes().splitlines()]

    def happened(self, event: str, job: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of one event, of one job or of all."""
        return [
            line
            for line in self.read()
            if line["event"] == event and (job is None or line.get("job") == job)
        ]

    def begun_by_others(self, victim: str, fault_s: float) -> float | None:
        """Return when another worker first began a job after a fault, in seconds after it."""
        begun = self._begun_after(victim, fault_s).values()
        return min((at_s - fault_s for at_s in begun), default=None)

    def finished_by_others(self, victim: str, fault_s: float) -> float | None:
        """Return when the first of the jobs begun so was finished."""
        begun = self._begun_after(victim, fault_s)
        times_s = [
            line["at_s"] - fault_s
            for line in self.happened("done")
            if line["worker"] != victim and line["at_s"] >= begun.get(line["job"], math.inf)
        ]
        return min(times_s, default=None)

    def _begun_after(self, victim: str, fault_s: float) -> dict[str, float]:
        return {
            line["job"]: line["at_s"]
            for line in self.happened("begun")
            if line["worker"] != victim and line["at_s"] > fault_s
        }

    def repeated(self, event: str) -> int:
        """Return how often an event happened to a job beyond the first time."""
        counts = Counter(line["job"] for line in self.happened(event))
        return sum(count - 1 for count in counts.values())
