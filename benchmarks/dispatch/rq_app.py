"""RQ: jobs whose results are not kept, the rest at its defaults."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import redis
from rq import Queue

from benchmarks.dispatch.starts import started

if TYPE_CHECKING:
    from collections.abc import Callable


def job(text: str) -> None:  # noqa: ARG001 - as large as ours
    """Do nothing."""
    started()


def sender() -> Callable[[str], object]:
    """Return what sends one job."""
    queue = Queue("bench", connection=redis.Redis.from_url(os.environ["BENCH_REDIS_URL"]))
    return lambda text: queue.enqueue(job, text, result_ttl=0)
