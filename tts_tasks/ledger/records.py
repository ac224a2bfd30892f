"""The values that go in and out of the ledger."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from tts_tasks.keys import split_job_id

#: What is known of how an attempt ended, as plain JSON; see `tts_workers.evidence`.
Evidence = dict[str, Any]
#: The most that a job keeps of it.
EVIDENCE_BYTES = 8000


@dataclass(frozen=True, slots=True)
class JobMeta:
    """What is fixed about a job besides its request, when it is accepted."""

    queue: str  #: the Celery queue that rings for it
    name: str  #: the artifact's final name in storage
    lane_key: str = ""  #: the lane of an online job; empty for a line of a batch
    batch: str = ""
    line: int = 0  #: physical line in the batch file, from 1
    item_id: str = ""  #: the id its author gave it
    task_id: str = ""  #: the Celery task that somebody may wait for; empty: the job id itself

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to work on a job: good until a newer attempt exists."""

    job_id: str
    worker: str
    attempt: int
    request: dict[str, Any]
    meta: JobMeta
    accepted_ms: int
    epoch: int = 0  #: of the lease it was granted under; 0 for a line of a batch


class Refusal(StrEnum):
    """Why a claim was refused."""

    HELD = "held"  #: another worker has it
    ENDED = "ended"  #: it is done; ``detail`` is the state and ``result`` what came of it
    MISSING = "missing"  #: the ledger does not know it
    NOT_LEADER = "not_leader"  #: the lane's lease is not this worker's
    EXHAUSTED = "exhausted"  #: too many workers were lost over it
    EXPIRED = "expired"  #: its deadline passed ``detail`` ms ago, before anybody began


@dataclass(frozen=True, slots=True)
class ClaimRefused:
    """The answer to a claim that was not granted."""

    reason: Refusal
    detail: str = ""
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as the ledger holds it."""

    id: str
    state: str  #: accepted | running | succeeded | failed | cancelled
    attempt: int
    worker: str
    request: dict[str, Any]  #: empty for a line of a batch: it stands in the batch's manifest
    meta: JobMeta
    result: dict[str, Any]  #: the artifact's record, or ``{"error": {"code", "reason"}}``
    accepted_ms: int
    claimed_ms: int
    finished_ms: int | None
    segments_done: int
    segments: int
    strikes: int = 0  #: attempts in a row that ended without progress
    struck_workers: tuple[str, ...] = ()  #: that had these attempts
    evidence: Evidence = field(default_factory=dict)  #: how the last of them ended
    nonce: str = ""  #: of the newest claim
    chunk: int = 0  #: of the batch's manifest in which its line stands

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("succeeded", "failed", "cancelled")

    @classmethod
    def from_hash(cls, job_id: str, fields: dict[str, str]) -> Self:
        """Read a job's hash."""
        return cls(
            id=job_id,
            state=fields["state"],
            attempt=int(fields.get("attempt", 0)),
            worker=fields.get("worker", ""),
            request=_parsed(fields.get("request")),
            meta=JobMeta.from_json(fields["meta"]) if "meta" in fields else _line_meta(job_id),
            result=_parsed(fields.get("result")),
            accepted_ms=int(fields.get("accepted_ms", 0)),
            claimed_ms=int(fields.get("claimed_ms", 0)),
            finished_ms=int(fields["finished_ms"]) if "finished_ms" in fields else None,
            segments_done=int(fields.get("segments_done", 0)),
            segments=int(fields.get("segments", 0)),
            strikes=int(fields.get("strikes", 0)),
            struck_workers=tuple(fields.get("struck_workers", "").split("\n"))
            if fields.get("struck_workers")
            else (),
            evidence=_parsed(fields.get("evidence")),
            nonce=fields.get("nonce", ""),
            chunk=int(fields.get("chunk", 0)),
        )


def evidence_json(evidence: Evidence | None) -> str:
    """Return evidence as JSON of at most `EVIDENCE_BYTES`; its lists lose their oldest lines."""
    if not evidence:
        return ""
    kept = {
        key: list(value) if isinstance(value, list) else value for key, value in evidence.items()
    }
    while len((text := json.dumps(kept, ensure_ascii=False)).encode()) > EVIDENCE_BYTES:
        longest = max(
            (value for value in kept.values() if isinstance(value, list) and value),
            key=lambda lines: len(str(lines)),
            default=None,
        )
        if longest is None:
            return json.dumps({"reason": str(evidence.get("reason", ""))[:500]})
        del longest[0]
    return text


def _parsed(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}


def _line_meta(job_id: str) -> JobMeta:
    """Return what the id of a batch's line says; the rest stands in the batch's manifest."""
    batch, line = split_job_id(job_id)
    return JobMeta(queue="", name="", batch=batch, line=int(line))
