"""Publishing a job's audio exactly once, whoever finishes it and however often.

Beside each artifact ``<folder>/<file>`` stands its sidecar ``<folder>/.tts/<file>.json``. It is
created before the artifact, so it is also the reservation of the name, and it carries what is
known of the content: job, sound, sha256, size, and the caller's details.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tts_tasks.errors import (
    ConflictError,
    NotFoundError,
    StorageError,
    TTSError,
    UnavailableError,
)
from tts_tasks.storage.base import SIDECAR_FOLDER, Storage, check_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_ID_PART_BYTES: Final = 120
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_.-]+")
_NOT_IN_FILE_NAMES: Final = re.compile(r"[^\w.-]")


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose an artifact is: what decides between adopting what is there and a conflict."""

    job: str
    sound: str  #: `SpeechRequest.sound_sha256`


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is to be published: see `publish`."""

    name: str
    data: bytes = field(repr=False)
    owner: Ownership
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """An artifact that is in the storage, whole, under its final name."""

    name: str
    uri: str
    sha256: str
    size_bytes: int
    adopted: bool  #: an earlier attempt (or an equal job) had published it
    #: What the publisher knew (duration, engine, attempt ...). Empty where that is unknown: the
    #: publisher died between writing another attempt's content and writing this down.
    details: Mapping[str, Any] = field(default_factory=dict)


class _Sidecar(BaseModel):
    model_config = ConfigDict(frozen=True)

    job: str
    sound: str
    sha256: str
    size_bytes: int
    details: dict[str, Any] = Field(default_factory=dict)

    def is_of(self, owner: Ownership) -> bool:
        return self.job == owner.job and self.sound == owner.sound


#: Stands for a sidecar that cannot be read: the name is taken, nobody knows by whom.
_UNREADABLE: Final = _Sidecar(job="(unreadable sidecar)", sound="", sha256="", size_bytes=0)


def publish(
    storage: Storage,
    name: str,
    data: bytes,
    owner: Ownership,
    details: Mapping[str, Any] | None = None,
) -> Published:
    """Make ``data`` the artifact ``name`` of ``owner``, or adopt what its job already published.

    Rule 4: an artifact appears once, whole, under its final name, by create-if-absent. It is never
    overwritten and never partial; the second finisher adopts the first one's, also where the
    bytes differ (Opus and GPUs are not byte-stable). A name that somebody else has is a conflict,
    unless the content is the same. Proven by ``test_publishing.py``:
    ``test_racing_finishers_of_one_job_publish_once`` and
    ``test_a_name_of_somebody_else_is_a_conflict``.

    ``details`` is a small JSON object kept in the sidecar. Raises `ConflictError`,
    `StorageError`, `UnavailableError`; after any of them it may be called again.
    """
    check_name(name)
    mine = _sidecar_of(data, owner, details or {})
    held = _reserve(storage, name, mine)
    ours = held is not None and held.is_of(owner)
    # Somebody else's reservation of the very same content is as good: no race can change it.
    may_create = held is not None and (ours or held.sha256 == mine.sha256)
    if may_create and storage.create(name, data):
        if ours and held != mine:
            # An attempt that died had reserved the name for content that never came to be. Only
            # the one creator of the artifact gets here, and the owner stays the same.
            storage.replace(_sidecar_name(name), _encoded(mine))
        return _published(storage, name, mine, adopted=False)
    if ours and held is not None:
        return _adopt(storage, name, held, mine)
    return _adopt_identical(storage, name, mine, held)


def publish_many(storage: Storage, artifacts: Sequence[Artifact]) -> list[Published | TTSError]:
    """Do as `publish` with several small artifacts, waiting for the storage only once or twice.

    Names that nobody has are reserved together, and those that were reserved are created together;
    any that is not as simple as that is published alone, with every care. Returns in their order
    what came of them: what `publish` returns, or what it raises. Raises `UnavailableError` itself;
    it may be called again.
    """
    done: dict[int, Published] = {}
    with suppress(StorageError):  # of one of them: published alone it says which
        done = _publish_new(storage, artifacts)
    return [
        done.get(place) or _publish_alone(storage, artifact)
        for place, artifact in enumerate(artifacts)
    ]


def _publish_new(storage: Storage, artifacts: Sequence[Artifact]) -> dict[int, Published]:
    """Publish those whose names nobody has; returns them by their places."""
    names = [artifact.name for artifact in artifacts]
    # Before reserving, as in `_reserve`. What is reserved already need not be looked for: of that
    # no reservation is created here.
    taken = storage.taken(names)
    new: dict[str, tuple[int, _Sidecar]] = {}
    for place, artifact in enumerate(artifacts):
        if artifact.name not in new and artifact.name not in taken:
            mine = _sidecar_of(artifact.data, artifact.owner, artifact.details)
            new[artifact.name] = place, mine
    sidecars = [(_sidecar_name(name), _encoded(mine)) for name, (_, mine) in new.items()]
    reserved = _those_created(storage, list(new), sidecars)
    contents = [(name, artifacts[new[name][0]].data) for name in reserved]
    return {
        new[name][0]: _published(storage, name, new[name][1], adopted=False)
        for name in _those_created(storage, reserved, contents)
    }


def _those_created(
    storage: Storage, names: list[str], objects: list[tuple[str, bytes]]
) -> list[str]:
    created = storage.create_many(objects) if objects else []
    return [name for name, mine in zip(names, created, strict=True) if mine]


def _publish_alone(storage: Storage, artifact: Artifact) -> Published | TTSError:
    try:
        return publish(storage, artifact.name, artifact.data, artifact.owner, artifact.details)
    except UnavailableError:
        raise
    except TTSError as error:
        return error


def names_reserved(storage: Storage, names: Sequence[str]) -> set[str]:
    """Return those names that somebody has, or is about to have: of others nothing is published."""
    sidecars = {_sidecar_name(name): name for name in names}
    return {sidecars[taken] for taken in storage.taken(list(sidecars))}


def find_published(storage: Storage, name: str, owner: Ownership) -> Published | None:
    """Return the artifact that ``owner`` has already published; asked before anything is spoken.

    None also where the name is somebody else's: only `publish`, which knows the content, can tell
    a conflict from a coincidence.
    """
    held = _read_sidecar(storage, name)
    if held is None or not held.is_of(owner):
        return None
    try:
        return _adopt(storage, name, held)
    except NotFoundError:
        return None


def artifact_name(
    *,
    prefix: str,
    output_name: str | None,
    audio_format: str,
    accepted_at: datetime,
    job_id: str,
) -> str:
    """Return the storage name of a job's artifact; every attempt computes the same one.

    ``<prefix>/<output_name>.<format>``; a job without an output name is called
    ``tts_<UTC time of acceptance>_<id>``. ``prefix`` may be empty; ``accepted_at`` must know its
    time zone (ValueError). An id is made safe for file names, with a hash of it where that
    changed it, so that two ids never share a name. Raises `StorageError` for an unsafe name.
    """
    if output_name is None:
        if accepted_at.tzinfo is None:
            raise ValueError("accepted_at has no time zone")
        output_name = f"tts_{_utc_time(accepted_at.astimezone(UTC))}_{_file_safe(job_id)}"
    name = f"{prefix}/{output_name}.{audio_format}" if prefix else f"{output_name}.{audio_format}"
    check_name(name)
    return name


def subtitle_name(name: str, kind: str) -> str:
    """Return the storage name of an artifact's subtitles: ``a/b.srt`` for ``a/b.wav``."""
    return f"{name.rpartition('.')[0]}.{kind}"


@lru_cache(maxsize=16)  # a batch has one time of acceptance for all its lines
def _utc_time(utc: datetime) -> str:
    return utc.strftime("%Y%m%dT%H%M%SZ")


def _file_safe(job_id: str) -> str:
    if len(job_id) <= _MAX_ID_PART_BYTES and _PLAIN_ID.fullmatch(job_id):
        return job_id
    text = unicodedata.normalize("NFC", _NOT_IN_FILE_NAMES.sub("_", job_id))
    safe = text.encode()[:_MAX_ID_PART_BYTES].decode(errors="ignore")
    if safe == job_id:
        return safe
    return f"{safe}-{hashlib.sha256(job_id.encode(errors='surrogatepass')).hexdigest()[:8]}"


def _sidecar_of(data: bytes, owner: Ownership, details: Mapping[str, Any]) -> _Sidecar:
    return _Sidecar(
        job=owner.job,
        sound=owner.sound,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        details=dict(details),
    )


def _reserve(storage: Storage, name: str, mine: _Sidecar) -> _Sidecar | None:
    """Return the sidecar in force, ours if there was none; None: a file of nobody's is there."""
    held = _read_sidecar(storage, name)
    if held is not None:
        return held
    # Looked at before reserving: a reservation over a foreign file would make the next attempt
    # believe that the file is ours.
    if storage.stat(name) is not None:
        # Or a faster finisher has put both there since we looked for the sidecar.
        return _read_sidecar(storage, name)
    if storage.create(_sidecar_name(name), _encoded(mine)):
        return mine
    return _read_sidecar(storage, name)


def _adopt(storage: Storage, name: str, held: _Sidecar, *others: _Sidecar) -> Published:
    """Return what is there, hashed again: the sidecar may be of an attempt that died."""
    data = storage.read(name)
    sha256 = hashlib.sha256(data).hexdigest()
    for known in (held, *others):
        if known.sha256 == sha256:
            return _published(storage, name, known, adopted=True)
    facts = {"sha256": sha256, "size_bytes": len(data), "details": {}}
    return _published(storage, name, held.model_copy(update=facts), adopted=True)


def _adopt_identical(
    storage: Storage, name: str, mine: _Sidecar, held: _Sidecar | None
) -> Published:
    holder = f"job {held.job}" if held else "something that no job published"
    try:
        sha256 = hashlib.sha256(storage.read(name)).hexdigest()
    except NotFoundError:
        raise ConflictError(
            f"{storage.uri(name)} is reserved by {holder}; choose another output name, or, if "
            f"that job is gone for good, remove {storage.uri(_sidecar_name(name))}"
        ) from None
    if sha256 != mine.sha256:
        raise ConflictError(
            f"{storage.uri(name)} exists with other content, of {holder}; nothing was "
            "overwritten: choose another output name"
        )
    return _published(storage, name, mine, adopted=True)


def _published(storage: Storage, name: str, sidecar: _Sidecar, *, adopted: bool) -> Published:
    return Published(
        name=name,
        uri=storage.uri(name),
        sha256=sidecar.sha256,
        size_bytes=sidecar.size_bytes,
        adopted=adopted,
        details=sidecar.details,
    )


def _sidecar_name(name: str) -> str:
    folder, _, leaf = name.rpartition("/")
    return "/".join(filter(None, (folder, SIDECAR_FOLDER, f"{leaf}.json")))


def _encoded(sidecar: _Sidecar) -> bytes:
    return sidecar.model_dump_json().encode() + b"\n"


def _read_sidecar(storage: Storage, name: str) -> _Sidecar | None:
    try:
        return _Sidecar.model_validate_json(storage.read(_sidecar_name(name)))
    except NotFoundError:
        return None
    except ValidationError:
        return _UNREADABLE
