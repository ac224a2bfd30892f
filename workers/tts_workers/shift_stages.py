"""The stages of a shift that run in threads of their own, beside the one that speaks."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from tts_tasks.batches.manifest import Manifest
from tts_tasks.batches.report import ReportParts
from tts_tasks.errors import StorageError, TTSError, UnavailableError
from tts_tasks.ledger.batch_records import LineEnding
from tts_tasks.requests import parse_request
from tts_tasks.storage import Ownership, find_published, publish
from tts_workers.attempts import (
    artifact_record,
    check_requirements,
    details_of,
    final_code,
    passing_code,
)
from tts_workers.endings import exhausted_reason, failure, of_lost_attempts
from tts_workers.link import nonce_prefix
from tts_workers.pipeline import Outcome
from tts_workers.rendering import Insist, Rendering, Tools

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tts_tasks.batches.manifest import ManifestLine
    from tts_tasks.batches.window import Window
    from tts_tasks.events import EventLog
    from tts_tasks.ledger import JobLedger
    from tts_tasks.ledger.batch_book import BatchBook
    from tts_tasks.settings import Settings
    from tts_workers.engine_host import LoadedEngine
    from tts_workers.pipeline import Line, Pipeline

logger = logging.getLogger(__name__)

#: How long settling rests in between, in seconds: short lines end by the hundred.
_SETTLE_EVERY_S: Final = 0.05
#: Chunks of manifests that are kept in memory: a run lies in one or two.
_CHUNKS_KEPT: Final = 4


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a shift works with."""

    book: BatchBook
    ledger: JobLedger
    window: Window
    loaded: LoadedEngine
    tools: Tools  #: its `insist` is for what is spoken
    events: EventLog
    settings: Settings
    queue: str
    worker: str
    child: int  #: pid of this process, by which its claims are told from its predecessor's
    others_ready: Callable[[], int] = lambda: (
        0
    )  #: workers that could take what this one failed over
    on_taken: Callable[[], object] = lambda: None  #: told of each run: there may be more

    def owner(self, line: Line) -> Ownership:
        """Return whose a line's artifact is."""
        if line.request is None:
            raise ValueError(f"{line.claim.job_id} has not been read")
        return Ownership(job=line.claim.job_id, sound=line.request.sound_sha256())


class Preparing:
    """Takes runs ahead, reads their requests, and cuts their texts."""

    def __init__(self, equipment: Equipment, pipeline: Pipeline, insist: Insist) -> None:
        self._equipment = equipment
        self._pipeline = pipeline
        self._insist = insist
        self._chunks: OrderedDict[tuple[str, int], dict[int, ManifestLine]] = OrderedDict()
        self._cutting = threading.Lock()

    def work(self) -> None:
        """Go on until there is nothing left, or the pipeline is stopped."""
        while (news := self._pipeline.wait_to_take()) is not None:
            if not self._take() and not self._pipeline.nothing_taken(news):
                return

    def _take(self) -> bool:
        equipment, limits = self._equipment, self._pipeline.limits
        nonce = nonce_prefix(equipment.child) + secrets.token_hex(8)
        run = self._insist(
            lambda: equipment.book.take(
                equipment.queue,
                equipment.worker,
                nonce=nonce,
                max_jobs=limits.run_lines,
                max_chars=self._chars_of_a_run(),
                max_strikes=equipment.settings.max_attempts,
                elsewhere_s=equipment.settings.elsewhere_s if equipment.others_ready() else 0.0,
            )
        )
        if run is None:
            return False
        equipment.on_taken()
        for line in self._pipeline.take_in(run, equipment.worker):
            if self._pipeline.stopped:
                break
            try:
                outcome = self._outcome_before_speaking(line)
            except UnavailableError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this line alone
                outcome = Outcome(line, "", error=error)
            if outcome is None:
                self._pipeline.prepared(line)
            else:
                self._pipeline.ended(outcome)
        return True

    def _chars_of_a_run(self) -> int:
        """Return how much is taken at once: what the engine does in a moment, others may do too."""
        limits = self._pipeline.limits
        char_s = self._equipment.tools.pace.expected_s("speak", 1)
        if not char_s:
            return 1 if char_s is None else limits.run_chars  # one line, whatever its length
        return max(1, min(limits.run_chars, int(limits.run_s / char_s)))

    def _outcome_before_speaking(self, line: Line) -> Outcome | None:
        """Prepare a line to be spoken; returns what came of it where it need not be."""
        equipment = self._equipment
        if line.job.exhausted:
            return self._given_up(line)
        told = self._manifest_line(line)
        line.named(told.name, told.id or "")
        line.request = parse_request(told.request or {})
        owner = equipment.owner(line)
        storage = equipment.loaded.storage
        found = self._insist(lambda: find_published(storage, told.name, owner))
        if found is not None and found.details:
            return Outcome(line, "succeeded", artifact_record(line.claim, found))
        check_requirements(line.request, equipment.loaded)
        self.cut(line)
        expected_s = equipment.tools.pace.expected_s("speak", len(line.request.text))
        if expected_s is not None:
            line.expected_s = expected_s
        return None

    def cut(self, line: Line) -> Rendering:
        """Begin a line's rendering, also anew."""
        line.close()
        if line.request is None:
            raise ValueError(f"{line.claim.job_id} has not been read")
        equipment = self._equipment
        rendering = Rendering(line.claim, line.request, equipment.loaded, equipment.tools)
        line.rendering = rendering
        with self._cutting:  # one call of `Engine.split` at a time
            rendering.prepare()
        return rendering

    def _given_up(self, line: Line) -> Outcome:
        record = self._insist(lambda: self._equipment.ledger.get(line.claim.job_id))
        code, reason = "attempts_exhausted", "too many attempts ended without progress"
        evidence = {}
        if record is not None:
            reason, evidence = exhausted_reason(record), of_lost_attempts(record)
            code = record.evidence.get("code", code)  # an engine's error, not a death
        result = failure(code, reason, worker=self._equipment.worker, **evidence)
        return Outcome(line, "failed", result)

    def _manifest_line(self, line: Line) -> ManifestLine:
        key = line.batch, line.job.chunk
        if key not in self._chunks:
            manifest = Manifest(self._equipment.loaded.storage, line.batch)
            lines = self._insist(lambda: manifest.chunk(line.job.chunk))
            self._chunks[key] = {told.line: told for told in lines}
            while len(self._chunks) > _CHUNKS_KEPT:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(key)
        told = self._chunks[key].get(line.job.line)
        if told is None or told.request is None:
            raise StorageError(
                f"the manifest of batch {line.batch} has no job in line {line.job.line}: submit "
                "its file again"
            )
        return told


class Storing:
    """Encodes and publishes what was spoken; several threads do."""

    def __init__(self, equipment: Equipment, pipeline: Pipeline, insist: Insist) -> None:
        self._equipment = equipment
        self._pipeline = pipeline
        self._insist = insist

    def work(self) -> None:
        """Go on until the pipeline is closed."""
        while (line := self._pipeline.next_to_store()) is not None:
            try:
                outcome = self._store(line)
            except UnavailableError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this line alone
                outcome = Outcome(line, "", error=error)
            self._pipeline.ended(outcome)

    def _store(self, line: Line) -> Outcome:
        loaded, rendering, request = self._equipment.loaded, line.rendering, line.request
        if rendering is None or request is None:
            raise ValueError(f"{line.claim.job_id} has not been spoken")
        encoded = rendering.encode()
        details = details_of(line.claim, request, loaded, encoded)
        name, owner = line.claim.meta.name, self._equipment.owner(line)
        published = self._insist(
            lambda: publish(loaded.storage, name, encoded.data, owner, details)
        )
        record = artifact_record(line.claim, published)
        # of what is heard while it is spoken a listener may still want them; they are swept later
        staged = () if request.stream else tuple(rendering.staged)
        return Outcome(line, "succeeded", record, staged)


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
        for outcome in outcomes:
            self._pipeline.let_go(outcome.line)

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


class Stage(Protocol):
    """What a thread of a shift does."""

    def work(self) -> None:
        """Go on until there is nothing more to do."""
        ...


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


def in_thread(stage: Stage, pipeline: Pipeline) -> threading.Thread:
    """Start a stage; what ends it before its time stops the shift."""

    def guarded() -> None:
        try:
            stage.work()
        except BaseException as error:  # noqa: BLE001 - the shift raises it
            pipeline.stop(error)

    name = f"shift-{type(stage).__name__.lower()}"
    thread = threading.Thread(target=guarded, name=name, daemon=True)
    thread.start()
    return thread
