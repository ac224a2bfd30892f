"""A client of ours, as a process: ``python -m benchmarks.our_client``, asked by `benchmarks.ours`.

It uses nothing but public functions, and is told where the cluster is by ``TTS_*``.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rooms import peak_rss_bytes
from benchmarks.sending import paced_sends
from benchmarks.talk import serve
from tts_tasks import client, synthesize
from tts_tasks.clock import boottime_s
from tts_tasks.errors import NotFoundError
from tts_tasks.requests import parse_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: How closely a client looks at a job that it waits for.
_LOOK_S = 0.002
#: Yields the audio of a job as it comes; an interface that a later release has.
_follow_audio: Callable[..., Iterable[Any]] | None = getattr(client, "follow_audio", None)


def submit(path: str, id: str) -> dict[str, Any]:  # noqa: A002 - the field's name
    """Submit a file as a batch; returns when it began and ended, and this process's memory."""
    before_bytes = peak_rss_bytes(os.getpid())
    began_s = boottime_s()
    status = client.submit_batch(Path(path), id=id)
    return {
        "began_s": began_s,
        "ended_s": boottime_s(),
        "rss_before_bytes": before_bytes,
        "rss_peak_bytes": peak_rss_bytes(os.getpid()),
        "batch": asdict(status),
    }


def status(id: str) -> dict[str, Any] | None:  # noqa: A002
    """Return how a batch stands; None while there is none."""
    try:
        return asdict(client.batch_status(id))
    except NotFoundError:
        return None


def workers() -> list[dict[str, Any]]:
    """Return the workers of the cluster."""
    found: list[dict[str, Any]] = client.cluster_status()["workers"]
    return found


def backlog(jobs: int, text: str) -> dict[str, float]:
    """Send online jobs as fast as it goes; returns when that began and ended."""
    began_s = boottime_s()
    for _ in range(jobs):
        synthesize.apply_async((text,), ignore_result=True)
    return {"began_s": began_s, "ended_s": boottime_s()}


def stream(jobs: int, every_s: float, seed: int, text: str) -> list[float]:
    """Send online jobs at random moments; returns when each was begun to be sent."""
    return paced_sends(
        jobs, every_s, seed, lambda _: synthesize.apply_async((text,), ignore_result=True)
    )


def stream_batches(jobs: int, every_s: float, seed: int, directory: str, text: str) -> list[float]:
    """Submit batches of one line each at random moments; returns when each was begun."""
    folder = Path(directory)
    folder.mkdir(exist_ok=True)
    paths = [folder / f"one-{number}.jsonl" for number in range(jobs)]
    for number, path in enumerate(paths):
        path.write_text(json.dumps({"id": f"one-{number}", "text": text}, ensure_ascii=False))
    return paced_sends(
        jobs, every_s, seed, lambda k: client.submit_batch(paths[k], id=f"one-{seed}-{k}")
    )


def online(
    jobs: int, pause_s: float, seed: int, text: str, timeout_s: float
) -> list[dict[str, float | None]]:
    """Speak online jobs one after the other; returns how long each took to be heard, and done.

    ``heard_s`` is None where the release cannot stream. A job that is not done in time ends it.
    """
    rng = random.Random(seed)  # noqa: S311
    told: list[dict[str, float | None]] = []
    for _ in range(jobs):
        time.sleep(pause_s * rng.uniform(0.5, 1.5))
        began_s = boottime_s()
        job_id = client.submit_job(parse_request({"text": text}))
        heard_s = None
        if _follow_audio is not None:
            for _ in _follow_audio(job_id):
                heard_s = boottime_s() - began_s
                break
        while (result := client.job_result(job_id)) is None:
            if boottime_s() > began_s + timeout_s:
                raise TimeoutError(f"{job_id} was not done within {timeout_s:g} s")
            time.sleep(_LOOK_S)
        if result.state != "succeeded":
            raise ValueError(f"{job_id}: {result.error}")
        told.append({"heard_s": heard_s, "done_s": boottime_s() - began_s})
    return told


OPERATIONS: dict[str, Callable[..., Any]] = {
    "submit": submit,
    "status": status,
    "workers": workers,
    "backlog": backlog,
    "stream": stream,
    "stream_batches": stream_batches,
    "online": online,
}

if __name__ == "__main__":
    serve(OPERATIONS)
