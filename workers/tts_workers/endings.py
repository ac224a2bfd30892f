"""What failures of jobs say: a stable code, a reason for people, and the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tts_tasks.ledger import JobRecord


def failure(code: str, reason: str, **evidence: Any) -> dict[str, Any]:
    """Return the result of a failed job; ``code`` is stable, ``reason`` is for people."""
    return {"error": {"code": code, "reason": reason, **evidence}}


def of_lost_attempts(record: JobRecord) -> dict[str, Any]:
    """Return what a failure says of the attempts that led to it: the newest evidence, and whose."""
    told: dict[str, Any] = {"workers": list(record.struck_workers)}
    return told | ({"evidence": record.evidence} if record.evidence else {})


def exhausted_reason(record: JobRecord) -> str:
    """Say in one line why no further attempt is made."""
    last = record.evidence.get("reason")
    tail = f"; the last one: {last}" if last else ""
    return f"{record.strikes} attempts in a row ended without progress{tail}"
