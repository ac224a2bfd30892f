"""Rings the queue for jobs that the ledger holds. A ring may be lost or doubled: no harm done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError

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
    sent = 0
    try:
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
                sent += 1
    except OperationalError as error:
        raise UnavailableError(
            f"the broker at {without_password(app.conf.broker_url)} cannot be reached ({error})"
        ) from error
    return sent
