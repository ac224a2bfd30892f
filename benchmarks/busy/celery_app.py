"""A plain Celery task that speaks, encodes and stores, one after the other.

The same engine at the same pace, the same encoder, the same storage, and no ledger.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery, signals

from benchmarks.failover.speaker import Speaker
from tts_tasks.storage import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Callable

app = Celery("bench", broker=os.environ["BENCH_REDIS_URL"], set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_concurrency=1,
    imports=("benchmarks.busy.celery_app",),
)


@lru_cache(maxsize=1)
def speaker() -> Speaker:
    """Return this process's engine."""
    return Speaker()


@lru_cache(maxsize=1)
def storage() -> LocalStorage:
    """Return where the sounds go."""
    return LocalStorage(Path(os.environ["BENCH_DIRECTORY"]) / "sounds")


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _load(**_: Any) -> None:
    speaker()
    storage()


@app.task(name="bench.speak", bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
def speak(self: Any, text: str) -> None:
    """Speak one job to an artifact of its name."""
    storage().create(f"{self.request.id}.wav", speaker().speak(text))


def sender() -> Callable[[str], object]:
    """Return what sends one job."""
    send: Callable[[str], object] = speak.delay
    return send
