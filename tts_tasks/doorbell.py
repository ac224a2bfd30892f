"""Rings the queues for what the ledger holds. A ring may be lost or doubled: no harm done.

For an online job there is a message of its own, as somebody may wait for the task's result. For
lines of batches one message says only that there is work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu.exceptions import BatchPublishError, OperationalError

from tts_tasks.errors import UnavailableError
from tts_tasks.redis_connection import shared_client, unavailable_is_clear, without_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery import Celery

    from tts_tasks.settings import Settings

TASK_NAME = "tts_tasks.synthesize"
WORK_TASK_NAME = "tts_tasks.work"

#: Messages that go to the broker in one round trip.
CHUNK = 500


def ring(app: Celery, queue: str, task_ids: Iterable[str], *, rung_ms: int) -> int:
    """Send one message a task id to ``queue``; returns how many.

    ``rung_ms``: Redis's time in ms, at most the time of sending; it tells the reconciler which
    messages have left the queue.
    """
    task_ids = list(task_ids)
    _insistently(app, lambda: _send(app, queue, task_ids, rung_ms=rung_ms))
    return len(task_ids)


def ring_for_work(app: Celery, queue: str, settings: Settings) -> bool:
    """Say that lines of batches are ready, unless a ring that nobody has heard says so already.

    Who hears it and finds lines rings for the next one, so that all who are idle wake up.
    """
    with unavailable_is_clear(settings.celery_url):
        if shared_client(settings.celery_url).llen(queue):
            return False
    _insistently(
        app,
        lambda: app.send_task(WORK_TASK_NAME, queue=queue, ignore_result=True, add_to_parent=False),
    )
    return True


def _insistently(app: Celery, send: Callable[[], object]) -> None:
    for last in (False, True):
        try:
            send()
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
            return


def _send(app: Celery, queue: str, task_ids: list[str], *, rung_ms: int) -> None:
    with app.producer_or_acquire() as producer, producer.batch(CHUNK):
        for task_id in task_ids:
            app.send_task(
                TASK_NAME,
                task_id=task_id,
                queue=queue,
                producer=producer,
                headers={"rung_ms": rung_ms},
                add_to_parent=False,
            )
