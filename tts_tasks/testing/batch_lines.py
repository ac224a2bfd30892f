"""`BatchLines` in memory: the worker's half of the book of batches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.ledger.batch_lines import UNSEALED_GRACE_S
from tts_tasks.ledger.batch_records import ENDINGS, LineEnding, Run, TakenJob
from tts_tasks.ledger.records import JobMeta, JobRecord
from tts_tasks.ledger.turns import TurnOrder
from tts_tasks.testing.ledger import MemoryLedger
from tts_tasks.testing.store import new_job

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tts_tasks.testing.store import BatchHash, MemoryStore, Wire


@dataclass(frozen=True, slots=True)
class _Asked:
    """A take as it was asked for: whom, under which nonce, how much."""

    worker: str
    nonce: str
    max_jobs: int
    max_chars: int
    max_strikes: int
    elsewhere_ms: int


class MemoryBatchLines:
    """The lines of the batches' windows in this process, on the store of a `MemoryLedger`.

    The methods whose names begin with ``_store_`` are what the store does in one step; a public
    method takes as many steps as the real one, so that a client can die between two of them.
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        wire: Wire | None = None,
        unsealed_grace_s: float = UNSEALED_GRACE_S,
    ) -> None:
        self.store = store
        self._ask: Wire = wire or store.at_once
        self._ledger = MemoryLedger(store, wire=wire)
        self._grace_ms = unsealed_grace_s * 1000
        self._asked: dict[str, tuple[str, str, float]] = {}

    def take(
        self,
        queue: str,
        worker: str,
        *,
        nonce: str,
        max_jobs: int,
        max_chars: int,
        max_strikes: int,
        elsewhere_s: float = 0.0,
    ) -> Run | None:
        """Take a run of lines of the batch that is next; None: there is nothing to take now."""
        elsewhere_ms = int(elsewhere_s * 1000)
        asked = _Asked(worker, nonce, max_jobs, max_chars, max_strikes, elsewhere_ms)
        last_nonce, batch_id, start = self._asked.get(worker, ("", "", 0.0))
        if last_nonce == nonce and (run := self._take_of(queue, batch_id, start, asked, [])):
            return run
        waiting: list[str] = []
        for batch_id, start, has_turn in self._candidates(queue):
            if not has_turn:
                waiting.append(batch_id)
            elif run := self._take_of(queue, batch_id, start, asked, waiting):
                return run
        return None

    def _candidates(self, queue: str) -> Iterator[tuple[str, float, bool]]:
        shares = self._ask(
            lambda: sorted((at, id_) for id_, at in self.store.shares[queue].items())
        )
        for at, batch_id in shares:
            yield batch_id, at, not self.waits_for(batch_id)

    def _take_of(
        self, queue: str, batch_id: str, start: float, asked: _Asked, waiting: Sequence[str]
    ) -> Run | None:
        self._asked[asked.worker] = asked.nonce, batch_id, start
        self._ask(self._store_note, asked.worker, batch_id)
        taken = self._ask(self._store_take, batch_id, start, asked)
        self._ask(self._store_note, asked.worker, batch_id)
        if taken is None:
            self._ask(self._store_leave_shares, queue, batch_id)
            self.let_go(batch_id, asked.worker)
            return None
        run, virtual_time = taken
        charges = {**dict.fromkeys(waiting, start), batch_id: virtual_time}
        self._ask(self._store_charge, queue, charges)
        return run

    def _store_note(self, worker: str, batch_id: str) -> None:
        self.store.claims[worker].add(batch_id)

    def _store_take(self, batch_id: str, start: float, asked: _Asked) -> tuple[Run, float] | None:
        book = self.store.books.get(batch_id)
        if book is None:
            return None
        nonce, lines = book.runs.get(asked.worker, ("", []))
        if nonce == asked.nonce and (again := self._again(batch_id, lines, asked)):
            return Run(batch_id, again), book.virtual_time
        run: list[TakenJob] = []
        left: list[tuple[int, int, int]] = []
        chars = 0
        for line, length, chunk in book.ready[: asked.max_jobs]:
            job = self.store.jobs.get(keys.batch_job_id(batch_id, line)) or self._new_job(
                batch_id, line, length, chunk
            )
            if self._is_left_to_others(job, asked):
                left.append((line, length, chunk))
                continue
            if run and (chars + length > asked.max_chars or job["strikes"]):
                break
            self.store.jobs[keys.batch_job_id(batch_id, line)] = job
            job.update(state="running", worker=asked.worker, nonce=asked.nonce)
            job.update(attempt=job["attempt"] + 1, claimed_ms=self.store.now_ms())
            book.taken[line] = asked.worker
            run.append(self._told(line, job, asked))
            chars += length
            if job["strikes"]:
                break
        if not run:
            return None
        book.ready[: len(run) + len(left)] = left
        book.runs[asked.worker] = asked.nonce, [job.line for job in run]
        book.virtual_time = max(book.virtual_time, start) + chars / book.priority
        return Run(batch_id, run), book.virtual_time

    def _is_left_to_others(self, job: dict[str, Any], asked: _Asked) -> bool:
        age_ms = self.store.now_ms() - job["released_ms"]
        own = job["struck_by"] == asked.worker and job["strikes"] < asked.max_strikes
        return bool(own and 0 <= age_ms < asked.elsewhere_ms)

    def _again(self, batch_id: str, lines: Sequence[int], asked: _Asked) -> list[TakenJob]:
        """Return what is left of a run that was taken under this nonce."""
        jobs = {line: self.store.jobs.get(keys.batch_job_id(batch_id, line)) for line in lines}
        held = ("running", asked.worker, asked.nonce)
        return [
            self._told(line, job, asked)
            for line, job in jobs.items()
            if job and (job["state"], job["worker"], job["nonce"]) == held
        ]

    def _new_job(self, batch_id: str, line: int, chars: int, chunk: int) -> dict[str, Any]:
        meta = JobMeta(queue="", name="", batch=batch_id, line=line)
        job = new_job(meta, request="{}", chars=chars, accepted_ms=self.store.now_ms())
        return job | {"chunk": chunk}

    @staticmethod
    def _told(line: int, job: dict[str, Any], asked: _Asked) -> TakenJob:
        return TakenJob(
            line=line,
            chunk=job["chunk"],
            attempt=job["attempt"],
            strikes=job["strikes"],
            segments_done=job["segments_done"],
            exhausted=job["strikes"] >= asked.max_strikes,
        )

    def finish(self, batch_id: str, worker: str, endings: Sequence[LineEnding]) -> list[bool]:
        """End lines that a worker has taken; returns for each False if its attempt is stale."""
        for ending in endings:
            if ending.state not in ENDINGS:
                raise ValueError(f"a line cannot end as {ending.state!r}")
        return self._ask(self._store_finish, batch_id, worker, list(endings)) if endings else []

    def _store_finish(
        self, batch_id: str, worker: str, endings: Sequence[LineEnding]
    ) -> list[bool]:
        return [self._store_finish_one(batch_id, worker, ending) for ending in endings]

    def _store_finish_one(self, batch_id: str, worker: str, ending: LineEnding) -> bool:
        job = self.store.jobs.get(keys.batch_job_id(batch_id, ending.line))
        asker = (ending.attempt, worker, ending.chunk)
        if job is None or (job["attempt"], job["worker"], job["chunk"]) != asker:
            return False
        result = json.dumps(ending.result, ensure_ascii=False)
        if job["state"] != "running":
            return (job["state"], job["result"]) == (ending.state, result)
        job.update(state=ending.state, result=result, finished_ms=self.store.now_ms())
        book = self.store.books[batch_id]
        book.taken[ending.line] = ""
        self._count(book, [(ending.line, ending.chunk)], ending.state)
        return True

    @staticmethod
    def _count(book: BatchHash, lines: Sequence[tuple[int, int]], state: str) -> None:
        """Count lines, ``(line, chunk)``, that have just ended."""
        book.ended[state] += len(lines)
        for line, chunk in lines:
            book.window[chunk] -= 1
            book.done.append(line)

    def release(
        self,
        batch_id: str,
        worker: str,
        lines: Sequence[tuple[int, int | None, bool]],
        *,
        untried: bool = False,
    ) -> list[int | None]:
        """Take lines back from a worker: ``(line, attempt or None for any, strike)``."""
        strikes: list[int | None] = [None] * len(lines)
        listed = bool(lines) and self._ask(self._store_enter_shares, batch_id)
        if listed:
            strikes = self._ask(self._store_release, batch_id, worker, list(lines), untried)
            self._ask(self._store_enter_shares, batch_id)
        self.let_go(batch_id, worker)
        return strikes

    def _store_release(
        self,
        batch_id: str,
        worker: str,
        lines: Sequence[tuple[int, int | None, bool]],
        untried: bool,
    ) -> list[int | None]:
        book = self.store.books.get(batch_id)
        answers: list[int | None] = []
        back: list[tuple[int, int, int]] = []
        for line, attempt, strike in lines:
            job = self.store.jobs.get(keys.batch_job_id(batch_id, line))
            held = book is not None and book.taken.get(line) == worker
            if book is None or job is None or not held or attempt not in (None, job["attempt"]):
                answers.append(None)
                continue
            if job["state"] == "running":  # else `JobLedger.release` has taken it back
                job.update(state="accepted", worker="", strikes=job["strikes"] + int(strike))
                job["attempt"] -= int(untried)
            book.taken[line] = ""
            back.append((line, job["chars"], job["chunk"]))
            answers.append(job["strikes"])
        if book is not None:
            book.ready[:0] = sorted(back)
        return answers

    # -- shares and turns -----------------------------------------------------------------------

    def _store_enter_shares(self, batch_id: str) -> bool:
        book = self.store.books.get(batch_id)
        if book is None:
            return False
        shares = self.store.shares[book.queue]
        at = shares.get(batch_id, min(shares.values(), default=book.virtual_time))
        shares[batch_id] = max(at, book.virtual_time)
        return True

    def _store_charge(self, queue: str, virtual_times: dict[str, float]) -> None:
        shares = self.store.shares[queue]
        for batch_id, at in virtual_times.items():
            if batch_id in shares:
                shares[batch_id] = max(shares[batch_id], at)

    def _store_leave_shares(self, queue: str, batch_id: str) -> None:
        self.store.shares[queue].pop(batch_id, None)
        book = self.store.books.get(batch_id)
        if book is not None and book.ready:
            self._store_enter_shares(batch_id)

    def waits_for(self, batch_id: str) -> list[str]:
        """Return the batches whose turn comes before (empty: it has its turn)."""
        return self._ask(self._store_waits_for, batch_id)

    def _store_waits_for(self, batch_id: str) -> list[str]:
        book = self.store.books.get(batch_id)
        if book is None or self._is_over(book):
            return []
        self._store_enter_turn(batch_id, book.output)
        before = TurnOrder(self.store.turns).before(batch_id)
        for other in before:
            if not self._keeps_turn(other):
                del self.store.turns[other]
        return [other for other in before if other in self.store.turns]

    def _store_enter_turn(self, batch_id: str, output: str) -> None:
        if batch_id not in self.store.turns:
            self.store.turn_number += 1
            self.store.turns[batch_id] = f"{self.store.turn_number} {output}"

    def _keeps_turn(self, batch_id: str) -> bool:
        book = self.store.books.get(batch_id)
        if book is None or self._is_over(book):
            return False
        return book.sealed or self.store.now_ms() - book.alive_ms <= self._grace_ms

    @staticmethod
    def _is_over(book: BatchHash) -> bool:
        return book.is_cancelled or (book.sealed and book.ended.total() >= book.accepted)

    # -- who has what, and what there is to do --------------------------------------------------

    def holders(self, batch_id: str) -> dict[str, list[int]]:
        """Return the lines that each worker has taken and neither ended nor given back."""
        return self._ask(self._store_holders, batch_id)

    def _store_holders(self, batch_id: str) -> dict[str, list[int]]:
        book = self.store.books.get(batch_id)
        held: dict[str, list[int]] = {}
        for line, worker in sorted(book.taken.items() if book else ()):
            if worker:
                held.setdefault(worker, []).append(line)
        return held

    def held_by(self, batch_id: str, worker: str) -> list[int]:
        """Return the lines that a worker has, for its recoverers."""
        return self.holders(batch_id).get(worker, [])

    def claimed_by(self, worker: str) -> list[str]:
        """Return the batches that a worker has taken lines of, or was about to."""
        return self._ask(lambda: sorted(id_ for id_ in self.store.claims[worker] if ":" not in id_))

    def let_go(self, batch_id: str, worker: str) -> bool:
        """Strike a batch off a worker's list of claims, unless it has lines of it."""
        if not self.held_by(batch_id, worker):
            self._ask(self.store.claims[worker].discard, batch_id)
            if not self.held_by(batch_id, worker):
                return True
        self._ask(self._store_note, worker, batch_id)
        return False

    def results(self, batch_id: str, lines: Sequence[int]) -> dict[int, JobRecord]:
        """Return the jobs of lines of the window; a line that was never taken has none."""
        job_ids = [keys.batch_job_id(batch_id, line) for line in lines]
        records = self._ledger.get_many(job_ids)
        return {line: job for line, job in zip(lines, records, strict=True) if job is not None}

    def has_work(self, queue: str) -> bool:
        """Whether a batch of a queue that has its turn has ready lines."""
        return any(
            has_turn and self._ask(self._store_ready, batch_id)
            for batch_id, _, has_turn in self._candidates(queue)
        )

    def ready(self, batch_id: str) -> int:
        """Return how many lines of a batch are ready to be taken."""
        return self._ask(self._store_ready, batch_id)

    def backlog(self, queue: str) -> int:
        """Return how many lines of a queue's batches are ready, also of those that wait."""
        return self._ask(lambda: sum(map(self._store_ready, self.store.shares[queue])))

    def _store_ready(self, batch_id: str) -> int:
        book = self.store.books.get(batch_id)
        return len(book.ready) if book else 0
