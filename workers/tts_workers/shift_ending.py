"""The last stages of a shift: lines are ended or given back, and their batches are settled."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from tts_tasks.batches.report import ReportParts
from tts_tasks.errors import TTSError
from tts_tasks.ledger.batch_records import LineEnding
from tts_workers.attempts import final_code, passing_code
from tts_workers.endings import failure
from tts_workers.pipeline import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_tasks.batches.window import Window
    from tts_workers.pipeline import Line, Pipeline
    from tts_workers.rendering import Insist
    from tts_workers.shift_stages import Equipment

logger = logging.getLogger(__name__)

#: How long settling rests in between, in seconds: short lines end by the hundred.
_SETTLE_EVERY_S: Final = 0.1


class Ending:
    """Ends lines and gives lines back, as many in one step as have come meanwhile."""

    def __init__(self, equipment: Equipment, pipeline: Pipeline, insist: Insist) -> None:
        self._equipment = equipment
        self._pipeline = pipeline
        self._insist = insist

    def work(self) -> None:
        """Go on until the pipeline is closed."""
        while outcomes := self._pipeline.outcomes():
            by_batch: dict[str, list[Outcome]] = defaultdict(list)
            for outcome in outcomes:
                final = self._final(outcome)
                if final is None:
                    self._give_back(outcome)
                else:
                    by_batch[outcome.line.batch].append(final)
            for batch, ended in by_batch.items():
                self._finish(batch, ended)

    def _final(self, outcome: Outcome) -> Outcome | None:
        """Return an outcome that stands; None for an error to get over."""
        error = outcome.error
        if error is None:
            return outcome
        code = final_code(error)
        if code is None:
            return None
        worker = self._equipment.worker
        return Outcome(outcome.line, "failed", failure(code, str(error), worker=worker))

    def _finish(self, batch: str, outcomes: Sequence[Outcome]) -> None:
        equipment = self._equipment
        endings = [
            LineEnding(
                outcome.line.job.line,
                outcome.line.job.chunk,
                outcome.line.job.attempt,
                outcome.state,
                outcome.result,
            )
            for outcome in outcomes
        ]
        answers = self._insist(lambda: equipment.book.finish(batch, equipment.worker, endings))
        for outcome, ended in zip(outcomes, answers, strict=True):
            if not ended and not self._has_ended_so(outcome):
                self.stale(outcome.line)
            elif outcome.state == "failed":
                told = outcome.result["error"]
                job_id = outcome.line.claim.job_id
                equipment.events.note(
                    "job.failed", job=job_id, code=told["code"], reason=told["reason"]
                )
        equipment.events.flush()
        self._remove([name for outcome in outcomes for name in outcome.staged])
        self._let_logs_go([outcome.line for outcome in outcomes])
        # first, so that a shift does not end that may have more to do
        self._pipeline.to_settle(batch)
        self._pipeline.let_go(*(outcome.line for outcome in outcomes))

    def _has_ended_so(self, outcome: Outcome) -> bool:
        """Whether a line that the book knows no more has ended as this attempt said.

        Where a reply was lost, its chunk may have been flushed before the book was asked again.
        """
        line = outcome.line
        parts = ReportParts(self._equipment.loaded.storage, line.batch)
        part = self._insist(lambda: parts.read(line.job.chunk)) or []
        mine = (line.job.line, line.job.attempt, self._equipment.worker, outcome.state)
        return any(
            (told["line"], told["attempt"], told["worker"], told["state"]) == mine for told in part
        )

    def _let_logs_go(self, lines: Sequence[Line]) -> None:
        """Let segment logs go, at once where nobody may want to listen any more."""
        log = self._equipment.tools.log
        heard = [line for line in lines if line.request is not None and line.request.stream]
        try:
            for line in heard:
                log.expire(line.claim.job_id, self._equipment.settings.segment_log_ttl_s)
            others = [line.claim.job_id for line in lines if line.is_kept and line not in heard]
            if others:
                log.remove(others)
        except TTSError as error:  # they expire later
            logger.warning("segment logs are not removed yet: %s", error)

    def _remove(self, staged: Sequence[str]) -> None:
        try:
            if staged:
                self._equipment.loaded.storage.remove(staged)
        except TTSError as error:  # they are swept later
            logger.warning("staged segments are not removed yet: %s", error)

    def _give_back(self, outcome: Outcome) -> None:
        """Give back a line after an attempt failed, with evidence; others may fare better."""
        line, equipment = outcome.line, self._equipment
        claim = line.claim
        code, reason, pardons = passing_code(outcome.error or RuntimeError("no error"))
        logger.warning("%s, attempt %d: %s: %s", claim.job_id, claim.attempt, code, reason)
        if code == "internal":
            logger.error("%s: its traceback", claim.job_id, exc_info=outcome.error)
        evidence = {"code": code, "reason": f"{code}: {reason}", "worker": claim.worker}

        def release() -> int | None:
            # The job first, with all that is known; then its place among the ready lines. Asked
            # again after a lost reply the first finds it done, and the second tells.
            equipment.ledger.release(
                *(claim.job_id, claim.worker, claim.attempt),
                strike=True,
                evidence=evidence,
                pardons=pardons,
            )
            entry = (line.job.line, line.job.attempt, False)
            return equipment.book.release(line.batch, claim.worker, [entry])[0]

        if self._insist(release) is None:
            self.stale(line)
        else:
            what = {"job": claim.job_id, "attempt": claim.attempt, "worker": claim.worker}
            if code == "out_of_memory":
                equipment.events.note("job.out_of_memory", **what, reason=reason, then="given back")
            equipment.events.emit("job.attempt_failed", **what, code=code, reason=reason)
        self._pipeline.let_go(line)

    def stale(self, line: Line) -> None:
        """Learn that the book refuses what this attempt wanted: a newer one has it, or it ended."""
        claim, run = line.claim, self._pipeline.runs
        self._equipment.events.note(
            "job.stale_refused", job=claim.job_id, attempt=claim.attempt, worker=claim.worker
        )
        if self._insist(lambda: self._equipment.book.is_cancelled(line.batch)):
            self._pipeline.cancelled(line.batch, run)
            self._pipeline.to_settle(line.batch)  # all its lines have ended: who else would report


class Settling:
    """Flushes and feeds the batches of which lines have ended."""

    def __init__(self, window: Window, pipeline: Pipeline) -> None:
        self._window = window
        self._pipeline = pipeline

    def work(self) -> None:
        """Go on until the pipeline is closed and all is settled."""
        while (batch := self._pipeline.next_to_settle()) is not None:
            try:
                self._window.settle(batch)
            except TTSError as error:  # whoever looks next tries it again
                logger.warning("batch %s is not settled yet: %s", batch, error)
            finally:
                self._pipeline.settled()
            self._pipeline.rest(_SETTLE_EVERY_S)
