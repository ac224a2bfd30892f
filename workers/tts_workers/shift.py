"""A shift: lines of batches, taken and spoken one after the other until there is a reason to stop.

While the engine speaks a line, those after it are prepared and those before it are stored, so that
the engine never waits for a store that keeps up. It speaks in the caller's thread alone; beside it
only `Engine.split` is called, by one thread at a time.

Invariant: when a shift has ended, however it ended, each line it took has either ended or is ready
again, in the order of the file and with the segments that were spoken; only while the stores do
not answer it stays on the worker's list of claims, for the next shift or for its recoverers. What
was not tried gets no strike. Proved by ``tests/contract/test_shift.py``.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from tts_tasks.errors import UnavailableError
from tts_workers.insisting import Insisting
from tts_workers.link import nonce_prefix
from tts_workers.memory import with_memory_freed
from tts_workers.pipeline import Limits, Outcome, Pipeline, Stage
from tts_workers.rendering import OvertakenError, YieldedError
from tts_workers.shift_ending import Ending, Settling
from tts_workers.shift_stages import Equipment, Preparing, Storing, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.ledger import BatchBook
    from tts_workers.pipeline import Line
    from tts_workers.rendering import Insist, Rendering

__all__ = ["Equipment", "Limits", "Shift", "give_back_held"]

logger = logging.getLogger(__name__)

_DEFAULT_LIMITS = Limits()


class Shift:
    """One shift of a worker's child; a child works one at a time."""

    def __init__(
        self,
        equipment: Equipment,
        *,
        must_stop: Callable[[], bool],
        online_waits: Callable[[], bool],
        on_line: Callable[[str], None] = lambda _: None,
        limits: Limits = _DEFAULT_LIMITS,
    ) -> None:
        """``must_stop``, ``online_waits``: asked between lines and between their segments.

        ``on_line`` is told the id of each job before it is spoken, and an empty one at the end.
        """
        self._equipment = equipment
        self._must_stop, self._online_waits = must_stop, online_waits
        self._yields = False
        self._on_line = on_line
        self._pipeline = pipeline = Pipeline(limits)
        outage_s = equipment.settings.store_outage_s
        # What is not spoken yet is no loss, so nobody insists on it once the shift is to end.
        before = Insisting(outage_s, give_up=lambda: pipeline.stopped)
        after = Insisting(outage_s, give_up=lambda: pipeline.closed)
        self._preparing = Preparing(equipment, pipeline, before)
        self._storing = Storing(equipment, pipeline, after)
        self._ending = Ending(equipment, pipeline, after)
        self._settling = Settling(equipment.window, pipeline)

    def work(self) -> int:
        """Work until there is nothing to do, or a reason to stop; returns how many lines it spoke.

        Raises what has kept it from going on, such as `UnavailableError` where a store has not
        answered for longer than an outage may last.
        """
        pipeline = self._pipeline
        spoken = 0
        self._give_back_held()  # of an earlier shift, after an outage
        preparer = in_thread(self._preparing, pipeline)
        for _ in range(pipeline.limits.storers):
            in_thread(self._storing, pipeline)
        in_thread(self._ending, pipeline)
        in_thread(self._settling, pipeline)
        try:
            while (line := pipeline.next_line(self._is_over)) is not None:
                spoken += self._speak(line)
        finally:
            pipeline.stop()
            try:
                limits = pipeline.limits
                timeout_s = limits.yield_s if self._yields else limits.end_s
                end_s = time.monotonic() + timeout_s
                preparer.join(timeout_s)
                self._give_back_unspoken()
                pipeline.drain(max(0.0, end_s - time.monotonic()))
                self._give_back_held()
            finally:
                pipeline.drain(0.0)
                self._on_line("")
                self._equipment.events.flush()
        if pipeline.fault is not None:
            raise pipeline.fault
        return spoken

    def _is_over(self) -> bool:
        if self._must_stop():
            return True
        self._yields = self._yields or self._online_waits()
        return self._yields

    # -- speaking -----------------------------------------------------------------------------

    def _speak(self, line: Line) -> bool:
        """Speak a line and hand it on; False if it was not spoken to its end."""
        pipeline = self._pipeline
        if pipeline.is_cancelled(line):
            pipeline.let_go(line)
            return False
        self._on_line(line.claim.job_id)
        try:
            rendering = self._spoken(line)
        except YieldedError:
            claim = line.claim
            self._equipment.events.note(
                "job.yielded", job=claim.job_id, attempt=claim.attempt, worker=claim.worker
            )
            pipeline.stop()
        except OvertakenError:
            self._ending.stale(line)
            pipeline.let_go(line)
        except UnavailableError as error:
            pipeline.stop(error)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, it ends this line alone
            pipeline.ended(Outcome(line, "", error=error))
        else:
            pipeline.spoken(line, rendering.size_bytes)
            return True
        return False

    def _spoken(self, line: Line) -> Rendering:
        """Speak a line; once more, from what is kept of it, after the engine has freed memory."""

        def speak() -> Rendering:
            rendering = line.rendering or self._preparing.cut(line)
            try:
                rendering.speak(self._is_over)
            except BaseException:
                line.close()  # what it holds may end in the middle of a segment
                raise
            return rendering

        def told(reason: str) -> None:
            claim = line.claim
            what = {"job": claim.job_id, "attempt": claim.attempt, "worker": claim.worker}
            self._equipment.events.emit(
                "job.out_of_memory", **what, reason=reason, then="tried again"
            )

        loaded = self._equipment.loaded
        return with_memory_freed(loaded.engine, speak, told, loaded.voices.clear)

    # -- giving back --------------------------------------------------------------------------

    def _give_back_unspoken(self) -> None:
        groups: dict[tuple[str, bool], list[tuple[int, int | None, bool]]] = defaultdict(list)
        for line in self._pipeline.drop_unspoken():
            untried = line.stage is Stage.TAKEN
            groups[line.batch, untried].append((line.job.line, line.job.attempt, False))
        book, worker = self._equipment.book, self._equipment.worker
        # what was spoken of comes before what was not, and goes to the head of the list after it
        for (batch, untried), lines in sorted(groups.items(), key=lambda group: not group[0][1]):
            self._insist_at_the_end(
                lambda: book.release(batch, worker, lines, untried=untried)  # noqa: B023 - called at once
            )

    def _give_back_held(self) -> None:
        equipment = self._equipment
        give_back_held(equipment.book, equipment.worker, equipment.child, self._insist_at_the_end)

    @property
    def _insist_at_the_end(self) -> Insisting:
        return Insisting(self._pipeline.limits.end_s)


def give_back_held(book: BatchBook, worker: str, child: int, insist: Insist) -> None:
    """Give back whatever a child has taken, whoever knows of it, and let its claims go.

    What an earlier child of the worker has left is its parent's business: one of these lines may
    have killed it.
    """
    mine = nonce_prefix(child)
    for batch in insist(lambda: book.claimed_by(worker)):
        held = insist(lambda: book.held_by(batch, worker))  # noqa: B023 - called at once
        jobs = insist(lambda: book.results(batch, held))  # noqa: B023 - as above
        lines: list[tuple[int, int | None, bool]] = [
            (line, job.attempt, False)
            for line, job in sorted(jobs.items())
            if job.nonce.startswith(mine)
        ]
        insist(lambda: book.release(batch, worker, lines))  # noqa: B023 - as above
