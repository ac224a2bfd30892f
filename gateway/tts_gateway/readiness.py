"""Whether the cluster can speak now: a question that costs something, unlike ``/health``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tts_tasks.errors import TTSError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadyReport:
    """The answer, and why not. Reasons are stable words that give nothing away."""

    ready: bool
    reasons: tuple[str, ...] = ()
    workers: int = 0
    ready_workers: int = 0


IsReady = Callable[[], Awaitable[ReadyReport]]


def judge(workers: Sequence[Mapping[str, Any]]) -> ReadyReport:
    """Judge by the workers of `cluster_status`: one that is ready is enough."""
    ready = sum(1 for worker in workers if worker["ready"])
    if ready:
        return ReadyReport(True, (), len(workers), ready)
    return ReadyReport(False, ("no_ready_worker" if workers else "no_worker",), len(workers), 0)


async def cluster_is_ready() -> ReadyReport:
    """Ask the cluster; raises `UnavailableError` when its store cannot be reached."""
    from tts_tasks.client import cluster_status

    status = await asyncio.to_thread(cluster_status)
    return judge(status["workers"])


class ReadinessProbe:
    """Asks at most once at a time, however many callers there are, and waits no longer than told.

    A store that hangs holds one thread, not one for each probe of each load balancer.
    """

    def __init__(
        self,
        is_ready: IsReady,
        *,
        timeout_s: float,
        kept_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_ready = is_ready
        self._timeout_s = timeout_s
        self._kept_s = kept_s
        self._clock = clock
        self._asking: asyncio.Task[ReadyReport] | None = None
        self._latest: tuple[float, ReadyReport] | None = None

    async def report(self) -> ReadyReport:
        """Return a report that is at most ``kept_s`` old, or a no after ``timeout_s``."""
        if self._latest is not None and self._clock() - self._latest[0] < self._kept_s:
            return self._latest[1]
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        try:
            return await asyncio.wait_for(asyncio.shield(self._asking), self._timeout_s)
        except TimeoutError:
            return ReadyReport(False, ("no_answer_in_time",))

    async def _ask(self) -> ReadyReport:
        try:
            report = await self._is_ready()
        except TTSError as error:
            # The message may hold addresses: it goes to the log, and only a word to the caller.
            log.warning("the cluster's state cannot be told: %s", error)
            report = ReadyReport(False, ("cluster_unreachable",))
        self._latest = (self._clock(), report)
        return report
