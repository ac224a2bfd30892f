"""What every attempt at a job has in common, be it online or a line of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tts_tasks.errors import (
    ConflictError,
    EngineError,
    RequestError,
    StorageError,
    TTSError,
    UnspeakableTextError,
)
from tts_tasks.pools import Offer, needs_of
from tts_tasks.storage import Artifact, publish_many, subtitle_name
from tts_workers.memory import PARDONS, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tts_tasks.ledger import Claim
    from tts_tasks.requests import SpeechRequest
    from tts_tasks.storage import Ownership, Published, Storage
    from tts_workers.engine_host import LoadedEngine
    from tts_workers.rendering import Encoded, Insist

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
    """Refuse what this worker's engine is required to do and cannot; raises `RequestError`.

    The door has looked already, where the pool was known. What a voice or a lexicon calls for
    besides is the engine's to refuse: it knows why.
    """
    if not request.requires.model_fields_set:
        return
    offer = Offer.of_capabilities(loaded.capabilities, engine=loaded.engine.name)
    if offer is None:
        return
    features = request.requires.features
    needs = replace(needs_of(request), pool="", model="", voice="", features=features)
    for lack in offer.lacks(needs):
        raise RequestError(lack.field, f"this pool {lack.reason}")


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


@dataclass(frozen=True, slots=True)
class Publication:
    """What an attempt publishes: an artifact, and its subtitles."""

    artifact: Artifact
    subtitles: tuple[Artifact, ...] = ()

    @classmethod
    def of(
        cls, name: str, encoded: Encoded, owner: Ownership, details: Mapping[str, Any]
    ) -> Publication:
        """Return what is published of what was encoded."""
        names = {kind: subtitle_name(name, kind) for kind in encoded.subtitles}
        told = {**details, "subtitles": names} if names else details
        return cls(
            Artifact(name, encoded.data, owner, told),
            tuple(Artifact(names[kind], data, owner) for kind, data in encoded.subtitles.items()),
        )


def publish_all(
    storage: Storage, publications: Sequence[Publication], insist: Insist
) -> list[Published | TTSError]:
    """Publish artifacts, and before them their subtitles; returns what came of each.

    So whoever finds an artifact finds its subtitles too. They are adopted as it is, and a name
    that somebody else has is a conflict before the artifact is there.
    """
    subtitles = [(mine, one) for mine in publications for one in mine.subtitles]
    told = insist(lambda: publish_many(storage, [one for _, one in subtitles]))
    faults = {
        id(mine): fault
        for (mine, _), fault in zip(subtitles, told, strict=True)
        if isinstance(fault, TTSError)
    }
    ready = [mine for mine in publications if id(mine) not in faults]
    published = iter(insist(lambda: publish_many(storage, [mine.artifact for mine in ready])))
    return [faults.get(id(mine)) or next(published) for mine in publications]


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
