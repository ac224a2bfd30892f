"""taskiq with taskiq-redis: a stream as the broker, which acknowledges, and no results."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from taskiq_redis import RedisStreamBroker

from benchmarks.dispatch.starts import started

if TYPE_CHECKING:
    from collections.abc import Callable

broker = RedisStreamBroker(os.environ["BENCH_REDIS_URL"])


@broker.task
async def job(text: str) -> None:  # noqa: ARG001 - as large as ours
    """Do nothing."""
    started()


def sender() -> Callable[[str], object]:
    """Return what sends one job."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(broker.startup())
    return lambda text: loop.run_until_complete(job.kiq(text))
