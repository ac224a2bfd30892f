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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from kombu.exceptions import OperationalError

from tts_tasks import keys
from tts_tasks.acceptance import BatchAcceptance
from tts_tasks.cluster import cluster_status, events
from tts_tasks.errors import ConflictError, NotFoundError, RequestError, WaitTimeoutError
from tts_tasks.jsonl import BatchLine, RejectedLine, file_sha256, parse_items, read_batch
from tts_tasks.ledger import BatchBook, BatchRecord, JobLedger, JobRecord
from tts_tasks.listening import AudioSegment, follow_audio, follow_audio_async
from tts_tasks.operations import drain, switchover, undrain
from tts_tasks.reports import rejected_line, report_line, report_lines
from tts_tasks.routing import route_of
from tts_tasks.settings import get_settings
from tts_tasks.storage import LocalStorage, open_storage
from tts_tasks.tasks import synthesize

if TYPE_CHECKING:
    from tts_tasks.requests import SpeechRequest
    from tts_tasks.settings import Settings

__all__ = [
    "AudioSegment",
    "BatchStatus",
    "JobResult",
    "batch_errors",
    "batch_list",
    "batch_rejected",
    "batch_status",
    "cluster_status",
    "drain",
    "events",
    "fetch",
    "follow",
    "follow_audio",
    "follow_audio_async",
    "job_result",
    "read_artifact",
    "report",
    "submit_batch",
    "submit_job",
    "switchover",
    "undrain",
]

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """A batch at one moment. ``total`` counts the lines that are not blank."""

    batch: str
    state: str  #: accepting | running | done
    total: int
    succeeded: int
    failed: int
    rejected: int
    report: str | None  #: URI of the report, once the batch is done
    output: str  #: prefix of its artifacts in storage
    created_at: str

    @property
    def ended(self) -> int:
        """Lines whose outcome is known."""
        return self.succeeded + self.failed + self.rejected


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended. ``cursor`` resumes `follow` after it."""

    id: str
    line: int | None
    state: str  #: succeeded | failed
    uri: str | None
    sha256: str | None
    duration_s: float | None
    attempt: int
    worker: str | None
    error: dict[str, Any] | None
    name: str | None = None
    cursor: int = 0


# -- submit ---------------------------------------------------------------------------------------


def submit_job(request: SpeechRequest) -> str:
    """Accept one online job and ring for it; returns its id."""
    fields = request.model_dump(exclude_defaults=True, mode="json")
    job_id = keys.new_job_id(route_of(get_settings()).lane_key)
    # The job is in the ledger before the broker is asked: where that is away, a worker rings.
    with suppress(OperationalError):
        synthesize.apply_async((fields.pop("text"),), fields, task_id=job_id)
    return job_id


def submit_batch(
    source: Path | Iterable[Mapping[str, Any]],
    *,
    id: str | None = None,  # noqa: A002 - the field's name
    output: str | None = None,
    strict: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> BatchStatus:
    """Accept a JSONL file (or a list of requests) as a batch and ring for its jobs.

    ``id`` defaults to the file's name and a hash of its content, so the same file re-attaches; the
    same id with other content, or another ``output`` prefix, is a `ConflictError`. With ``strict``
    one bad line refuses the file (`RequestError`), before anything is accepted. ``on_progress`` is
    called with the number of lines taken in so far.
    """
    settings = get_settings()
    read, fingerprint, stem = _source(source)
    if strict:
        _refuse_bad_lines(read())
    batch_id = keys.check_batch_id(id if id is not None else f"{stem}-{fingerprint[:8]}")
    prefix = _output_prefix(output if output is not None else batch_id)
    book = BatchBook(settings.redis_url, replicas_acked=settings.replicas_acked)
    queue = route_of(settings).batch_queue
    content = hashlib.sha256(f"{fingerprint} {prefix}".encode()).hexdigest()
    if book.open(batch_id, source=content, output=prefix, queue=queue):
        acceptance = BatchAcceptance(batch_id, book, settings, on_progress)
        for line in read():
            acceptance.add(line)
        acceptance.seal()
    return batch_status(batch_id)


_Read = Callable[[], Iterator[BatchLine | RejectedLine]]


def _source(source: Path | Iterable[Mapping[str, Any]]) -> tuple[_Read, str, str]:
    """Return how to read the lines (repeatably), a hash of the content, and a name for it."""
    if isinstance(source, Path | str):
        path = Path(source)
        stem = "".join(char if char.isalnum() and char.isascii() else "-" for char in path.stem)
        return lambda: read_batch(path), file_sha256(path), stem.strip("-")[:60] or "batch"
    items = [dict(item) for item in source]
    text = json.dumps(items, sort_keys=True, ensure_ascii=False, default=str)
    return lambda: parse_items(items), hashlib.sha256(text.encode()).hexdigest(), "batch"


def _output_prefix(output: str) -> str:
    from tts_tasks.requests import safe_output_name

    try:
        return safe_output_name(output.strip("/"))
    except ValueError as error:
        raise RequestError("output", str(error)) from None


def _refuse_bad_lines(lines: Iterator[BatchLine | RejectedLine]) -> None:
    bad = [line for line in lines if isinstance(line, RejectedLine)]
    if bad:
        shown = "; ".join(f"line {b.line}: {b.field}: {b.reason}" for b in bad[:5])
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise RequestError("file", f"{len(bad)} bad lines, nothing was accepted: {shown}{more}")


# -- look -----------------------------------------------------------------------------------------


def batch_status(id: str) -> BatchStatus:  # noqa: A002
    """Return how a batch stands; raises `NotFoundError`."""
    return _status(_batch(id, get_settings()))


def batch_list() -> list[BatchStatus]:
    """Return all batches, newest first."""
    settings = get_settings()
    return [_status(record) for record in BatchBook(settings.redis_url).all()]


def report(id: str) -> Iterator[dict[str, Any]]:  # noqa: A002
    """Yield the report's lines in input order, also while the batch runs."""
    settings = get_settings()
    batch = _batch(id, settings)
    return report_lines(JobLedger(settings.redis_url), BatchBook(settings.redis_url), batch)


def batch_errors(id: str) -> Iterator[dict[str, Any]]:  # noqa: A002
    """Yield the report lines of rejected and failed jobs, in input order."""
    return (line for line in report(id) if line["error"])


def batch_rejected(id: str) -> list[dict[str, Any]]:  # noqa: A002
    """Return the report lines of the input lines that were never accepted."""
    settings = get_settings()
    rejected = BatchBook(settings.redis_url).rejected(_batch(id, settings).id)
    return [rejected_line(line, why) for line, why in rejected.items()]


def job_result(id: str) -> JobResult | None:  # noqa: A002
    """Return how a job ended; None while it has not. Raises `NotFoundError`."""
    settings = get_settings()
    record = JobLedger(settings.redis_url).get(id)
    if record is None:
        raise NotFoundError(f"there is no job {id}")
    return _result(record, 1) if record.ended else None


def follow(
    id: str,  # noqa: A002
    *,
    after: int = 0,
    timeout_s: float | None = None,
) -> Iterator[JobResult]:
    """Yield how each job of a batch (or one job) ends, as it ends; returns when all have.

    Those that have ended come first. ``after``: the ``cursor`` of the last result seen before.
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
    book, ledger = BatchBook(settings.redis_url), JobLedger(settings.redis_url)
    while True:
        batch = _batch(batch_id, settings)
        lines = book.ended_lines(batch_id, after)
        records = ledger.get_many([keys.batch_job_id(batch_id, line) for line in lines])
        for record in records:
            after += 1
            if record is not None:
                yield _result(record, after)
        if batch.complete and not lines:
            return
        if not lines:
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
            name = str(line["name"]).removeprefix(f"{prefix}/")
            data = storage.read(line["name"])
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


def _status(record: BatchRecord) -> BatchStatus:
    state = "done" if record.complete else "running" if record.sealed else "accepting"
    created = datetime.fromtimestamp(record.created_ms / 1000, UTC)
    return BatchStatus(
        batch=record.id,
        state=state,
        total=record.total,
        succeeded=record.succeeded,
        failed=record.failed,
        rejected=record.rejected,
        report=record.report,
        output=record.output,
        created_at=created.isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _result(record: JobRecord, cursor: int) -> JobResult:
    line = report_line(record)
    return JobResult(
        id=record.meta.item_id or record.id,
        line=line["line"],
        state=record.state,
        uri=line["uri"],
        sha256=line["sha256"],
        duration_s=line["duration_s"],
        attempt=record.attempt,
        worker=line["worker"],
        error=line["error"],
        name=line.get("name"),
        cursor=cursor,
    )
