"""Bare Celery: prefork with one process, `acks_late`, results ignored, the rest at its defaults."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery import Celery

from benchmarks.dispatch.starts import started

if TYPE_CHECKING:
    from collections.abc import Callable

app = Celery("bench", broker=os.environ["BENCH_REDIS_URL"], set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_concurrency=1,
    imports=("benchmarks.dispatch.celery_app",),
)


@app.task(name="bench.job")  # type: ignore[untyped-decorator]  # Celery's carry no types
def job(text: str) -> None:  # noqa: ARG001 - as large as ours
    """Do nothing."""
    started()


def sender() -> Callable[[str], object]:
    """Return what sends one job."""
    send: Callable[[str], object] = job.delay
    return send
