"""Dramatiq with its Redis broker, everything at its defaults."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.dispatch.starts import started

if TYPE_CHECKING:
    from collections.abc import Callable

broker = RedisBroker(url=os.environ["BENCH_REDIS_URL"])  # type: ignore[no-untyped-call]
dramatiq.set_broker(broker)


@dramatiq.actor
def job(text: str) -> None:  # noqa: ARG001 - as large as ours
    """Do nothing."""
    started()


def sender() -> Callable[[str], object]:
    """Return what sends one job."""
    return job.send
