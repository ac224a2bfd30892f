"""Gives back the lines of batches that a dead worker, or a dead child of a worker, had taken.

A worker has many lines in hand, and speaks one. That one alone may have killed it, and alone gets
the strike; the others have done nothing. Proved by ``tests/contract/test_line_recovery.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tts_workers.link import nonce_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tts_tasks.events import EventLog
    from tts_tasks.ledger import BatchBook, JobLedger, JobRecord
    from tts_tasks.ledger.records import Evidence


class LineRecovery:
    """Any number of agents may do this at once: releases are fenced by the holder."""

    def __init__(self, book: BatchBook, ledger: JobLedger, events: EventLog) -> None:
        self._book = book
        self._ledger = ledger
        self._events = events
        #: queue → attempts that looked lost the last time, as ``(batch, worker, line, attempt)``
        self._suspected: dict[str, set[tuple[str, str, int, int]]] = {}

    def release(
        self, worker_id: str, evidence: Evidence, child: int | None = None
    ) -> tuple[int, set[str]]:
        """Give a worker's lines back; returns how many, and the queues that are to be rung.

        ``evidence``: how it ended; its ``job`` is what it was heard to speak last. ``child``: the
        pid of the child that is dead; what its successor has taken is left alone.
        """
        released, queues = 0, set()
        for batch_id in self._book.claimed_by(worker_id):
            given_back = self._release_of(batch_id, worker_id, evidence, child)
            batch = self._book.get(batch_id) if given_back else None
            released += given_back
            if batch is not None:
                queues.add(batch.queue)
        return released, queues

    def reconcile(self, queue: str, working_on: Mapping[str, str]) -> int:
        """Give back lines that have fallen through the hands of who took them; returns how many.

        A take may come to the store after its taker was recovered: of a worker that was cut off,
        or of a child that has outlived its parent. ``working_on``: the living workers, and what
        each says it works on. That may be old news, so it takes two looks in a row to find a line
        lost: leave half a minute between them.
        """
        before = self._suspected.get(queue, set())
        suspected = self._suspected[queue] = set()
        given_back = 0
        for batch in self._book.unreported():
            if batch.queue != queue:
                continue
            for worker_id, lines in self._book.holders(batch.id).items():
                lost = self._lost(self._book.results(batch.id, lines), worker_id, working_on)
                seen = {
                    line: (batch.id, worker_id, line, job.attempt) for line, job in lost.items()
                }
                suspected.update(seen.values())
                lost = {line: job for line, job in lost.items() if seen[line] in before}
                if lost:
                    evidence = {"reason": "its worker did not work on it"}
                    given_back += self._give_back(batch.id, worker_id, lost, evidence)
        return given_back

    def _lost(
        self, held: dict[int, JobRecord], worker_id: str, working_on: Mapping[str, str]
    ) -> dict[int, JobRecord]:
        """Return those of a worker's lines that the child it has now did not take."""
        if not working_on.get(worker_id):
            return held
        works_on = self._ledger.get(working_on[worker_id])
        if works_on is None or works_on.worker != worker_id:
            return {}  # it has just ended: nobody knows until the next look
        child, dot, _ = works_on.nonce.partition(".")
        return {line: job for line, job in held.items() if not job.nonce.startswith(child + dot)}

    def _release_of(
        self, batch_id: str, worker_id: str, evidence: Evidence, child: int | None
    ) -> int:
        held = self._book.results(batch_id, self._book.held_by(batch_id, worker_id))
        mine = {
            line: job
            for line, job in sorted(held.items())
            if child is None or job.nonce.startswith(nonce_prefix(child))
        }
        suspect = _suspect(batch_id, list(mine), str(evidence.get("job", "")))
        if suspect is not None:
            self._strike(mine[suspect], worker_id, evidence)
        return self._give_back(batch_id, worker_id, mine, evidence)

    def _give_back(
        self, batch_id: str, worker_id: str, lines: dict[int, JobRecord], evidence: Evidence
    ) -> int:
        entries = [(line, job.attempt, False) for line, job in sorted(lines.items())]
        answers = self._book.release(batch_id, worker_id, entries)
        given_back = sum(answer is not None for answer in answers)
        if given_back:
            self._events.emit(
                "batch.recovered",
                batch=batch_id,
                worker=worker_id,
                lines=given_back,
                reason=evidence["reason"],
            )
        return given_back

    def _strike(self, job: JobRecord, worker_id: str, evidence: Evidence) -> None:
        """Note that a line may have ended its worker, before it goes back to the others."""
        evidence = {**evidence, "worker": worker_id}
        if (
            self._ledger.release(job.id, worker_id, job.attempt, strike=True, evidence=evidence)
            is not None
        ):
            self._events.emit(
                "job.recovered",
                job=job.id,
                attempt=job.attempt,
                worker=worker_id,
                reason=evidence["reason"],
            )


def _suspect(batch_id: str, lines: list[int], told: str) -> int | None:
    """Return which of a worker's lines it spoke; ``told``: the job that it was heard of last.

    A worker that died as a whole was heard a heartbeat ago: where it has ended that line since, it
    is taken to have gone on in the order of the file.
    """
    batch, _, item = told.rpartition(":")
    if batch != batch_id or not item.isdecimal() or not lines:
        return None
    line = int(item)
    if line in lines:
        return line
    return next((later for later in lines if later > line), lines[0])
