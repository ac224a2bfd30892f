"""The load of a lane in memory: what the scripts of `tts_tasks.ledger` count, in Python."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tts_tasks.ledger.admission import LaneLoad, Terms, refusal

if TYPE_CHECKING:
    from tts_tasks.errors import AdmissionError

_BELIEVED_MS = 600_000


@dataclass
class MemoryLoad:
    """What one lane has to do, and how fast it was lately."""

    waiting_jobs: int = 0
    waiting_chars: int = 0
    running_jobs: int = 0
    running_chars: int = 0
    running_since_ms: int = 0
    paced_ms: float = 0.0
    paced_chars: float = 0.0
    paced_at_ms: int = 0

    def refusal(
        self, job: dict[str, Any], terms: Terms, *, now_ms: int, led: bool
    ) -> AdmissionError | None:
        """Return why this job is not taken; None if it is."""
        deadline_s, lane_key = job["deadline_s"], job["meta"].lane_key
        deadline_ms = math.inf if deadline_s is None else int(deadline_s * 1000)
        alone_ms = rest_ms = done_ms = -1.0
        busy = self.waiting_jobs + self.running_jobs > 0
        if self.paced_chars and (busy or now_ms - self.paced_at_ms < _BELIEVED_MS):
            char_ms = self.paced_ms / self.paced_chars
            alone_ms = job["chars"] * char_ms
            since_ms = self.running_jobs * now_ms - self.running_since_ms
            rest_ms = max(0.0, self.running_chars * char_ms - since_ms)
            rest_ms += 0 if led else int(terms.takeover_s * 1000)
            done_ms = math.ceil(rest_ms + self.waiting_chars * char_ms + alone_ms)
        if terms.max_waiting and self.waiting_jobs >= terms.max_waiting:
            answer, retry_ms = "full", math.ceil(rest_ms)
        elif done_ms > deadline_ms:
            retry_ms = -1 if alone_ms > deadline_ms else int(done_ms - deadline_ms)
            answer = "late"
        else:
            return None
        return refusal(answer, int(done_ms), retry_ms, lane_key=lane_key, deadline_s=deadline_s)

    def waits(self, job: dict[str, Any], by: int = 1) -> None:
        """Count a job as waiting, or with -1 no longer."""
        self.waiting_jobs += by
        self.waiting_chars += by * job["chars"]

    def runs(self, job: dict[str, Any], by: int = 1) -> None:
        """Count a job as running since its claim, or with -1 no longer."""
        self.running_jobs += by
        self.running_chars += by * job["chars"]
        self.running_since_ms += by * job["claimed_ms"]

    def measure(self, took_ms: float, chars: float, now_ms: int) -> None:
        """Note how long a job took, claim to finish."""
        if self.paced_chars:
            char_ms = self.paced_ms / self.paced_chars
            took_char_ms = max(char_ms / 4, min(char_ms * 4, took_ms / chars))
            chars = min(chars, self.paced_chars)
            took_ms = took_char_ms * chars
        self.paced_ms = 0.9 * self.paced_ms + took_ms
        self.paced_chars = 0.9 * self.paced_chars + chars
        self.paced_at_ms = now_ms

    def shown(self) -> LaneLoad:
        """Return it as the ledger does."""
        char_s = self.paced_ms / self.paced_chars / 1000 if self.paced_chars else None
        return LaneLoad(
            self.waiting_jobs,
            self.waiting_chars,
            self.running_jobs,
            self.running_chars,
            self.running_since_ms,
            char_s,
        )
