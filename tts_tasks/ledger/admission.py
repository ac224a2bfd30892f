"""Whether a lane can take one more online job: the terms, the load they are held against, the no.

The load of a lane is counted by the scripts that change a job's state, in the same step: so it is
exact, whoever dies. Proved by ``tests/contract/test_admission.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tts_tasks.errors import AdmissionError, DeadlineError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a lane takes online jobs."""

    max_waiting: int = 0  #: online jobs that may wait in a lane; 0: any number
    takeover_s: float = 0.0  #: until a lane without a primary has one


@dataclass(frozen=True, slots=True)
class LaneLoad:
    """What a lane has to do, and how fast it was lately."""

    waiting_jobs: int = 0
    waiting_chars: int = 0
    running_jobs: int = 0
    running_chars: int = 0
    running_since_ms: int = 0  #: sum of the times at which the running ones were claimed
    char_s: float | None = None  #: seconds a character, claim to finish; None: not measured

    @classmethod
    def from_hash(cls, fields: Mapping[str, str]) -> Self:
        """Read a lane's hash."""
        paced_chars = float(fields.get("paced_chars", 0))
        return cls(
            waiting_jobs=int(fields.get("waiting_jobs", 0)),
            waiting_chars=int(fields.get("waiting_chars", 0)),
            running_jobs=int(fields.get("running_jobs", 0)),
            running_chars=int(fields.get("running_chars", 0)),
            running_since_ms=int(fields.get("running_since_ms", 0)),
            char_s=float(fields["paced_ms"]) / paced_chars / 1000 if paced_chars else None,
        )


def refusal(
    answer: str, done_ms: int, retry_ms: int, *, lane_key: str, deadline_s: float | None
) -> AdmissionError:
    """Return what to raise for the ``full`` or ``late`` of accept.lua."""
    estimate_s = done_ms / 1000 if done_ms >= 0 else None
    about = "an unknown time"
    if estimate_s is not None:
        about = f"about {estimate_s:.1f} s" if estimate_s >= 1 else f"about {estimate_s:.2g} s"
    if answer == "full":
        # also after an unknown time: places come free one by one, as jobs are claimed
        retry_s = max(1.0, retry_ms / 1000)
        reason = (
            f"the lane {lane_key} has as many online jobs waiting as TTS_MAX_ONLINE_JOBS allows; "
            f"this one would be done in {about}; try again in {retry_s:.0f} s"
        )
        return QueueFullError(reason, estimate_s, retry_s)
    reason = f"deadline_s is {deadline_s:g}, and the sound would be ready in {about}; "
    if retry_ms < 0:
        reason += "the text alone takes longer than that: give it more time"
        return DeadlineError(reason, estimate_s)
    retry_s = max(1.0, retry_ms / 1000)
    reason += f"give it more time, or try again in {retry_s:.0f} s"
    return DeadlineError(reason, estimate_s, retry_s)
