"""arq: one job at a time, results not kept.

It looks for jobs every 0.5 s unless told otherwise, which is all that would be measured: here it
looks every 10 ms.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.dispatch.starts import started

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = RedisSettings.from_dsn(os.environ["BENCH_REDIS_URL"])


async def job(_: dict[str, Any], text: str) -> None:  # noqa: ARG001 - as large as ours
    """Do nothing."""
    started()


class WorkerSettings:
    """What ``arq`` reads."""

    functions = (job,)
    redis_settings = SETTINGS
    max_jobs = 1
    keep_result = 0
    poll_delay = 0.01


def sender() -> Callable[[str], object]:
    """Return what sends one job."""
    loop = asyncio.new_event_loop()
    pool = loop.run_until_complete(create_pool(SETTINGS))
    return lambda text: loop.run_until_complete(pool.enqueue_job("job", text))
