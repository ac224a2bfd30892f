"""Job ids and the Redis keys they lead to.

A job id is ``TAG:ITEM``. The tag is the hash tag of all the keys that one script may touch: for an
online job the lane (``pool.lane``), so that a claim can check the lane's lease in the same step;
for a line of a batch the batch id, so that a finish counts in the batch in the same step.
"""

from __future__ import annotations

import re
import secrets
import time

from tts_tasks.errors import RequestError

BATCH_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_JOB_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}:[A-Za-z0-9._-]{1,80}")

EVENTS = "tts:events"
BATCHES = "tts:batches"
UNREPORTED = "tts:batches:unreported"
WORKERS = "tts:workers"
REPLICATED = "tts:replicated"
TURNS = "tts:turns"


def new_job_id(lane_key: str) -> str:
    """Return the id of a new online job; ids of one lane sort by the time they were made."""
    return f"{lane_key}:{int(time.time() * 1000):012x}{secrets.token_hex(5)}"


def batch_job_id(batch: str, line: int) -> str:
    """Return the id of the job that line ``line`` (from 1) of a batch becomes."""
    return f"{batch}:{line}"


def job_id_of_task(task_id: str, lane_key: str) -> str:
    """Return the job id that a Celery task id stands for (a foreign one is put on the lane)."""
    return task_id if ":" in task_id else f"{lane_key}:{task_id}"


def check_task_id(task_id: str, lane_key: str) -> str:
    """Return a task id that somebody chose; raises `RequestError` if it cannot be a job's."""
    job_id = job_id_of_task(task_id, lane_key)
    if not _JOB_ID_PATTERN.fullmatch(job_id) or not job_id.startswith(f"{lane_key}:"):
        raise RequestError(
            "task_id", f"{task_id[:120]!r}: use letters, digits and . _ - (at most 80, no colon)"
        )
    return task_id


def split_job_id(job_id: str) -> tuple[str, str]:
    """Return ``(tag, item)``; raises `RequestError` for what is not a job id."""
    if not _JOB_ID_PATTERN.fullmatch(job_id):
        raise RequestError("id", f"{job_id[:120]!r} is not a job id (LANE:TASK, or BATCH:LINE)")
    tag, _, item = job_id.partition(":")
    return tag, item


def check_batch_id(batch: str) -> str:
    """Return the batch id; raises `RequestError` if it cannot be one."""
    if not BATCH_ID_PATTERN.fullmatch(batch):
        raise RequestError(
            "id",
            f"{batch[:120]!r}: use letters, digits and . _ - (at most 80, a letter or digit first)",
        )
    return batch


def job(job_id: str) -> str:
    """Hash: state, request, attempt, worker, result of a job."""
    tag, item = split_job_id(job_id)
    return f"tts:{{{tag}}}:job:{item}"


def segments(job_id: str) -> str:
    """Stream: the segments of a job that have been spoken, ``<number>-0`` each; expires."""
    tag, item = split_job_id(job_id)
    return f"tts:{{{tag}}}:segments:{item}"


def batch(batch_id: str) -> str:
    """Hash: counters and description of a batch."""
    return f"tts:{{{batch_id}}}:batch"


def batch_done(batch_id: str) -> str:
    """List: the lines of a batch in the order in which they ended."""
    return f"tts:{{{batch_id}}}:done"


def batch_ready(batch_id: str) -> str:
    """List: ``line:chars:chunk`` of the lines of a batch that nobody works on, next one first."""
    return f"tts:{{{batch_id}}}:ready"


def batch_chunks(batch_id: str) -> str:
    """Hash: chunk of a batch's window → lines of it that have not ended."""
    return f"tts:{{{batch_id}}}:chunks"


def batch_taken(batch_id: str) -> str:
    """Hash: line of a batch's window that has a job → the worker that has it now, or nothing."""
    return f"tts:{{{batch_id}}}:taken"


def batch_runs(batch_id: str) -> str:
    """Hash: worker → nonce and lines of the last run that it took."""
    return f"tts:{{{batch_id}}}:runs"


def batch_jobs(batch_id: str) -> str:
    """Return what the keys of a batch's jobs begin with; the line follows."""
    return f"tts:{{{batch_id}}}:job:"


def batch_segments(batch_id: str) -> str:
    """Return what the keys of a batch's segment logs begin with; the line follows."""
    return f"tts:{{{batch_id}}}:segments:"


def batch_reporting(batch_id: str) -> str:
    """Short-lived mark: somebody writes this batch's report."""
    return f"tts:{{{batch_id}}}:reporting"


def lease(lane_key: str) -> str:
    """Lease record ``epoch:holder`` with a TTL: who is the primary of a lane."""
    return f"tts:{{{lane_key}}}:lease"


def epoch(lane_key: str) -> str:
    """Counter of a lane's fencing tokens."""
    return f"tts:{{{lane_key}}}:epoch"


def successor(lane_key: str) -> str:
    """Worker that alone may take a lane next, with a TTL: an ordered switchover."""
    return f"tts:{{{lane_key}}}:successor"


def bell(lane_key: str) -> str:
    """Stream of one entry: wakes the lane's workers when there is news for them."""
    return f"tts:{{{lane_key}}}:bell"


def load(lane_key: str) -> str:
    """Hash: what a lane has to do, in jobs and characters, and how fast it was lately."""
    return f"tts:{{{lane_key}}}:load"


def loss_told(lane_key: str, epoch: int) -> str:
    """Mark with a TTL: operators have been told that nobody leads since this epoch was lost."""
    return f"tts:{{{lane_key}}}:loss_told:{epoch}"


def worker(worker_id: str) -> str:
    """JSON heartbeat record of a worker; expires long after its silence was noticed."""
    return f"tts:worker:{worker_id}"


def claims(worker_id: str) -> str:
    """Set: jobs a worker has claimed or was about to claim (written before the claim)."""
    return f"tts:worker:{worker_id}:claims"


def drained(worker_id: str) -> str:
    """Why a worker is to take no new work; while the key is there, it takes none."""
    return f"tts:worker:{worker_id}:drained"


def open_jobs(queue: str) -> str:
    """Sorted set: jobs accepted for a queue and not ended, by when they were last rung (ms)."""
    return f"tts:open:{queue}"


def shares(queue: str) -> str:
    """Sorted set: batches of a queue that may have work, by their virtual time."""
    return f"tts:shares:{queue}"
