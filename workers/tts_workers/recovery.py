"""Gives back what a dead worker held, and rings for what nobody holds.

Any number of agents may do this at once: releases are fenced by the holder, messages are moved in
a transaction, and a ring too many is absorbed by the claim. Proved by
``tests/e2e/test_failover.py``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from typing import TYPE_CHECKING

import redis
from kombu.exceptions import OperationalError

from tts_tasks.batches.expiry import remove_expired
from tts_tasks.batches.window import Window
from tts_tasks.doorbell import ring, ring_for_work
from tts_tasks.errors import TTSError, UnavailableError
from tts_tasks.ledger import BatchBook, SegmentLog
from tts_tasks.storage import open_storage
from tts_tasks.storage.epochs import EpochMarks
from tts_tasks.storage.staging import sweep_staging
from tts_tasks.voices.references import ReferenceStore
from tts_tasks.voices.uses import wanted_audio
from tts_workers.evidence import of_lost_worker
from tts_workers.held_messages import held_by, put_back
from tts_workers.lease_keeper import remove_lease
from tts_workers.line_recovery import LineRecovery
from tts_workers.link import nonce_prefix

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from celery import Celery

    from tts_tasks.coordination import Coordinator, WorkerRecord
    from tts_tasks.events import EventLog
    from tts_tasks.ledger import JobLedger, JobRecord
    from tts_tasks.ledger.records import Evidence
    from tts_tasks.settings import Settings

logger = logging.getLogger(__name__)

_RECONCILE_LIMIT = 500
#: How long batches are settled at a time: a large one must not hold up the recovery of the dead.
_SETTLE_S = 1.0
#: How often it is looked for lines of batches that have fallen through somebody's hands; found so
#: two times in a row, they are given back.
_LINES_EVERY_S = 30.0


def unacked_keys(worker_id: str) -> dict[str, str]:
    """Return the transport options under which a worker keeps the messages it has taken.

    One set a worker and incarnation: so it is known what a dead one held, and a restart under the
    same name does not inherit it.
    """
    return {
        "unacked_key": f"tts:unacked:{worker_id}",
        "unacked_index_key": f"tts:unacked_index:{worker_id}",
        "unacked_mutex_key": f"tts:unacked_mutex:{worker_id}",
    }


class Recovery:
    """Carries out what the decision orders for dead workers and lost messages."""

    def __init__(
        self,
        app: Celery,
        settings: Settings,
        *,
        name: str,
        ledger: JobLedger,
        coordinator: Coordinator,
        events: EventLog,
        book: BatchBook | None = None,
    ) -> None:
        """``name``: who recovers, as events have it."""
        self._name = name
        self._app = app
        self._settings = settings
        self._ledger = ledger
        self._coordinator = coordinator
        self._events = events
        self._book = book or BatchBook(settings.redis_url)
        self._lines = LineRecovery(self._book, ledger, events)
        self._segments = SegmentLog(settings.redis_url)
        self._epochs_unknown = False
        self._next_lines_s: dict[str, float] = {}  #: by queue
        self._unsettled: set[str] = set()  #: batches whose failure has been told

    def recover(self, worker_id: str, *, silent_s: float) -> None:
        """Give back everything a dead worker held, and strike it off the registry."""
        record = self._coordinator.workers().get(worker_id)
        evidence = of_lost_worker(silent_s) | ({"job": record.job} if record else {})
        if record is not None:
            self._depose(record, silent_s)
        # released first: a message that comes back before would find the job still held
        released = self._release_claims(worker_id, evidence)
        lines, queues = self._lines.release(worker_id, evidence)
        restored = self._restore_messages(worker_id)
        self._ring(record for record in released if _task_id(record) not in restored)
        self._ring_for_work(queues)
        was_registered = self._coordinator.forget(worker_id)
        if not (was_registered or released or lines or restored):
            return  # somebody else has done it
        self._events.emit(
            "worker.dead",
            worker=worker_id,
            silent_s=round(silent_s, 3),
            jobs=[record.id for record in released],
            lines=lines,
            messages=len(restored),
        )

    def _depose(self, record: WorkerRecord, silent_s: float) -> None:
        """Take a dead worker's lease away before it is struck off.

        Where another lane's worker has noticed its death first, those of its own lane, who would
        depose it, no longer find it: they would have to wait until its lease has run out.
        """
        lease = self._coordinator.read(record.lane_key)
        if lease is not None and lease.holder == record.id:
            reason = f"it is dead: no heartbeat for {silent_s:.1f} s"
            events, by = self._events, self._name
            remove_lease(self._coordinator, events, record.lane_key, lease, by=by, reason=reason)

    def give_back_claims(
        self, worker_id: str, evidence: Evidence | None = None, *, child: int | None = None
    ) -> list[str]:
        """Release the jobs that a worker's dead child had claimed, and have them redone.

        ``child``: its pid. What its successor has claimed meanwhile is left alone, however late
        this is done. None: the worker leaves, and gives back everything. ``evidence``: how the
        child ended; None: its worker leaves.
        Their messages go to the head of the queue: who has waited longest is served first. Celery
        would put them at its end; it is slower to notice, and then finds nothing left to do.
        """
        evidence = evidence or {"reason": "its worker left"}
        released = self._release_claims(worker_id, evidence, child)
        _, queues = self._lines.release(worker_id, evidence, child)
        task_ids = {_task_id(record) for record in released}
        restored = self._restore_messages(worker_id, only=task_ids) if released else set()
        self._ring(record for record in released if _task_id(record) not in restored)
        self._ring_for_work(queues)
        return [record.id for record in released]

    def _release_claims(
        self, worker_id: str, evidence: Evidence, child: int | None = None
    ) -> list[JobRecord]:
        released: list[JobRecord] = []
        evidence = {**evidence, "worker": worker_id}
        for job_id in self._ledger.claims_of(worker_id):
            attempt = None
            if child is not None:
                held = self._ledger.get(job_id)
                if held is None or not held.nonce.startswith(nonce_prefix(child)):
                    continue
                attempt = held.attempt
            strikes = self._ledger.release(
                job_id, worker_id, attempt, strike=True, evidence=evidence
            )
            if strikes is None:
                continue
            record = self._ledger.get(job_id)
            if record is None:
                continue
            self._events.emit(
                "job.recovered",
                job=job_id,
                attempt=record.attempt,
                worker=worker_id,
                reason=evidence["reason"],
            )
            released.append(record)
        return released

    def reconcile(self, queue: str, working_on: Mapping[str, str], *, at_once: bool = False) -> int:
        """Ring again for what is to be done and nobody has heard of; returns for how many jobs.

        ``working_on``: the living workers, and what each says it works on. A job that a living
        worker claimed a while ago and does not work on has fallen through its hands.
        ``at_once``: somebody has just died, so a message that is on nobody's list may be lost, and
        is not waited for.
        """
        grace_s = self._settings.lost_message_grace_s
        unheard = self._ledger.unheard(
            queue, grace_s=0 if at_once else grace_s, limit=_RECONCILE_LIMIT
        )
        fresh_ms = self._ledger.now_ms() - grace_s * 1000
        lost: list[JobRecord] = []
        in_good_hands: list[str] = []
        for job_id, record in zip(unheard, self._ledger.get_many(unheard), strict=True):
            if record is None or record.ended:
                if not at_once:  # else it may be about to be accepted
                    self._ledger.close(queue, job_id)
            elif record.state == "accepted":
                lost.append(record)
            elif working_on.get(record.worker) == job_id or record.claimed_ms > fresh_ms:
                in_good_hands.append(job_id)
            elif self._ledger.release(
                job_id,
                record.worker,
                record.attempt,
                strike=True,
                evidence={"reason": "its worker did not work on it", "worker": record.worker},
            ):
                lost.append(record)
        self._ledger.rung(queue, in_good_hands)
        if not at_once:
            self._reconcile_lines(queue, working_on)
        self._ring_for_work([queue])
        if lost:
            self._ring(lost)
            self._events.emit("job.rung_again", queue=queue, jobs=[record.id for record in lost])
        return len(lost)

    def _reconcile_lines(self, queue: str, working_on: Mapping[str, str]) -> None:
        now_s = time.monotonic()
        if now_s < self._next_lines_s.get(queue, 0.0):
            return
        self._lines.reconcile(queue, working_on)
        self._next_lines_s[queue] = now_s + _LINES_EVERY_S

    def settle_batches(self) -> None:
        """Flush, feed and report what those left who worked on it, for a moment each time.

        So a batch is fed when its submitter is gone, and reported when its last worker died.
        """
        unreported = self._book.unreported()
        if not unreported:
            return
        storage = open_storage(self._settings.storage_url)
        window = Window(self._book, storage, self._events, retention_s=self._settings.retention_s)
        until_s = time.monotonic() + _SETTLE_S
        for batch in unreported:
            try:
                window.settle(batch.id, stop=lambda: time.monotonic() > until_s)
            except UnavailableError:
                raise
            except TTSError as error:  # it keeps none of the others
                if batch.id not in self._unsettled:
                    logger.warning("batch %s is not settled yet: %s", batch.id, error)
                self._unsettled.add(batch.id)
            else:
                self._unsettled.discard(batch.id)

    def sweep(self) -> None:
        """Remove what attempts that died, and batches that have expired, have left in storage.

        And list again what may have been lost of the lists alone.
        """
        self._book.relist()
        storage = open_storage(self._settings.storage_url)
        if removed := sweep_staging(storage, self._still_wanted):
            logger.info("%d staged segments of jobs that have ended are removed", removed)
        if removed := ReferenceStore(storage).sweep(lambda: wanted_audio(self._ledger)):
            logger.info("%d reference recordings that nothing needs are removed", removed)
        for batch_id in self._book.expired():
            if remove_expired(storage, batch_id, self._settings.retention_s):
                self._book.forget(batch_id)

    def _still_wanted(self, job_ids: Iterable[str]) -> set[str]:
        """Return those jobs of which the segments are needed: by an attempt, or by a listener."""
        ids = list(job_ids)
        records = zip(ids, self._ledger.get_many(ids), strict=True)
        is_open = {job_id for job_id, record in records if record and not record.ended}
        return is_open | {job_id for job_id in ids if self._segments.exists(job_id)}

    def highest_epoch(self) -> int:
        """Return up to where the storage says that the lane's epochs are used."""
        lane_key = self._settings.lane_key
        try:
            floor = EpochMarks(open_storage(self._settings.storage_url), lane_key).floor()
        except TTSError as error:
            if not self._epochs_unknown:  # once an outage: candidates ask again and again
                self._events.emit("lease.epochs_unknown", lane=lane_key, reason=str(error))
            self._epochs_unknown = True
            raise
        self._epochs_unknown = False
        return floor

    def _ring(self, records: Iterable[JobRecord]) -> None:
        by_queue: dict[str, list[JobRecord]] = {}
        for record in records:
            by_queue.setdefault(record.meta.queue, []).append(record)
        for queue, group in by_queue.items():
            rung_ms = self._ledger.rung(queue, [record.id for record in group])
            task_ids = [_task_id(record) for record in group]
            ring(self._app, queue, task_ids, rung_ms=rung_ms)

    def _ring_for_work(self, queues: Iterable[str]) -> None:
        for queue in queues:
            if self._book.has_work(queue):
                ring_for_work(self._app, queue, self._settings)

    def _restore_messages(self, worker_id: str, *, only: Collection[str] = ()) -> set[str]:
        """Put messages that a worker had taken back to the head of their queues.

        ``only``: the task ids that it is about; none: all, of a worker that is no more. Returns
        the task ids of those that were put back.
        """
        options = dict(self._app.conf.broker_transport_options or {}) | unacked_keys(worker_id)
        try:
            with (
                contextlib.closing(self._app.connection_for_write()) as template,
                template.clone(transport_options=options) as connection,
                contextlib.closing(connection.channel()) as channel,
                channel.conn_or_acquire() as client,
            ):
                held = held_by(channel, client)
                task_ids = {tag: _task_id_of_message(entry) for tag, entry in held.items()}
                tags = [tag for tag, task_id in task_ids.items() if not only or task_id in only]
                put_back(channel, client, tags)
                if not only:
                    client.delete(channel.unacked_index_key)
        except (redis.RedisError, OperationalError, OSError) as error:
            raise UnavailableError(
                f"messages of {worker_id} not given back yet: {error}"
            ) from error
        return {task_ids[tag] for tag in tags}


def _task_id(record: JobRecord) -> str:
    return record.meta.task_id or record.id


def _task_id_of_message(entry: bytes | str) -> str:
    try:
        return str(json.loads(entry)[0]["headers"]["id"])
    except (ValueError, KeyError, TypeError, IndexError):
        return ""
