"""The worker's half of the book of batches: take runs of lines, end them, give them back.

Proved by ``tests/contract/test_batch_book.py`` and ``tests/contract/test_batch_given_back.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.ledger.batch_records import ENDINGS, Run
from tts_tasks.ledger.jobs import CHUNK
from tts_tasks.ledger.records import JobRecord
from tts_tasks.ledger.shares import Shares
from tts_tasks.ledger.turns import NUMBER, Turns
from tts_tasks.redis_connection import (
    RedisClient,
    Scripts,
    in_order,
    shared_client,
    unavailable_is_clear,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tts_tasks.ledger.batch_records import LineEnding

#: How many ended lines of a batch are kept for those who follow it.
DONE_KEPT = 10_000
#: How long a batch keeps its turn whose submitter neither seals it nor shows a sign of life.
UNSEALED_GRACE_S = 600.0

_to_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class _Asked:
    """A take as it was asked for: whom, under which nonce, how much."""

    worker: str
    nonce: str
    max_jobs: int
    max_chars: int
    max_strikes: int
    elsewhere_ms: int


class BatchLines:
    """The lines of the batches' windows in Redis. Every call may raise `UnavailableError`."""

    def __init__(
        self,
        url: str,
        *,
        client: RedisClient | None = None,
        unsealed_grace_s: float = UNSEALED_GRACE_S,
    ) -> None:
        self._url = url
        self._client = client or shared_client(url)
        self._scripts = Scripts(self._client, "tts_tasks.ledger")
        self._shares = Shares(self._client, self._scripts)
        self._turns = Turns(self._client, self._scripts, unsealed_grace_s=unsealed_grace_s)
        #: worker → nonce of its last take, the batch that was asked, where its run was to start
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
        """Take a run of lines of the batch that is next; None: there is nothing to take now.

        At most ``max_jobs`` lines and ``max_chars`` chars, and at least one line; a line that has
        strikes comes alone. The worker's own list of claims gets the batch's id first, for its
        recoverers. ``nonce`` names this take: asking this book again under it, after a lost reply,
        is asking once, as long as the worker has the lines. ``elsewhere_s``: for so long after
        this worker failed over a line it is left to other workers; 0 where there are none.
        """
        elsewhere_ms = int(elsewhere_s * 1000)
        asked = _Asked(worker, nonce, max_jobs, max_chars, max_strikes, elsewhere_ms)
        with unavailable_is_clear(self._url):
            last_nonce, batch_id, start = self._asked.get(worker, ("", "", 0.0))
            if last_nonce == nonce and (run := self._take_of(queue, batch_id, start, asked)):
                return run
            waiting: list[str] = []
            for batch_id, start, has_turn in self._candidates(queue):
                if not has_turn:
                    waiting.append(batch_id)
                elif run := self._take_of(queue, batch_id, start, asked, waiting):
                    return run
        return None

    def _candidates(self, queue: str) -> Iterator[tuple[str, float, bool]]:
        """Yield ``(batch, virtual time, whether it has its turn)``, the fairest first."""
        pipe = self._client.pipeline(transaction=False)
        self._shares.page(pipe, queue)
        pipe.hget(keys.TURNS, NUMBER)
        first_page, number = pipe.execute()
        if not first_page:
            return
        self._turns.order(number)
        known: dict[str, bool] = {}
        for batch_id, at in self._shares.fairest_first(queue, first_page):
            yield batch_id, at, self._turns.has_turn(batch_id, known)

    def _take_of(
        self, queue: str, batch_id: str, start: float, asked: _Asked, waiting: Sequence[str] = ()
    ) -> Run | None:
        """Take a run of one batch; one that has nothing leaves the queue's shares.

        ``waiting``: batches that would have come before, but for their turn. They save nothing
        up meanwhile.
        """
        self._asked[asked.worker] = asked.nonce, batch_id, start
        tag_keys = [
            make(batch_id)
            for make in (
                keys.batch,
                keys.batch_ready,
                keys.batch_taken,
                keys.batch_runs,
                keys.batch_jobs,
            )
        ]
        limits = [asked.max_jobs, asked.max_chars, asked.max_strikes]
        args = [asked.worker, asked.nonce, *limits, repr(start), asked.elsewhere_ms]

        def note(pipe: RedisClient) -> None:
            pipe.sadd(keys.claims(asked.worker), batch_id)

        # noted again afterwards: a recoverer of an earlier child may have struck it off in between
        take = partial(self._scripts.run, "take_lines", tag_keys, args)
        _, answer, _ = in_order(self._client, note, lambda pipe: take(client=pipe), note)
        if answer[0] != "run":
            self._shares.leave(queue, batch_id)
            self._let_go(batch_id, asked.worker)
            return None
        self._shares.charge(queue, {**dict.fromkeys(waiting, start), batch_id: float(answer[1])})
        return Run.from_text(batch_id, answer[2])

    def finish(self, batch_id: str, worker: str, endings: Sequence[LineEnding]) -> list[bool]:
        """End lines that a worker has taken; returns for each False if its attempt is stale.

        The batch and the chunk count a line in the same step. Finishing twice is finishing once,
        until the chunk is flushed.
        """
        if not endings:
            return []
        args: list[Any] = [worker, DONE_KEPT]
        for ending in endings:
            if ending.state not in ENDINGS:
                raise ValueError(f"a line cannot end as {ending.state!r}")
            args.append(f"{ending.line} {ending.chunk} {ending.attempt} {ending.state}")
            args.append(_to_json(ending.result))
        tag_keys = [keys.batch(batch_id), keys.batch_chunks(batch_id), keys.batch_done(batch_id)]
        tag_keys += [keys.batch_taken(batch_id), keys.batch_jobs(batch_id)]
        with unavailable_is_clear(self._url):
            answers: str = self._scripts.run("finish_lines", tag_keys, args)
        return [answer == "1" for answer in answers]

    def release(
        self,
        batch_id: str,
        worker: str,
        lines: Sequence[tuple[int, int | None, bool]],
        *,
        untried: bool = False,
    ) -> list[int | None]:
        """Take lines back from a worker: ``(line, attempt or None for any, strike)``.

        They go to the head of the batch's ready lines, in the order of the file. ``untried``: as
        the worker itself knows, nothing has been done with them, so this was no attempt and the
        next one gets its number. Returns for each its strikes, or None if the worker has it not.
        """
        args: list[Any] = [worker, int(untried)]
        for line, attempt, strike in lines:
            args += [line, "*" if attempt is None else attempt, int(strike)]
        tag_keys = [keys.batch_ready(batch_id), keys.batch_taken(batch_id)]
        tag_keys.append(keys.batch_jobs(batch_id))
        run = partial(self._scripts.run, "release_lines", tag_keys, args)
        with unavailable_is_clear(self._url):
            strikes = self._listed(batch_id, lambda pipe: run(client=pipe)) if lines else []
            self._let_go(batch_id, worker)
        return [None if number < 0 else number for number in strikes or [-1] * len(lines)]

    def _listed(self, batch_id: str, step: Callable[[RedisClient], object]) -> Any:
        """Run a step that may bring ready lines; returns its answer, None if there is no batch.

        The batch is listed before, so that a crash in between leaves no lines that nobody looks
        for, and again afterwards: a taker that found nothing may have struck it off in between.
        """
        queue, virtual_time = self._client.hmget(keys.batch(batch_id), "queue", "virtual_time")
        if queue is None:
            return None
        enter = partial(self._shares.enter, queue, batch_id, virtual_time or "0")
        _, answer, _ = in_order(self._client, enter, step, enter)
        return answer

    # -- who has what -------------------------------------------------------------------------

    def holders(self, batch_id: str) -> dict[str, list[int]]:
        """Return the lines that each worker has taken and neither ended nor given back."""
        with unavailable_is_clear(self._url):
            taken = self._client.hgetall(keys.batch_taken(batch_id))
        held: dict[str, list[int]] = {}
        for line, worker in sorted((int(line), worker) for line, worker in taken.items()):
            if worker:
                held.setdefault(worker, []).append(line)
        return held

    def held_by(self, batch_id: str, worker: str) -> list[int]:
        """Return the lines that a worker has, for its recoverers."""
        with unavailable_is_clear(self._url):
            lines = self._scripts.run("held_lines", [keys.batch_taken(batch_id)], [worker])
        return sorted(map(int, lines))

    def claimed_by(self, worker: str) -> list[str]:
        """Return the batches that a worker has taken lines of, or was about to."""
        with unavailable_is_clear(self._url):
            claims = self._client.smembers(keys.claims(worker))
        return sorted(claim for claim in claims if ":" not in claim)  # the others are jobs

    def let_go(self, batch_id: str, worker: str) -> bool:
        """Strike a batch off a worker's list of claims, unless it has lines of it."""
        with unavailable_is_clear(self._url):
            return self._let_go(batch_id, worker)

    def _let_go(self, batch_id: str, worker: str) -> bool:
        # Only where nothing is held: who dies before it has put the batch back would leave lines
        # that no recoverer looks for.
        if not self.held_by(batch_id, worker):
            # looked at again afterwards: a take meanwhile is seen, or notes itself again
            self._client.srem(keys.claims(worker), batch_id)
            if not self.held_by(batch_id, worker):
                return True
        self._client.sadd(keys.claims(worker), batch_id)
        return False

    def results(self, batch_id: str, lines: Sequence[int]) -> dict[int, JobRecord]:
        """Return the jobs of lines of the window; a line that was never taken has none."""
        found: dict[int, JobRecord] = {}
        for start in range(0, len(lines), CHUNK):
            chunk = lines[start : start + CHUNK]
            with unavailable_is_clear(self._url):
                rows = self._scripts.run("read_lines", [keys.batch_jobs(batch_id)], [*chunk])
            for line, row in zip(chunk, rows.split("\n"), strict=True):
                if row:
                    job_id = keys.batch_job_id(batch_id, line)
                    found[line] = JobRecord.from_hash(job_id, json.loads(row))
        return found

    # -- what there is to do --------------------------------------------------------------------

    def has_work(self, queue: str) -> bool:
        """Whether a batch of a queue that has its turn has ready lines."""
        with unavailable_is_clear(self._url):
            return any(
                has_turn and self._client.llen(keys.batch_ready(batch_id))
                for batch_id, _, has_turn in self._candidates(queue)
            )

    def ready(self, batch_id: str) -> int:
        """Return how many lines of a batch are ready to be taken."""
        with unavailable_is_clear(self._url):
            return int(self._client.llen(keys.batch_ready(batch_id)))

    def backlog(self, queue: str) -> int:
        """Return how many lines of a queue's batches are ready, also of those that wait."""
        with unavailable_is_clear(self._url):
            pipe = self._client.pipeline(transaction=False)
            for batch_id in self._client.zrange(keys.shares(queue), 0, -1):
                pipe.llen(keys.batch_ready(batch_id))
            return sum(pipe.execute())

    def waits_for(self, batch_id: str) -> list[str]:
        """Return the batches whose turn comes before (empty: it has its turn)."""
        with unavailable_is_clear(self._url):
            return self._turns.waits_for(batch_id)
