"""What is spoken of a job that has not ended yet: segments in storage, until they are joined.

An object a segment, named after the job and the attempt, so that no two writers meet. They are
removed when the job has ended; what an attempt that died left behind is swept.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from tts_tasks import keys
from tts_tasks.errors import RequestError
from tts_tasks.storage.base import SIDECAR_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tts_tasks.storage.base import Storage

STAGING_FOLDER = f"{SIDECAR_FOLDER}/staging"
#: Stands for the colon of a job id, which is not welcome in file names everywhere.
_COLON = "~"


class Staging:
    """The staged segments of one attempt at a job."""

    def __init__(self, storage: Storage, job_id: str, attempt: int) -> None:
        self._storage = storage
        # a store that was emptied counts attempts from 1 again
        self._prefix = f"{folder_of(job_id)}/{attempt}-{secrets.token_hex(4)}"

    def put(self, number: int, audio: bytes) -> str:
        """Store the audio of segment ``number``; returns its name."""
        name = f"{self._prefix}-{number:05d}"
        self._storage.create(name, audio)
        return name


def folder_of(job_id: str) -> str:
    """Return the folder of a job's staged segments."""
    return f"{STAGING_FOLDER}/{job_id.replace(':', _COLON)}"


def sweep_staging(storage: Storage, is_wanted: Callable[[Iterable[str]], set[str]]) -> int:
    """Remove the staged segments of jobs that nobody wants any more; returns how many.

    ``is_wanted`` is given job ids and returns those of which the segments are still needed.
    """
    staged: dict[str, list[str]] = {}
    for name in storage.list_hidden(STAGING_FOLDER):
        folder = name.removeprefix(f"{STAGING_FOLDER}/").partition("/")[0]
        job_id = folder.replace(_COLON, ":", 1)
        try:
            keys.split_job_id(job_id)
        except RequestError:
            continue  # not ours
        staged.setdefault(job_id, []).append(name)
    wanted = is_wanted(staged) if staged else set()
    unwanted = [name for job_id, names in staged.items() if job_id not in wanted for name in names]
    storage.remove(unwanted)
    return len(unwanted)
