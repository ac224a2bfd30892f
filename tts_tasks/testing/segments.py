"""`SegmentLog` in memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tts_tasks.ledger.segments import READ_AT_ONCE, Checkpoint, LoggedSegment
from tts_tasks.testing.ledger import is_newest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tts_tasks.ledger.records import Claim
    from tts_tasks.testing.store import MemoryStore, Wire

_LOOK_EVERY_S = 0.01


class MemorySegments:
    """`SegmentLog` in this process, on the store of a `MemoryLedger`. Nothing expires."""

    def __init__(self, store: MemoryStore, *, wire: Wire | None = None) -> None:
        self.store = store
        self._ask: Wire = wire or store.at_once

    def append(
        self,
        claim: Claim,
        segment: LoggedSegment,
        plan: str,
        engine_state: dict[str, Any] | None,
        ttl_s: int,  # noqa: ARG002 - the real one's
    ) -> bool:
        """Append a segment; False if a newer attempt has the job or it has ended."""
        return self._ask(self._store_append, claim, segment, plan, engine_state)

    def _store_append(
        self, claim: Claim, segment: LoggedSegment, plan: str, engine_state: dict[str, Any] | None
    ) -> bool:
        job = self.store.job(claim.job_id)
        if job is None or not is_newest(job, claim.attempt, claim.worker):
            return False
        done = int(job["segments_done"])
        if segment.number <= done:
            return True
        if segment.number > done + 1:
            raise ValueError(f"segment {segment.number} would follow on {done}")
        self.store.segments.setdefault(claim.job_id, []).append(segment)
        job.update(
            segments_done=segment.number,
            segments=segment.segments,
            plan=plan,
            engine_state=engine_state,
            strikes=0,
        )
        return True

    def checkpoint(self, job_id: str) -> Checkpoint:
        """Return how far the job has come."""
        return self._ask(self._store_checkpoint, job_id)

    def _store_checkpoint(self, job_id: str) -> Checkpoint:
        job = self.store.job(job_id) or {"segments_done": 0, "plan": "", "engine_state": None}
        return Checkpoint(job["segments_done"], job["plan"], job["engine_state"])

    def restart(self, claim: Claim) -> bool:
        """Forget the segments; False if a newer attempt has the job or it has ended."""
        return self._ask(self._store_restart, claim)

    def _store_restart(self, claim: Claim) -> bool:
        job = self.store.job(claim.job_id)
        if job is None or not is_newest(job, claim.attempt, claim.worker):
            return False
        job.update(segments_done=0, plan="", engine_state=None)
        self.store.segments.pop(claim.job_id, None)
        return True

    def read(
        self, job_id: str, after: int = 0, *, limit: int = READ_AT_ONCE
    ) -> list[LoggedSegment]:
        """Return the segments after number ``after``, in order, at most ``limit``."""
        return self._ask(self._store_read, job_id, after, limit)

    def _store_read(self, job_id: str, after: int, limit: int) -> list[LoggedSegment]:
        logged = self.store.segments.get(job_id, [])
        return [segment for segment in logged if segment.number > after][:limit]

    def wait(self, job_id: str, after: int, timeout_s: float) -> list[LoggedSegment]:
        """Return like `read`, once there is something after ``after``; nothing after a while."""
        until_s = time.monotonic() + timeout_s
        while not (found := self.read(job_id, after)) and time.monotonic() < until_s:
            time.sleep(_LOOK_EVERY_S)
        return found

    def expire(self, job_id: str, ttl_s: int) -> None:
        """Let the log of an ended job go after a while: never, here."""

    def remove(self, job_ids: Iterable[str]) -> None:
        """Let the logs of jobs go that have ended and that nobody listens to."""
        for job_id in job_ids:
            self._ask(self._store_remove_log, job_id)

    def _store_remove_log(self, job_id: str) -> None:
        self.store.segments.pop(job_id, None)

    def exists(self, job_id: str) -> bool:
        """Tell whether there is a log."""
        return self._ask(lambda: job_id in self.store.segments)
