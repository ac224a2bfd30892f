"""Rings the queue for jobs that the ledger holds. A ring may be lost or doubled: no harm done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu.exceptions import BatchPublishError, OperationalError

from tts_tasks.errors import UnavailableError
from tts_tasks.redis_connection import without_password

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery

TASK_NAME = "tts_tasks.synthesize"

#: Messages that go to the broker in one round trip.
CHUNK = 500


def ring(
    app: Celery, queue: str, task_ids: Iterable[str], *, rung_ms: int, wants_result: bool
) -> int:
    """Send one message a task id to ``queue``; returns how many.

    ``rung_ms``: Redis's time in ms, at most the time of sending; it tells the reconciler which
    messages have left the queue. ``wants_result``: somebody may call ``.get()`` on the task id.
    """
    task_ids = list(task_ids)
    for last in (False, True):
        try:
            _send(app, queue, task_ids, rung_ms=rung_ms, wants_result=wants_result)
        except (OperationalError, BatchPublishError) as error:
            # The first try may have found a connection dead that stood in the pool.
            if last:
                url = without_password(app.conf.broker_url)
                raise UnavailableError(
                    f"the broker at {url} cannot be reached ({error}): what was accepted stays "
                    "accepted, and workers ring for it when the broker is back. Check "
                    "TTS_BROKER_URL (or TTS_REDIS_URL), then repeat what was not completed"
                ) from error
        else:
            break
    return len(task_ids)


def _send(
    app: Celery, queue: str, task_ids: list[str], *, rung_ms: int, wants_result: bool
) -> None:
    with app.producer_or_acquire() as producer, producer.batch(CHUNK):
        for task_id in task_ids:
            app.send_task(
                TASK_NAME,
                task_id=task_id,
                queue=queue,
                producer=producer,
                headers={"rung_ms": rung_ms},
                ignore_result=not wants_result,
                add_to_parent=False,
            )
