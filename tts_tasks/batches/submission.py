"""Takes a file in as a batch: its manifest into storage, its first chunks into Redis, and a ring.

A client that dies on the way leaves a batch that is not sealed, and workers go on with what is in
its manifest: the same submit completes it. After Redis was emptied the manifest and the report's
parts are still there, so the same submit redoes nothing that is published.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from tts_tasks.app import app
from tts_tasks.batches.manifest import CHUNK_LINES, Head, Manifest, ManifestLine
from tts_tasks.batches.window import Window
from tts_tasks.doorbell import ring_for_work
from tts_tasks.errors import ConflictError, NoPoolError, RequestError, UnavailableError
from tts_tasks.events import event_log
from tts_tasks.jsonl import BatchLine, RejectedLine
from tts_tasks.ledger import BatchBook
from tts_tasks.pinning import checking, looking_up, pinning_for_batch
from tts_tasks.pools import Needs, Offer, Pool, check_fits
from tts_tasks.routing import Route, router_of
from tts_tasks.storage import artifact_name, open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tts_tasks.batches.manifest import Summary
    from tts_tasks.jsonl import Pin
    from tts_tasks.pinning import Bring
    from tts_tasks.requests import SpeechRequest
    from tts_tasks.settings import Settings

    _Read = Callable[[Pin | None], Iterable[BatchLine | RejectedLine]]

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
    pool: str = ""  #: where it is spoken; empty: where most of its first lines can be
    strict: bool = False  #: one bad line refuses it

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
        bring: Bring | None = None,
    ) -> None:
        """``on_progress``: called with the number of lines taken in so far.

        ``bring`` returns the reference audio that a path in the file means, see `Pinning`.
        """
        self._order = order
        self._settings = settings
        self._on_progress = on_progress
        self._bring = bring
        self._storage = open_storage(settings.storage_url)
        self._manifest = Manifest(self._storage, order.batch)
        self._book = BatchBook(settings.redis_url, replicas_acked=settings.replicas_acked)
        self._events = event_log(settings)
        self._window = Window(
            self._book, self._storage, self._events, retention_s=settings.retention_s
        )
        self._lines = 0

    def run(self, read: _Read) -> None:
        """Take in what ``read(pin)`` yields, unless all of it is in.

        It is called with None first, for a few lines: a file that cannot be read opens no batch,
        and before there is a batch nothing can be pinned for it. They choose the pool.
        Raises `ConflictError` where the id stands for other content or is in another pool, or where
        the output is in use and is not to be waited for; `NoPoolError` where no pool can speak any
        of the lines; with ``strict`` `RequestError` for a bad line; and what storages and stores
        raise.
        """
        order = self._order
        if order.strict:
            self._refuse_bad_lines(read)
        known = self._book.get(order.batch)
        content = (order.source, order.output)
        if known is not None and known.sealed and (known.source, known.output) == content:
            self._refuse_to_move(self._manifest.head())
            return
        new = self._new_head(read)
        head = self._manifest.begin(new)
        self._refuse_to_move(head)
        if self._open(head):
            self._refuse_to_wait(is_new=head is new)
        pinning = pinning_for_batch(self._storage, order.batch, self._bring)
        fitting = self._fitting(head, pinning.pin)
        summary = self._manifest.summary() or self._write(read(fitting), head)
        self._book.seal(
            order.batch,
            chunks=summary.chunks,
            accepted=summary.accepted,
            rejected=summary.rejected,
        )
        until_s = time.monotonic() + _SETTLE_S
        self._window.settle(order.batch, stop=lambda: time.monotonic() > until_s)
        self._ring(head)
        self._events.emit(
            "batch.accepted", batch=order.batch, jobs=summary.accepted, rejected=summary.rejected
        )

    def _refuse_to_move(self, head: Head | None) -> None:
        if head is not None and self._order.pool not in ("", head.pool):
            raise ConflictError(f"batch {head.batch} is in the pool {head.pool}, and stays there")

    def _new_head(self, read: _Read) -> Head:
        order = self._order
        pool = self._pool(read)
        offers = pool.offers if isinstance(pool, Pool) else ()
        return Head(
            batch=order.batch,
            source=order.source,
            output=order.output,
            pool=pool.name if isinstance(pool, Pool) else pool,
            created_ms=time.time_ns() // 1_000_000,
            priority=order.priority,
            offers=tuple(offer.to_json() for offer in offers),
        )

    def _pool(self, read: _Read) -> Pool | str:
        """Return the pool that can speak the most of the first lines; its name if nobody is there.

        A batch has one queue, so it has one pool.
        """
        firsts = self._first_needs(read)
        router = router_of(self._settings)
        named = self._order.pool
        wanted: Counter[str] = Counter()
        refused = None
        for needs, lines in firsts.items():
            try:
                wanted[router.pool_for(replace(needs, pool=named or needs.pool))] += lines
            except NoPoolError as error:
                refused = refused or error
        if refused is not None and not wanted:
            raise refused
        if not wanted:  # no line is good
            wanted[router.pool_for(Needs(pool=named))] += 1
        pools = router.pools()
        known = [] if named else [pool.name for pool in pools.values() if pool.offers]

        def spoken(name: str) -> int:
            pool = pools.get(name)
            fits = (n for n in firsts if n.pool in ("", name) and not (pool and pool.lacks(n)))
            return sum(firsts[needs] for needs in fits)

        # of equals the one that most lines would have chosen by themselves
        best = max(sorted({*wanted, *known}), key=lambda name: (spoken(name), wanted[name]))
        return pools.get(best, best)

    def _first_needs(self, read: _Read) -> Counter[Needs]:
        """Return what the first lines need, and how many of them each."""
        looking = looking_up(self._storage)
        router = router_of(self._settings)
        firsts: Counter[Needs] = Counter()
        for line in islice(read(None), CHUNK_LINES):
            if isinstance(line, RejectedLine):
                continue
            request = line.request
            with suppress(RequestError):  # it is found again, and rejected
                if request.prompt_audio is None:
                    request = looking.pin(request)
                firsts[router.needs(request)] += 1
        return firsts

    def _fitting(self, head: Head, pin: Pin) -> Pin:
        """Return what pins a line, and rejects it where the batch's pool cannot speak it."""
        offers = tuple(Offer.from_json(text) for text in head.offers)
        router = router_of(self._settings)

        def pinned(request: SpeechRequest) -> SpeechRequest:
            request = pin(request)
            check_fits(router.needs(request), head.pool, offers)
            return request

        return pinned

    def _refuse_bad_lines(self, read: _Read) -> None:
        head = self._manifest.head() or self._new_head(read)
        fitting = self._fitting(head, checking(self._bring, self._storage).pin)
        bad = [line for line in read(fitting) if isinstance(line, RejectedLine)]
        if bad:
            shown = "; ".join(f"line {b.line}: {b.field}: {b.reason}" for b in bad[:5])
            more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise RequestError("file", f"{len(bad)} bad lines, nothing was accepted: {shown}{more}")

    def _open(self, head: Head) -> bool:
        return self._book.open(
            head.batch,
            source=head.source,
            output=head.output,
            queue=_queue_of(head),
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
        return self._manifest.write(manifest_lines(lines, head), partial(self._chunk_is_in, head))

    def _chunk_is_in(self, head: Head, number: int, lines: list[ManifestLine]) -> None:
        self._lines += len(lines)
        self._book.grow(self._order.batch, number)
        if self._window.feed(self._order.batch):
            self._ring(head)
        self._on_progress(self._lines)

    def _ring(self, head: Head) -> None:
        # The batch is in: where the broker is away, a worker rings when it is back.
        with suppress(UnavailableError):
            ring_for_work(app, _queue_of(head), self._settings)


def _queue_of(head: Head) -> str:
    return Route(head.pool, "").batch_queue


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
