"""Takes a file in as a batch: its manifest into storage, its first chunks into Redis, and a ring.

A client that dies on the way leaves a batch that is not sealed, and workers go on with what is in
its manifest: the same submit completes it. After Redis was emptied the manifest and the report's
parts are still there, so the same submit redoes nothing that is published.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TYPE_CHECKING

from tts_tasks.app import app
from tts_tasks.batches.manifest import Head, Manifest, ManifestLine
from tts_tasks.batches.window import Window
from tts_tasks.doorbell import ring_for_work
from tts_tasks.errors import ConflictError, RequestError, UnavailableError
from tts_tasks.events import EventLog
from tts_tasks.jsonl import BatchLine, RejectedLine
from tts_tasks.ledger import BatchBook
from tts_tasks.redis_connection import shared_client
from tts_tasks.routing import route_of
from tts_tasks.storage import artifact_name, open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tts_tasks.batches.manifest import Summary
    from tts_tasks.settings import Settings

    _Read = Callable[[], Iterable[BatchLine | RejectedLine]]

#: So long a submitter stays to flush and feed what it has brought; workers do it anyway.
_SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be submitted."""

    batch: str
    source: str  #: identifies the content
    output: str  #: prefix of the artifacts in storage
    priority: float = 1.0
    wait_for_output: bool = True  #: wait for one's turn where another batch writes there

    def __post_init__(self) -> None:
        """Raise `RequestError` for a priority that is none."""
        if not 0 < self.priority < math.inf:
            raise RequestError("priority", f"{self.priority} is not a positive number")


class Submission:
    """The taking in of one batch."""

    def __init__(
        self,
        order: Order,
        settings: Settings,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``on_progress``: called with the number of lines taken in so far."""
        self._order = order
        self._settings = settings
        self._on_progress = on_progress
        self._storage = open_storage(settings.storage_url)
        self._manifest = Manifest(self._storage, order.batch)
        self._book = BatchBook(settings.redis_url, replicas_acked=settings.replicas_acked)
        self._events = EventLog(shared_client(settings.redis_url), kept=settings.events_kept)
        self._window = Window(
            self._book, self._storage, self._events, retention_s=settings.retention_s
        )
        self._queue = route_of(settings).batch_queue
        self._lines = 0

    def run(self, read: _Read) -> None:
        """Take in what ``read()`` yields, unless all of it is in.

        Raises `ConflictError` where the id stands for other content, or where the output is in use
        and is not to be waited for; and what storages and stores raise.
        """
        order = self._order
        known = self._book.get(order.batch)
        content = (order.source, order.output)
        if known is not None and known.sealed and (known.source, known.output) == content:
            return
        lines = iter(read())
        first = list(islice(lines, 1))  # a file that cannot be read opens no batch
        new = Head(
            batch=order.batch,
            source=order.source,
            output=order.output,
            pool=self._settings.pool,
            created_ms=time.time_ns() // 1_000_000,
            priority=order.priority,
        )
        head = self._manifest.begin(new)
        if self._open(head):
            self._refuse_to_wait(is_new=head is new)
        summary = self._manifest.summary() or self._write(chain(first, lines), head)
        self._book.seal(
            order.batch,
            chunks=summary.chunks,
            accepted=summary.accepted,
            rejected=summary.rejected,
        )
        until_s = time.monotonic() + _SETTLE_S
        self._window.settle(order.batch, stop=lambda: time.monotonic() > until_s)
        self._ring()
        self._events.emit(
            "batch.accepted", batch=order.batch, jobs=summary.accepted, rejected=summary.rejected
        )

    def _open(self, head: Head) -> bool:
        return self._book.open(
            head.batch,
            source=head.source,
            output=head.output,
            queue=self._queue,
            created_ms=head.created_ms,
            priority=head.priority,
        )

    def _refuse_to_wait(self, *, is_new: bool) -> None:
        if self._order.wait_for_output:
            return
        before = self._book.waits_for(self._order.batch)
        if before:
            self._book.remove(self._order.batch)
            if is_new:  # else the store has lost the batch, and what is reported of it must stay
                self._manifest.remove()
            raise ConflictError(
                f"batch {before[0]} writes to {self._order.output}: wait for it "
                f"(`ttsctl batch wait {before[0]}`), choose another --output, or let this one wait "
                "for its turn"
            )

    def _write(self, lines: Iterable[BatchLine | RejectedLine], head: Head) -> Summary:
        return self._manifest.write(manifest_lines(lines, head), self._chunk_is_in)

    def _chunk_is_in(self, number: int, lines: list[ManifestLine]) -> None:
        self._lines += len(lines)
        self._book.grow(self._order.batch, number)
        if self._window.feed(self._order.batch):
            self._ring()
        self._on_progress(self._lines)

    def _ring(self) -> None:
        # The batch is in: where the broker is away, a worker rings when it is back.
        with suppress(UnavailableError):
            ring_for_work(app, self._queue, self._settings)


def manifest_lines(lines: Iterable[BatchLine | RejectedLine], head: Head) -> Iterator[ManifestLine]:
    """Name each line's artifact, and keep what its request says besides the defaults.

    The names hang on nothing but the line and the head: a file that is submitted again under the
    head in force gets the same ones.
    """
    accepted_at = datetime.fromtimestamp(head.created_ms / 1000, UTC)
    for line in lines:
        if isinstance(line, RejectedLine):
            why = {"field": line.field, "reason": line.reason}
            yield ManifestLine(line.line, line.id, rejected=why)
            continue
        request = line.request
        name = artifact_name(
            prefix=head.output,
            output_name=request.output_name,
            audio_format=request.format,
            accepted_at=accepted_at,
            job_id=line.id,
        )
        fields = request.model_dump(mode="json", exclude_unset=True)
        yield ManifestLine(line.line, line.id, name, len(request.text), fields)
