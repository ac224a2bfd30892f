"""What every attempt at a job has in common, be it online or a line of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tts_tasks.errors import (
    ConflictError,
    EngineError,
    RequestError,
    StorageError,
    UnspeakableTextError,
)
from tts_workers.memory import PARDONS, is_out_of_memory

if TYPE_CHECKING:
    from tts_tasks.ledger import Claim
    from tts_tasks.requests import SpeechRequest
    from tts_tasks.storage import Published
    from tts_workers.engine_host import LoadedEngine
    from tts_workers.rendering import Encoded

#: Errors that no other attempt will change, and the code of the failure they are.
FINAL: Final[dict[type[Exception], str]] = {
    RequestError: "bad_request",
    UnspeakableTextError: "unspeakable_text",
    ConflictError: "conflict",
}


def final_code(error: Exception) -> str | None:
    """Return the code of an error that no other attempt will change; None for any other one."""
    return next((code for kind, code in FINAL.items() if isinstance(error, kind)), None)


def passing_code(error: Exception) -> tuple[str, str, int]:
    """Return ``(code, reason, pardons)`` of an error after which another attempt may succeed.

    ``pardons``: so many such failures in a job's life do not count as an attempt.
    """
    if is_out_of_memory(error):
        return "out_of_memory", str(error) or type(error).__name__, PARDONS
    if isinstance(error, EngineError | StorageError):
        return "storage" if isinstance(error, StorageError) else "engine", str(error), 0
    return "internal", f"{type(error).__name__}: {error}", 0


def check_requirements(request: SpeechRequest, loaded: LoadedEngine) -> None:
    """Refuse what this pool's engine cannot do; raises `RequestError`."""
    has = loaded.capabilities
    wants = request.requires
    if wants.engine is not None and wants.engine != loaded.engine.name:
        raise RequestError("requires.engine", f"this pool runs {loaded.engine.name}")
    if wants.language is not None and wants.language not in has["languages"]:
        raise RequestError("requires.language", f"this pool speaks {', '.join(has['languages'])}")
    missing = sorted(set(wants.features) - set(has["features"]))
    if missing:
        offered = ", ".join(has["features"]) or "none"
        raise RequestError("requires.features", f"{missing[0]}: this pool has {offered}")


def details_of(
    claim: Claim, request: SpeechRequest, loaded: LoadedEngine, encoded: Encoded
) -> dict[str, Any]:
    """Return what is published beside an artifact."""
    details = {
        "duration_s": round(encoded.duration_s, 4),
        "sample_rate_hz": encoded.sample_rate_hz,
        "format": request.format,
        "engine": loaded.name,
        "fingerprint": loaded.fingerprint,
        "attempt": claim.attempt,
        "worker": claim.worker,
    }
    return details | ({"epoch": claim.epoch} if claim.epoch else {})


def artifact_record(claim: Claim, published: Published) -> dict[str, Any]:
    """Return the artifact's record: what ``.get()`` returns and the report says."""
    return {
        "id": claim.job_id,
        "name": published.name,
        "uri": published.uri,
        "sha256": published.sha256,
        "size_bytes": published.size_bytes,
        "adopted": published.adopted,
        **published.details,
    }
