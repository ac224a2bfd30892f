"""What a worker's child does its work with, whether that is a job or a shift of batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tts_tasks.events import EventLog
from tts_tasks.ledger import BatchBook, JobLedger, SegmentLog
from tts_tasks.redis_connection import connect
from tts_workers.insisting import Insisting
from tts_workers.rendering import Tools

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.settings import Settings
    from tts_workers.engine_host import EngineHost
    from tts_workers.leadership import BelievedLease
    from tts_workers.link import ChildLink


@dataclass(frozen=True, slots=True)
class Workbench:
    """The engine, the line to the parent, and the stores: of each one a process."""

    host: EngineHost
    lease: BelievedLease
    link: ChildLink
    settings: Settings
    worker_id: str
    ledger: JobLedger
    book: BatchBook  #: knows what it asked for last, and tells a repeated take from a new one
    log: SegmentLog
    events: EventLog
    insist: Insisting

    @classmethod
    def of(
        cls,
        host: EngineHost,
        lease: BelievedLease,
        link: ChildLink,
        settings: Settings,
        worker_id: str,
    ) -> Self:
        """Return one whose stores share the connections of one client."""
        url = settings.redis_url
        client = connect(url)
        return cls(
            host,
            lease,
            link,
            settings,
            worker_id,
            ledger=JobLedger(url, client=client),
            book=BatchBook(url, client=client),
            log=SegmentLog(url, client=client),
            events=EventLog(client, kept=settings.events_kept),
            insist=Insisting(settings.store_outage_s),
        )

    def tools(self, on_segment: Callable[[int, int], None]) -> Tools:
        """Return what renderings work with; ``on_segment`` is told of each that is begun."""
        host = self.host
        return Tools(self.log, host.pace, self.settings, self.insist, on_segment, host.lost)
