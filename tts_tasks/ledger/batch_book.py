"""The book of batches: what is fed, taken, ended, flushed; whose turn and whose share it is.

A batch's lines stand in its manifest in storage. Redis holds numbers, and the *window*: chunks of
the manifest that were fed and are not yet flushed. A line of the window that nobody works on is an
entry ``line:chars:chunk``; the job's hash, the same that `JobLedger` knows, exists from the first
take of the line until its chunk is flushed. So a batch costs Redis no more when it is longer.

Rules 2 and 3 of the design live in the scripts that this module runs, as in `JobLedger`. Each is
about one hash tag, and asking again after a lost reply is asking once. Proved by
``tests/contract/test_batch_book.py``, ``tests/contract/test_batch_flushing.py`` and
``tests/contract/test_batch_cancel_retry_remove.py``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.errors import ConflictError, RequestError, UnavailableError
from tts_tasks.ledger.batch_lines import DONE_KEPT, UNSEALED_GRACE_S, BatchLines
from tts_tasks.ledger.batch_records import BatchRecord
from tts_tasks.ledger.jobs import CHUNK
from tts_tasks.ledger.replicas import ReplicaGate
from tts_tasks.redis_connection import in_order, server_time_ms, unavailable_is_clear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_tasks.redis_connection import RedisClient

#: A batch is listed before it is opened: one that is not there yet is not gone.
_OPENING_MS = 3_600_000
#: How long one writer of a report keeps the others from doing the same.
_REPORTING_S = 10


class BatchBook(BatchLines):
    """The book of batches in Redis. Every call may raise `UnavailableError`."""

    def __init__(
        self,
        url: str,
        *,
        client: RedisClient | None = None,
        replicas_acked: int = 0,
        unsealed_grace_s: float = UNSEALED_GRACE_S,
    ) -> None:
        """``replicas_acked``: so many replicas have what is opened or sealed before it returns.

        ``unsealed_grace_s``: how long a batch keeps its turn whose submitter neither seals it nor
        shows a sign of life.
        """
        super().__init__(url, client=client, unsealed_grace_s=unsealed_grace_s)
        self._replicas = ReplicaGate(replicas_acked)

    # -- what its submitter does --------------------------------------------------------------

    def open(
        self,
        batch_id: str,
        *,
        source: str,
        output: str,
        queue: str,
        created_ms: int,
        priority: float = 1.0,
    ) -> bool:
        """Open a batch; True if it is new here, False if the same was there.

        ``source`` identifies the content: the same id with another source or another output is a
        `ConflictError`. Queue, time and priority of the first opening stand.
        """
        if not 0 < priority < float("inf"):
            raise RequestError("priority", f"{priority} is not a positive number")
        output = output.strip("/")
        fields = {"queue": queue, "created_ms": created_ms, "priority": repr(float(priority))}
        args = [source, output, *(word for field in fields.items() for word in field)]
        open_it = partial(self._scripts.run, "open_manifest", [keys.batch(batch_id)], args)
        with unavailable_is_clear(self._url):
            # indexed first: a batch that is not listed could not be found again; and afterwards,
            # since somebody may have looked for it in between
            index = partial(_index, batch_id, server_time_ms(self._client))
            found = self._replicas.run(
                self._client, index, lambda pipe: open_it(client=pipe), index
            )[2]
            if found == "other":
                raise ConflictError(
                    f"batch {batch_id} exists with other content or another output; nothing was "
                    "changed: submit this file under another --id"
                )
            if found == "new":
                self._turns.enter(batch_id, output)
            else:
                self._turns.waits_for(batch_id)  # enters it anew where it is not over and gone
        return bool(found == "new")

    def grow(self, batch_id: str, chunks: int) -> None:
        """Note that so many chunks of the manifest are in storage; also a sign of life.

        Raises `UnavailableError` if the store has lost the batch since it was opened.
        """
        with unavailable_is_clear(self._url):
            there = self._scripts.run("grow_manifest", [keys.batch(batch_id)], [chunks])
        if there < 0:
            raise _lost(batch_id)

    def seal(self, batch_id: str, *, chunks: int, accepted: int, rejected: int) -> None:
        """Say that all lines are in the manifest.

        Raises `UnavailableError` if the store has lost the batch since it was opened.
        """
        args = [chunks, accepted, rejected]
        run = partial(self._scripts.run, "seal_manifest", [keys.batch(batch_id)], args)
        with unavailable_is_clear(self._url):
            (there,) = self._replicas.run(self._client, lambda pipe: run(client=pipe))
        if not there:
            raise _lost(batch_id)

    # -- the window -----------------------------------------------------------------------------

    def feed(self, batch_id: str, chunk: int, lines: Sequence[tuple[int, int]]) -> bool:
        """Bring the next chunk into the window: ``(line, chars)`` of its good lines.

        False, and nothing has changed, if another chunk is next (somebody else was first, or it
        is asked again after a lost reply), or there is no such batch. The lines of a cancelled
        batch end as cancelled at once.
        """
        args = [chunk, DONE_KEPT, *_entries(chunk, lines)]
        tag_keys = [keys.batch(batch_id), keys.batch_ready(batch_id), keys.batch_chunks(batch_id)]
        tag_keys.append(keys.batch_done(batch_id))
        feed = partial(self._scripts.run, "feed_chunk", tag_keys, args)
        with unavailable_is_clear(self._url):
            return bool(self._listed(batch_id, lambda pipe: feed(client=pipe)))

    def skip(
        self,
        batch_id: str,
        chunk: int,
        *,
        succeeded: int,
        failed: int,
        cancelled: int = 0,
        lines: Sequence[int] = (),
    ) -> bool:
        """Count a chunk whose report part is in storage already: fed and flushed at once.

        ``lines``: its good ones, for those who follow the batch. False as in `feed`.
        """
        tag_keys = [keys.batch(batch_id), keys.batch_done(batch_id)]
        args = [chunk, succeeded, failed, cancelled, DONE_KEPT, *lines]
        with unavailable_is_clear(self._url):
            return bool(self._scripts.run("skip_chunk", tag_keys, args))

    def to_flush(self, batch_id: str) -> list[int]:
        """Return the chunks of the window whose lines have all ended."""
        with unavailable_is_clear(self._url):
            left = self._client.hgetall(keys.batch_chunks(batch_id))
        return sorted(int(chunk) for chunk, jobs in left.items() if jobs == "0")

    def flushed(self, batch_id: str, chunk: int, lines: Sequence[int]) -> bool:
        """Say that a chunk's report part is in storage: the jobs of its lines go.

        False if somebody else has said so, or lines of it are tried again; nothing has changed.
        """
        tag_keys = [keys.batch(batch_id), keys.batch_chunks(batch_id), keys.batch_taken(batch_id)]
        tag_keys += [keys.batch_jobs(batch_id), keys.batch_segments(batch_id)]
        with unavailable_is_clear(self._url):
            return bool(self._scripts.run("flush_chunk", tag_keys, [chunk, *lines]))

    def reopen(
        self, batch_id: str, chunk: int, lines: Sequence[tuple[int, int]], *, cancelled: int = 0
    ) -> bool:
        """Bring ended lines of a flushed chunk back, ``(line, chars)``, to be tried again.

        ``cancelled`` of them had ended as cancelled, the others as failed; the counters are
        corrected. A cancelled batch is worked on again. False, and nothing has changed, if the
        chunk is in the window, or the batch does not have so many lines that ended like this.
        """
        args = [chunk, cancelled, *_entries(chunk, lines)]
        tag_keys = [keys.batch(batch_id), keys.batch_ready(batch_id), keys.batch_chunks(batch_id)]
        tag_keys += [keys.batch_done(batch_id), keys.batch_reporting(batch_id)]
        reopen = partial(self._scripts.run, "reopen_chunk", tag_keys, args)
        with unavailable_is_clear(self._url):
            index = partial(_index, batch_id, server_time_ms(self._client))
            in_order(self._client, index)
            reopened = bool(self._listed(batch_id, lambda pipe: reopen(client=pipe)))
            if reopened:
                in_order(self._client, index)
                self._turns.waits_for(batch_id)
        return reopened

    # -- the end --------------------------------------------------------------------------------

    def cancel(self, batch_id: str) -> bool:
        """Cancel a batch; True if it is cancelled now, also if it was before.

        Lines that are ready or running end as cancelled here and now: a worker that has one is
        told so when it notes progress or finishes it (its attempt is stale). Lines that are not
        yet fed end as they are. False if all lines have ended already, or there is no such batch.
        """
        tag_keys = [*_of_tag(batch_id)[:6], keys.batch_jobs(batch_id)]
        with unavailable_is_clear(self._url):
            if not self._scripts.run("cancel_batch", tag_keys, [DONE_KEPT]):
                return False
            self._turns.leave(batch_id)
        return True

    def is_cancelled(self, batch_id: str) -> bool:
        """Whether somebody has cancelled the batch."""
        with unavailable_is_clear(self._url):
            return bool(self._client.hexists(keys.batch(batch_id), "cancelled_ms"))

    def may_report(self, batch_id: str) -> bool:
        """Whether the caller is to write the report; for a while nobody else is.

        It only saves work: two writers would write the same.
        """
        with unavailable_is_clear(self._url):
            return bool(
                self._client.set(keys.batch_reporting(batch_id), "1", nx=True, ex=_REPORTING_S)
            )

    def reported(self, batch_id: str, uri: str, *, retention_s: int) -> bool:
        """Note where the report is, and let the batch expire after its retention.

        False, and nothing has changed, if there are chunks that are not flushed.
        """
        tag_keys = [keys.batch(batch_id), keys.batch_done(batch_id), keys.batch_runs(batch_id)]
        with unavailable_is_clear(self._url):
            if not self._scripts.run("report_batch", tag_keys, [uri, retention_s]):
                return False
            self._client.srem(keys.UNREPORTED, batch_id)
            self._turns.leave(batch_id)
        return True

    def remove(self, batch_id: str) -> None:
        """Remove everything of a batch; who works on its lines is refused from now on."""
        tag_keys = [*_of_tag(batch_id), keys.batch_jobs(batch_id), keys.batch_segments(batch_id)]
        with unavailable_is_clear(self._url):
            queue = self._client.hget(keys.batch(batch_id), "queue")
            self._scripts.run("remove_batch", tag_keys, [])
            pipe = self._client.pipeline(transaction=False)
            pipe.srem(keys.UNREPORTED, batch_id)
            pipe.zrem(keys.BATCHES, batch_id)
            if queue:
                pipe.zrem(keys.shares(queue), batch_id)
            pipe.execute()
            self._turns.leave(batch_id)

    # -- looking --------------------------------------------------------------------------------

    def get(self, batch_id: str) -> BatchRecord | None:
        """Return a batch, or None."""
        with unavailable_is_clear(self._url):
            fields = self._client.hgetall(keys.batch(batch_id))
        return BatchRecord.from_hash(batch_id, fields) if fields else None

    def all(self) -> list[BatchRecord]:
        """Return all batches, newest first."""
        with unavailable_is_clear(self._url):
            listed = self._client.zrevrange(keys.BATCHES, 0, -1)
            pipe = self._client.pipeline(transaction=False)
            for batch_id in listed:
                pipe.hgetall(keys.batch(batch_id))
            found = zip(listed, pipe.execute(), strict=True)
        return [BatchRecord.from_hash(id_, fields) for id_, fields in found if fields]

    def expired(self) -> list[str]:
        """Return the batches that are listed and gone: their retention is over, or they are lost.

        They stay listed until `forget`.
        """
        with unavailable_is_clear(self._url):
            opened_ms = server_time_ms(self._client) - _OPENING_MS
            listed = self._client.zrangebyscore(keys.BATCHES, "-inf", opened_ms)
            pipe = self._client.pipeline(transaction=False)
            for batch_id in listed:
                pipe.exists(keys.batch(batch_id))
            there = pipe.execute()
        return [id_ for id_, exists in zip(listed, there, strict=True) if not exists]

    def forget(self, batch_id: str) -> None:
        """Strike a batch off that has expired."""
        with unavailable_is_clear(self._url):
            self._client.zrem(keys.BATCHES, batch_id)

    def ended_lines(self, batch_id: str, after: int, limit: int = CHUNK) -> list[tuple[int, int]]:
        """Return ``(position, line)`` in the order in which lines ended, from a position (from 0).

        Only the newest `DONE_KEPT` are kept: the first one may stand after ``after``.
        """
        tag_keys = [keys.batch(batch_id), keys.batch_done(batch_id)]
        with unavailable_is_clear(self._url):
            first, *lines = self._scripts.run("ended_lines", tag_keys, [after, limit])
        return [(first + number, int(line)) for number, line in enumerate(lines)]

    def unreported(self) -> list[BatchRecord]:
        """Return the batches whose report is still to be written."""
        with unavailable_is_clear(self._url):
            found = {id_: self.get(id_) for id_ in sorted(self._client.smembers(keys.UNREPORTED))}
            over = [id_ for id_, record in found.items() if record is None or record.report]
            if over:
                self._client.srem(keys.UNREPORTED, *over)
        return [record for record in found.values() if record and not record.report]

    def relist(self) -> None:
        """List again every batch that has ready lines, or no report yet.

        What lists them can be lost alone: with a node of a cluster, or with whoever died in
        between two steps.
        """
        for record in self.all():
            ready = partial(_count_ready, record.id)
            with unavailable_is_clear(self._url):
                if not record.report:
                    self._client.sadd(keys.UNREPORTED, record.id)
                if ready(self._client):
                    self._listed(record.id, ready)


def _index(batch_id: str, opened_ms: int, pipe: RedisClient) -> None:
    pipe.zadd(keys.BATCHES, {batch_id: opened_ms}, nx=True)
    pipe.sadd(keys.UNREPORTED, batch_id)


def _count_ready(batch_id: str, client: RedisClient) -> Any:
    return client.llen(keys.batch_ready(batch_id))


def _of_tag(batch_id: str) -> list[str]:
    """Return the keys of a batch that are no jobs', in the order of the scripts."""
    return [
        make(batch_id)
        for make in (
            keys.batch,
            keys.batch_ready,
            keys.batch_chunks,
            keys.batch_done,
            keys.batch_taken,
            keys.batch_runs,
            keys.batch_reporting,
        )
    ]


def _entries(chunk: int, lines: Sequence[tuple[int, int]]) -> list[str]:
    return [f"{line}:{chars}:{chunk}" for line, chars in lines]


def _lost(batch_id: str) -> UnavailableError:
    return UnavailableError(
        f"Redis has lost batch {batch_id} while it was submitted: submit it again under the same id"
    )
