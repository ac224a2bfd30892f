"""A plain Celery application, as one writes it from the manual: ``celery -A ... worker``.

`acks_late` and `reject_on_worker_lost`, one process, one reserved task. Where it speaks to and for
how long messages stay invisible is in the environment.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from celery import Celery, signals

from benchmarks.failover.journal import Journal
from benchmarks.failover.speaker import Speaker

DIRECTORY = Path(os.environ.get("BENCH_DIRECTORY", "."))
TASK = "bench.speak"

app = Celery("bench", broker=os.environ.get("BENCH_REDIS_URL"), set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_concurrency=1,
    # as for our workers: a fork of a process that has threads is another benchmark
    worker_pool_start_method="spawn",
    worker_proc_alive_timeout=120.0,
    imports=("benchmarks.failover.celery_app",),
)
if timeout_s := os.environ.get("BENCH_VISIBILITY_TIMEOUT_S"):
    app.conf.broker_transport_options = {"visibility_timeout": float(timeout_s)}

journal = Journal(DIRECTORY / "journal")


@lru_cache(maxsize=1)
def speaker() -> Speaker:
    """Return this process's engine."""
    return Speaker()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _load(**_: Any) -> None:
    speaker()
    journal.write("loaded", os.environ["BENCH_WORKER"])


@signals.worker_ready.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _ready(**_: Any) -> None:
    journal.write("ready", os.environ["BENCH_WORKER"])


@app.task(name=TASK)  # type: ignore[untyped-decorator]  # Celery's decorators carry no types
def speak(job: str, text: str) -> None:
    """Speak one job to a file of its name."""
    worker = os.environ["BENCH_WORKER"]
    journal.write("begun", worker, job=job)
    speaker().speak_to(DIRECTORY / "sounds" / f"{job}.wav", text)
    journal.write("done", worker, job=job)
