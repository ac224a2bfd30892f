"""Batches: open, seal, count, list. A batch's jobs are in `tts_tasks.ledger.jobs`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from tts_tasks import keys
from tts_tasks.errors import ConflictError, UnavailableError
from tts_tasks.ledger.jobs import CHUNK
from tts_tasks.ledger.replicas import ReplicaGate
from tts_tasks.redis_connection import (
    RedisClient,
    Scripts,
    in_order,
    server_time_ms,
    shared_client,
    unavailable_is_clear,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A batch is listed before it is opened: one that is not there yet is not gone.
_OPENING_MS = 3_600_000
#: How long one writer of a report keeps the others from doing the same.
_REPORTING_S = 10


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as the ledger holds it."""

    id: str
    output: str  #: prefix of its artifacts in storage
    queue: str
    sealed: bool  #: all lines are in
    accepted: int  #: lines that became jobs (0 until sealed)
    rejected: int
    succeeded: int
    failed: int
    last_line: int  #: the last physical line that was read so far
    created_ms: int
    report: str | None  #: URI, once it is written

    @property
    def total(self) -> int:
        """Lines of the file that are not blank."""
        return self.accepted + self.rejected

    @property
    def complete(self) -> bool:
        """Whether every line has its outcome."""
        return self.sealed and self.succeeded + self.failed >= self.accepted

    @classmethod
    def from_hash(cls, batch_id: str, fields: dict[str, str]) -> Self:
        """Read a batch's hash."""
        return cls(
            id=batch_id,
            output=fields.get("output", batch_id),
            queue=fields.get("queue", ""),
            sealed=fields.get("sealed") == "1",
            accepted=int(fields.get("accepted", 0)),
            rejected=int(fields.get("rejected", 0)),
            succeeded=int(fields.get("succeeded", 0)),
            failed=int(fields.get("failed", 0)),
            last_line=int(fields.get("last_line", 0)),
            created_ms=int(fields.get("created_ms", 0)),
            report=fields.get("report") or None,
        )


class BatchBook:
    """The ledger of batches in Redis. Every call may raise `UnavailableError`."""

    def __init__(
        self, url: str, *, client: RedisClient | None = None, replicas_acked: int = 0
    ) -> None:
        """``replicas_acked``: so many replicas have what is accepted before a call returns."""
        self._url = url
        self._client = client or shared_client(url)
        self._replicas = ReplicaGate(replicas_acked)
        self._scripts = Scripts(self._client, "tts_tasks.ledger")

    def open(self, batch_id: str, *, source: str, output: str, queue: str) -> bool:
        """Open a batch; True if its lines are still to be accepted, False if all are in.

        ``source`` identifies the content: the same id with the same source re-attaches, with
        another one it is a `ConflictError`.
        """
        with unavailable_is_clear(self._url):
            # indexed first: a batch that is not listed could not be found again
            opened = {batch_id: server_time_ms(self._client)}
            fields = [source, "output", output, "queue", queue]
            _, (outcome, sealed) = self._replicas.run(
                self._client,
                lambda pipe: pipe.zadd(keys.BATCHES, opened, nx=True),
                partial(self._queue_script, "open_batch", batch_id, fields),
            )
            if outcome != "other" and sealed != "1":
                self._client.sadd(keys.UNREPORTED, batch_id)
        if outcome == "other":
            raise ConflictError(
                f"batch {batch_id} exists with other content or another output; nothing was "
                "changed: submit this file under another --id"
            )
        return bool(sealed != "1")

    def reject(self, batch_id: str, lines: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Note rejected lines: ``(line, {"id", "field", "reason"})``."""
        if lines:
            mapping = {str(line): json.dumps(why, ensure_ascii=False) for line, why in lines}
            with unavailable_is_clear(self._url):
                self._replicas.run(
                    self._client,
                    lambda pipe: pipe.hset(keys.batch_rejected(batch_id), mapping=mapping),
                )

    def reached(self, batch_id: str, line: int) -> None:
        """Note up to which physical line the file has been read."""
        with unavailable_is_clear(self._url):
            self._scripts.run("reached", [keys.batch(batch_id)], [line])

    def seal(self, batch_id: str, *, accepted: int, rejected: int) -> int:
        """Say that all lines are in; returns how many jobs are still open.

        Raises `UnavailableError` if the store has lost the batch since it was opened.
        """
        with unavailable_is_clear(self._url):
            (answer,) = self._replicas.run(
                self._client,
                partial(self._queue_script, "seal_batch", batch_id, [accepted, rejected]),
            )
        still_open = int(answer)
        if still_open < 0:
            raise UnavailableError(
                f"Redis has lost batch {batch_id} while it was submitted: submit it again under "
                "the same id"
            )
        return still_open

    def get(self, batch_id: str) -> BatchRecord | None:
        """Return a batch, or None."""
        with unavailable_is_clear(self._url):
            fields = self._client.hgetall(keys.batch(batch_id))
        return BatchRecord.from_hash(batch_id, fields) if fields else None

    def all(self) -> list[BatchRecord]:
        """Return all batches, newest first; those that retention has removed are struck off."""
        with unavailable_is_clear(self._url):
            listed = self._client.zrevrange(keys.BATCHES, 0, -1, withscores=True)
            ids = [batch_id for batch_id, _ in listed]
            pipe = self._client.pipeline(transaction=False)
            for batch_id in ids:
                pipe.hgetall(keys.batch(batch_id))
            found = list(zip(ids, pipe.execute(), strict=True))
            just_opened_ms = server_time_ms(self._client) - _OPENING_MS
            gone = [batch_id for batch_id, at_ms in listed if at_ms < just_opened_ms]
            gone = [batch_id for batch_id, fields in found if not fields and batch_id in gone]
            if gone:
                self._client.zrem(keys.BATCHES, *gone)
        return [BatchRecord.from_hash(batch_id, fields) for batch_id, fields in found if fields]

    def rejected(self, batch_id: str) -> dict[int, dict[str, Any]]:
        """Return the rejected lines by line number."""
        with unavailable_is_clear(self._url):
            raw = self._client.hgetall(keys.batch_rejected(batch_id))
        return {int(line): json.loads(why) for line, why in sorted(raw.items(), key=_by_line)}

    def ended_lines(self, batch_id: str, after: int, limit: int = CHUNK) -> list[int]:
        """Return lines in the order in which they ended, from position ``after`` (from 0)."""
        with unavailable_is_clear(self._url):
            raw = self._client.lrange(keys.batch_done(batch_id), after, after + limit - 1)
        return [int(line) for line in raw]

    def may_report(self, batch_id: str) -> bool:
        """Whether the caller is to write the report; for a while nobody else is.

        It only saves work: two writers would write the same.
        """
        with unavailable_is_clear(self._url):
            return bool(
                self._client.set(keys.batch_reporting(batch_id), "1", nx=True, ex=_REPORTING_S)
            )

    def reported(self, batch_id: str, uri: str, job_ids: Sequence[str], retention_s: int) -> None:
        """Note that the report is written, and let the batch expire after its retention."""
        with unavailable_is_clear(self._url):
            own = (keys.batch(batch_id), keys.batch_done(batch_id), keys.batch_rejected(batch_id))
            let_expire = (*own, *map(keys.job, job_ids))
            in_order(
                self._client,
                lambda pipe: pipe.hset(keys.batch(batch_id), "report", uri),
                lambda pipe: [pipe.expire(key, retention_s) for key in let_expire],
                lambda pipe: pipe.srem(keys.UNREPORTED, batch_id),
            )

    def unreported(self) -> list[BatchRecord]:
        """Return the batches whose report is still to be written."""
        with unavailable_is_clear(self._url):
            found = {id_: self.get(id_) for id_ in sorted(self._client.smembers(keys.UNREPORTED))}
            gone = [id_ for id_, record in found.items() if record is None]
            if gone:
                self._client.srem(keys.UNREPORTED, *gone)
        return [record for record in found.values() if record]

    def _queue_script(
        self, name: str, batch_id: str, args: Sequence[Any], pipe: RedisClient
    ) -> None:
        self._scripts.run(name, [keys.batch(batch_id)], [*args], client=pipe)


def _by_line(item: tuple[str, str]) -> int:
    return int(item[0])
