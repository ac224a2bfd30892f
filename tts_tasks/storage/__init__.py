"""Where artifacts and reports live: create-if-absent objects on a local disk or in S3.

Published audio goes through `publish`, which keeps rule 4; the `Storage` under it is the same
small Protocol for every place.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from tts_tasks.errors import ConfigurationError, StorageError
from tts_tasks.storage.artifacts import (
    Artifact,
    Ownership,
    Published,
    artifact_name,
    find_published,
    names_reserved,
    publish,
    publish_many,
    subtitle_name,
)
from tts_tasks.storage.base import ObjectInfo, Storage, check_name
from tts_tasks.storage.local import LocalStorage

__all__ = [
    "Artifact",
    "LocalStorage",
    "ObjectInfo",
    "Ownership",
    "Published",
    "Storage",
    "artifact_name",
    "check_name",
    "find_published",
    "names_reserved",
    "open_storage",
    "publish",
    "publish_many",
    "subtitle_name",
]

_FORMS = "give file:///absolute/folder, an absolute folder, or s3://bucket/prefix"


def open_storage(url: str) -> Storage:
    """Open the storage that a URL names; a missing local folder is created.

    Forms: ``file:///absolute/folder`` (percent-encoded), a bare absolute path, and
    ``s3://bucket/prefix``, whose region, endpoint and keys come from the usual ``AWS_*``
    environment. Raises `ConfigurationError` for a URL of another form or a missing extra, and
    `StorageError` when the folder cannot be made.
    """
    if "\x00" in url:
        raise ConfigurationError(f"storage URL {url!r} holds a NUL character; {_FORMS}")
    if url.startswith("/"):
        return LocalStorage(Path(url))
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(
            f"storage URL {url!r} cannot be read ({error}); {_FORMS}"
        ) from None
    if "@" in parts.netloc:
        # Not echoed: what stands before the @ is most likely a secret.
        raise ConfigurationError("storage URL holds credentials; put them into AWS_* variables")
    if parts.query or parts.fragment:
        raise ConfigurationError(f"storage URL {url!r} holds ? or #; percent-encode them")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ConfigurationError(f"storage URL {url!r} names no absolute folder; {_FORMS}")
        folder = unquote(parts.path)
        if "\x00" in folder:
            raise ConfigurationError(f"storage URL {url!r} holds a NUL character; {_FORMS}")
        return LocalStorage(Path(folder))
    if parts.scheme == "s3" and parts.netloc:
        return _open_s3(parts.netloc, parts.path.strip("/"))
    raise ConfigurationError(f"storage URL {url!r} is of no known form; {_FORMS}")


def _open_s3(bucket: str, prefix: str) -> Storage:
    try:
        from tts_tasks.storage.s3 import S3Storage
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "obstore":
            raise
        raise ConfigurationError(
            "s3:// storage needs the extra 's3': pip install 'tts-tasks[s3]'"
        ) from None
    if prefix:
        try:
            check_name(prefix)
        except StorageError as error:
            raise ConfigurationError(f"prefix of the storage URL: {error}") from None
    return S3Storage(bucket, prefix)
