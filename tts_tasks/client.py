"""What the command line, the gateway and Python users call: submit, follow, fetch.

Every function works with this process's settings (``TTS_*``) and raises the errors of
`tts_tasks.errors`; `UnavailableError` when Redis cannot be reached.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from kombu.exceptions import OperationalError

from tts_tasks import keys
from tts_tasks.batches.changes import BatchChanges
from tts_tasks.batches.outcomes import Following, Outcomes
from tts_tasks.batches.report import report_line
from tts_tasks.batches.standing import BatchStatus, status_of
from tts_tasks.batches.submission import Order, Submission
from tts_tasks.cancelling import job_cancel
from tts_tasks.cluster import cluster_status, events
from tts_tasks.errors import ConflictError, NotFoundError, RequestError, WaitTimeoutError
from tts_tasks.jsonl import BatchLine, Pin, RejectedLine, file_sha256, parse_items, read_batch
from tts_tasks.ledger import BatchBook, BatchRecord, JobLedger
from tts_tasks.ledger.batch_records import ENDINGS
from tts_tasks.lexicons.admin import (
    lexicon_add,
    lexicon_export,
    lexicon_list,
    lexicon_read,
    lexicon_remove,
    lexicon_versions,
)
from tts_tasks.listening import AudioSegment, follow_audio, follow_audio_async
from tts_tasks.names import safe_output_name
from tts_tasks.operations import drain, switchover, undrain
from tts_tasks.pinning import pin_online
from tts_tasks.settings import get_settings
from tts_tasks.storage import LocalStorage, open_storage
from tts_tasks.tasks import route_for, synthesize
from tts_tasks.voices.files import ReferenceFiles
from tts_tasks.voices.operations import (
    upload_reference,
    voice_add,
    voice_list,
    voice_remove,
    voice_versions,
)

if TYPE_CHECKING:
    from tts_tasks.requests import SpeechRequest
    from tts_tasks.settings import Settings

__all__ = [
    "AudioSegment",
    "BatchStatus",
    "JobResult",
    "batch_cancel",
    "batch_errors",
    "batch_list",
    "batch_rejected",
    "batch_remove",
    "batch_resume",
    "batch_retry",
    "batch_status",
    "cluster_status",
    "drain",
    "events",
    "fetch",
    "follow",
    "follow_audio",
    "follow_audio_async",
    "job_cancel",
    "job_result",
    "lexicon_add",
    "lexicon_export",
    "lexicon_list",
    "lexicon_read",
    "lexicon_remove",
    "lexicon_versions",
    "read_artifact",
    "report",
    "submit_batch",
    "submit_job",
    "switchover",
    "undrain",
    "upload_reference",
    "voice_add",
    "voice_list",
    "voice_remove",
    "voice_versions",
]

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended. ``cursor`` resumes `follow` after it."""

    id: str
    line: int | None
    state: str  #: succeeded | failed | cancelled
    uri: str | None
    sha256: str | None
    duration_s: float | None
    attempt: int
    worker: str | None
    error: dict[str, Any] | None
    name: str | None = None
    subtitles: Mapping[str, str] = field(default_factory=dict)  #: names in storage, by format
    cursor: int = 0


# -- submit ---------------------------------------------------------------------------------------


def submit_job(request: SpeechRequest) -> str:
    """Accept one online job and ring for it; returns its id.

    Raises `NoPoolError` where no pool can do what the request needs.
    """
    pinned = pin_online(request, get_settings().storage_url)
    job_id = keys.new_job_id(route_for(pinned).lane_key)
    fields = pinned.model_dump(exclude_defaults=True, mode="json")
    # The job is in the ledger before the broker is asked: where that is away, a worker rings.
    with suppress(OperationalError):
        synthesize.apply_async((fields.pop("text"),), fields, task_id=job_id)
    return job_id


def submit_batch(
    source: Path | Iterable[Mapping[str, Any]],
    *,
    id: str | None = None,  # noqa: A002 - the field's name
    output: str | None = None,
    priority: float = 1.0,
    wait_for_output: bool = True,
    strict: bool = False,
    audio_root: Path | None = None,
    pool: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> BatchStatus:
    """Accept a JSONL file (or a list of requests) as a batch; work begins while it is read.

    ``id`` defaults to the file's name and a hash of its content, so the same file re-attaches; the
    same id with other content, or another ``output`` prefix, is a `ConflictError`. ``priority``:
    a batch of 2 gets twice the work done that one of 1 does, while both have any. A batch whose
    output overlaps with that of an earlier one waits for its turn, or is a `ConflictError` without
    ``wait_for_output``. With ``strict`` one bad line refuses the file (`RequestError`), before
    anything is accepted. Reference audio is looked for below ``audio_root``, by default the folder
    of the file; a list of requests has none unless it is given. All of it is spoken in one
    ``pool``, by default the one that can speak the most of its first lines (`NoPoolError` where
    none can speak any); lines that this pool cannot speak are rejected. ``on_progress`` is called
    with the number of lines taken in so far.
    """
    settings = get_settings()
    read, fingerprint, stem = _source(source, audio_root)
    root = audio_root or (Path(source).parent if isinstance(source, Path | str) else None)
    bring = ReferenceFiles(root) if root else None
    batch_id = keys.check_batch_id(id if id is not None else f"{stem}-{fingerprint[:8]}")
    prefix = _output_prefix(output if output is not None else batch_id)
    content = hashlib.sha256(f"{fingerprint} {prefix}".encode()).hexdigest()
    order = Order(batch_id, content, prefix, priority, wait_for_output, pool or "", strict)
    Submission(order, settings, on_progress or (lambda _: None), bring).run(read)
    return batch_status(batch_id)


_Read = Callable[[Pin | None], Iterator[BatchLine | RejectedLine]]


def _source(
    source: Path | Iterable[Mapping[str, Any]], root: Path | None
) -> tuple[_Read, str, str]:
    """Return how to read the lines (repeatably), a hash of the content, and a name for it."""
    if isinstance(source, Path | str):
        path = Path(source)
        stem = "".join(char if char.isalnum() and char.isascii() else "-" for char in path.stem)
        return (
            lambda pin: read_batch(path, audio_root=root, pin=pin),
            file_sha256(path),
            stem.strip("-")[:60] or "batch",
        )
    items = [dict(item) for item in source]
    text = json.dumps(items, sort_keys=True, ensure_ascii=False, default=str)
    return (
        lambda pin: parse_items(items, audio_root=root, pin=pin),
        hashlib.sha256(text.encode()).hexdigest(),
        "batch",
    )


def _output_prefix(output: str) -> str:
    try:
        return safe_output_name(output.strip("/"))
    except ValueError as error:
        raise RequestError("output", str(error)) from None


# -- change ---------------------------------------------------------------------------------------


def batch_cancel(id: str) -> BatchStatus:  # noqa: A002
    """Speak nothing more of a batch; what is running stops at the end of its segment."""
    BatchChanges(keys.check_batch_id(id), get_settings()).cancel()
    return batch_status(id)


def batch_retry(id: str) -> int:  # noqa: A002
    """Have the failed lines of a batch tried again; returns how many.

    Lines of parts of the batch that are still worked on are left alone. Raises `ConflictError`.
    """
    return BatchChanges(keys.check_batch_id(id), get_settings()).retry("failed")


def batch_resume(id: str) -> int:  # noqa: A002
    """Go on with a batch that was cancelled; returns how many lines. Raises `ConflictError`."""
    return BatchChanges(keys.check_batch_id(id), get_settings()).retry("cancelled")


def batch_remove(id: str) -> None:  # noqa: A002
    """Forget a batch that has ended or was cancelled; its artifacts and its report stay."""
    BatchChanges(keys.check_batch_id(id), get_settings()).remove()


# -- look -----------------------------------------------------------------------------------------


def batch_status(id: str) -> BatchStatus:  # noqa: A002
    """Return how a batch stands; raises `NotFoundError`."""
    settings = get_settings()
    return status_of(_batch(id, settings), BatchBook(settings.redis_url))


def batch_list() -> list[BatchStatus]:
    """Return all batches, newest first."""
    book = BatchBook(get_settings().redis_url)
    return [status_of(record, book) for record in book.all()]


def report(id: str) -> Iterator[dict[str, Any]]:  # noqa: A002
    """Yield the report's lines in input order, also while the batch runs."""
    settings = get_settings()
    return _outcomes(id, settings).report(_batch(id, settings))


def batch_errors(id: str) -> Iterator[dict[str, Any]]:  # noqa: A002
    """Yield the report lines of rejected and failed jobs, in input order."""
    return (line for line in report(id) if line["error"])


def batch_rejected(id: str) -> Iterator[dict[str, Any]]:  # noqa: A002
    """Yield the report lines of the input lines that were never accepted."""
    return (line for line in report(id) if line["state"] == "rejected")


def job_result(id: str) -> JobResult | None:  # noqa: A002
    """Return how a job ended; None while it has not. Raises `NotFoundError`."""
    settings = get_settings()
    tag, item = keys.split_job_id(id)
    record = JobLedger(settings.redis_url).get(id)
    if record is not None and not record.meta.batch:
        return _result(report_line(record), 1) if record.ended else None
    batch = BatchBook(settings.redis_url).get(tag) if item.isdecimal() else None
    if batch is None:
        raise NotFoundError(f"there is no job {id}")
    line = _outcomes(tag, settings).of_line(batch, int(item))
    return _result(line, 1) if line["state"] in ENDINGS else None


def follow(
    id: str,  # noqa: A002
    *,
    after: int = 0,
    timeout_s: float | None = None,
) -> Iterator[JobResult]:
    """Yield how each job of a batch (or one job) ends, as it ends; returns when all have.

    Those that have ended come first. ``after``: the ``cursor`` of the last result seen before; a
    follower who has missed more than 10,000 since may see some again.
    Raises `WaitTimeoutError` after ``timeout_s``; the work goes on.
    """
    settings = get_settings()
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    results = _follow_job if ":" in id else _follow_batch
    for result in results(id, after, settings):
        if result is not None:
            yield result
        elif deadline_s is not None and time.monotonic() >= deadline_s:
            raise WaitTimeoutError(f"{id} has not ended after {timeout_s:g} s; the work goes on")
        else:
            time.sleep(_POLL_S)


def _follow_job(job_id: str, after: int, _: Settings) -> Iterator[JobResult | None]:
    if after:
        return
    while (result := job_result(job_id)) is None:
        yield None
    yield result


def _follow_batch(batch_id: str, after: int, settings: Settings) -> Iterator[JobResult | None]:
    book = BatchBook(settings.redis_url)
    following = Following(book, open_storage(settings.storage_url), batch_id, after)
    while True:
        batch = _batch(batch_id, settings)
        for line, cursor in following.news(batch):
            yield _result(line, cursor)
        if batch.complete or (batch.is_cancelled and not batch.sealed):
            return
        yield None


# -- fetch ----------------------------------------------------------------------------------------


def fetch(id: str, to: Path) -> Iterator[Path]:  # noqa: A002
    """Copy finished artifacts of a batch into a local folder, as they are named; yields paths.

    What is there with the same content is left alone; other content is a `ConflictError`.
    """
    settings = get_settings()
    storage = open_storage(settings.storage_url)
    prefix = _batch(id, settings).output
    local = LocalStorage(to.absolute())
    try:
        for line in report(id):
            if line["state"] != "succeeded":
                continue
            for stored in (line["name"], *line.get("subtitles", {}).values()):
                name = str(stored).removeprefix(f"{prefix}/")
                data = storage.read(stored)
                if not local.create(name, data) and local.read(name) != data:
                    raise ConflictError(
                        f"{to / name} exists with other content; nothing was overwritten"
                    )
                yield to / name
    finally:
        local.tidy()


def read_artifact(name: str) -> bytes:
    """Return an artifact's bytes by its storage name or URI."""
    storage = open_storage((get_settings()).storage_url)
    root = storage.uri("x").removesuffix("x")
    if name.startswith(root):
        name = unquote(name.removeprefix(root))
    return storage.read(name)


def _batch(batch_id: str, settings: Settings) -> BatchRecord:
    record = BatchBook(settings.redis_url).get(keys.check_batch_id(batch_id))
    if record is None:
        raise NotFoundError(f"there is no batch {batch_id}; `ttsctl batch ls` lists them")
    return record


def _outcomes(batch_id: str, settings: Settings) -> Outcomes:
    return Outcomes(BatchBook(settings.redis_url), open_storage(settings.storage_url), batch_id)


def _result(line: Mapping[str, Any], cursor: int) -> JobResult:
    """Return a job's report line as a result."""
    fields = ("line", "state", "uri", "sha256", "duration_s", "attempt", "worker", "error")
    return JobResult(
        id=line["id"],
        name=line.get("name"),
        subtitles=line.get("subtitles", {}),
        cursor=cursor,
        **{key: line[key] for key in fields},
    )
