"""Cancelling of an online job: it ends in the ledger at once, and whoever waits for it is told."""

from __future__ import annotations

import logging

from tts_tasks import keys
from tts_tasks.errors import ConflictError, JobCancelledError, NotFoundError, UnavailableError
from tts_tasks.events import event_log
from tts_tasks.ledger import BatchBook, JobLedger
from tts_tasks.redis_connection import unavailable_is_clear
from tts_tasks.settings import get_settings
from tts_tasks.tasks import synthesize

logger = logging.getLogger(__name__)


def job_cancel(id: str) -> None:  # noqa: A002 - the field's name
    """Speak nothing more of an online job.

    One that nobody has begun with is not spoken; of one that is being spoken no segment is begun
    any more, unless it is the last one that is spoken now: that may still be published. Who waits
    for it gets `JobCancelledError`. Cancelling twice is cancelling once. Raises `NotFoundError`,
    and `ConflictError` for a job that has ended otherwise, and for a line of a batch.
    """
    settings = get_settings()
    ledger = JobLedger(settings.redis_url)
    tag, item = keys.split_job_id(id)
    record = ledger.get(id)
    if record is None or record.meta.batch:
        if item.isdecimal() and BatchBook(settings.redis_url).get(tag) is not None:
            raise ConflictError(
                f"{id} is a line of a batch, and none is cancelled alone: `ttsctl batch cancel "
                f"{tag}` cancels the batch"
            )
        raise NotFoundError(f"there is no job {id}")
    state = ledger.cancel(record, retention_s=settings.retention_s)
    if not state:
        raise NotFoundError(f"there is no job {id} any more")
    if state != "cancelled":
        raise ConflictError(f"job {id} has {state} already: there is nothing left to cancel")
    if not record.ended:
        event_log(settings).emit("job.cancelled", job=id)
    # A worker tells it too, but only when it hears the message, or comes to the segment's end.
    task_id, error = record.meta.task_id or id, JobCancelledError(f"job {id} was cancelled")
    try:
        with unavailable_is_clear(settings.celery_url):
            synthesize.backend.store_result(task_id, error, "FAILURE")
    except UnavailableError as unavailable:  # a broker of its own; the job is cancelled even so
        logger.warning("who waits for %s is not told yet that it is cancelled: %s", id, unavailable)
