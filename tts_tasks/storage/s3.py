"""Storage in S3, or in what speaks S3 and knows conditional writes (``If-None-Match: *``)."""

from __future__ import annotations

import ipaddress
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from tts_tasks.errors import ConfigurationError, NotFoundError, StorageError, UnavailableError
from tts_tasks.storage.base import (
    ObjectInfo,
    check_hidden_folder,
    check_name,
    check_removable,
    check_replaceable,
    is_allowed,
    is_hidden,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from obstore.store import ClientConfig, S3Config

_CONFLICT_TRIES: Final = 5
#: Requests that are made at the same time for objects that are created together.
_ASKED_AT_ONCE: Final = 8
#: A part of a multipart upload. S3 wants 5 MiB at least, and takes 10,000 of them.
_PART_BYTES: Final = 8 * 1024 * 1024
#: What S3 removes at most in one request.
_REMOVED_TOGETHER: Final = 1000
_KEY_VARIABLES: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class S3Storage:
    """Objects are keys below ``s3://bucket/prefix``. An object appears whole or not at all."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self._bucket = bucket
        self._prefix = prefix
        endpoint = next(filter(None, map(os.environ.get, _ENDPOINT_VARIABLES)), None)
        config: S3Config = {}
        options: ClientConfig = {"connect_timeout": "5s", "timeout": "60s"}
        if endpoint:
            config["endpoint"] = endpoint
            options["allow_http"] = _may_be_plain(endpoint)
            _check_keys(endpoint)
        if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
            config["region"] = region
        try:
            self._store = S3Store(
                bucket,
                prefix=prefix or None,
                config=config,
                client_options=options,
                # The job's own next attempt is the better retry: short here.
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
            )
        except BaseError as error:
            raise ConfigurationError(f"s3://{bucket}/{prefix}: {_first_line(error)}") from error

    def __repr__(self) -> str:
        return f"S3Storage({self._bucket!r}, {self._prefix!r})"

    def create(self, name: str, data: bytes) -> bool:
        """See `Storage.create`."""
        check_name(name)
        for _ in range(_CONFLICT_TRIES):
            with self._errors(name):
                try:
                    obstore.put(self._store, name, data, mode="create", use_multipart=False)
                except AlreadyExistsError:
                    # Also S3's answer (409) to a write that lost against one still going on or
                    # against a deletion: then nothing need be there, and AWS says to try again.
                    if self.stat(name) is not None:
                        return False
                else:
                    return True
        raise UnavailableError(f"{self.uri(name)} is being written and deleted by others")

    def create_many(self, objects: Sequence[tuple[str, bytes]]) -> list[bool]:
        """See `Storage.create_many`: several puts at the same time."""
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            return list(pool.map(lambda one: self.create(*one), objects))

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        check_name(name)
        with self._errors(name):
            return bytes(obstore.get(self._store, name).bytes())

    def stat(self, name: str) -> ObjectInfo | None:
        """See `Storage.stat`."""
        check_name(name)
        with self._errors(name):
            try:
                meta = obstore.head(self._store, name)
            except FileNotFoundError:
                return None
        return ObjectInfo(name, meta["size"], meta["last_modified"])

    def taken(self, names: Sequence[str]) -> set[str]:
        """See `Storage.taken`."""
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
            found = list(pool.map(self.stat, names))
        return {one.name for one in found if one is not None}

    def replace(self, name: str, data: bytes) -> None:
        """See `Storage.replace`: for reports and sidecars only, never for artifacts."""
        check_replaceable(name)
        with self._errors(name):
            obstore.put(self._store, name, data, use_multipart=False)

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """See `Storage.write`: what is longer than a part becomes a multipart upload."""
        check_replaceable(name)
        rest = iter(pieces)
        start = bytearray()
        for piece in rest:
            start += piece
            if len(start) > _PART_BYTES:
                break
        else:
            self.replace(name, bytes(start))
            return
        # In a thread of their own, because pieces may come out of this storage, and obstore
        # cannot be called from within a call of obstore.
        with ThreadPoolExecutor(1) as producer, self._errors(name):
            obstore.put(
                self._store,
                name,
                _drawn(producer, chain((bytes(start),), rest)),
                chunk_size=_PART_BYTES,
                max_concurrency=2,
            )

    def remove(self, names: Iterable[str]) -> None:
        """See `Storage.remove`."""
        rest = iter(names)
        while some := list(islice(rest, _REMOVED_TOGETHER)):
            for name in some:
                check_removable(name)
            with self._errors(some[0]):
                obstore.delete(self._store, some)

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Storage.list`."""
        if prefix:
            check_name(prefix)
        return (name for name in self._names(prefix) if not is_hidden(name))

    def list_hidden(self, prefix: str) -> Iterator[str]:
        """See `Storage.list_hidden`."""
        check_hidden_folder(prefix)
        return filter(is_allowed, self._names(prefix))

    def uri(self, name: str) -> str:
        """See `Storage.uri`: an ``s3://`` URL."""
        check_name(name)
        return "/".join(filter(None, (f"s3://{self._bucket}", self._prefix, name)))

    def path(self, name: str) -> None:
        """See `Storage.path`: always None, the object is not on this machine."""
        check_name(name)

    def sweep(self, older_than_s: float) -> int:  # noqa: ARG002 - nothing to sweep
        """See `Storage.sweep`: a put in one request leaves nothing behind.

        A writer that is killed in the middle of a multipart upload leaves its parts, which S3
        neither lists nor shows: a lifecycle rule of the bucket removes them.
        """
        return 0

    def _names(self, prefix: str) -> Iterator[str]:
        with self._errors(prefix):
            for chunk in obstore.list(self._store, prefix or None, chunk_size=1000):
                for meta in chunk:
                    yield meta["path"]

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        where = "/".join(filter(None, (f"s3://{self._bucket}", self._prefix, name)))
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise _no_bucket(self._bucket) from error
            raise NotFoundError(f"there is no {where}") from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            message = f"{where}: not allowed; check the AWS_* keys and the bucket's policy"
            raise StorageError(f"{message} ({_first_line(error)})") from error
        except GenericError as error:
            if "NoSuchBucket" in str(error):
                raise _no_bucket(self._bucket) from error
            raise UnavailableError(f"{where}: {_first_line(error)}") from error
        except BaseError as error:
            raise StorageError(f"{where}: {_first_line(error)}") from error


def _drawn(producer: ThreadPoolExecutor, pieces: Iterator[bytes]) -> Iterator[bytes]:
    while (piece := producer.submit(next, pieces, None).result()) is not None:
        yield piece


def _may_be_plain(endpoint: str) -> bool:
    """Allow http without TLS on loopback, or where the operator says so; else refuse it."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https":
        return False
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigurationError(f"S3 endpoint {endpoint!r} is no http:// or https:// URL")
    if _is_loopback(parts.hostname) or os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true":
        return True
    raise ConfigurationError(
        f"S3 endpoint {endpoint!r} would send audio unencrypted; use https://, "
        "or set AWS_ALLOW_HTTP=true"
    )


def _check_keys(endpoint: str) -> None:
    """Refuse a server on this machine without keys.

    The credential chain would go on to ask the cloud's metadata address for an instance's keys,
    which are of no use to a local server and none of its business.
    """
    if not _is_loopback(urlsplit(endpoint).hostname or ""):
        return
    missing = [name for name in _KEY_VARIABLES if not os.environ.get(name)]
    if missing:
        raise ConfigurationError(f"S3 endpoint {endpoint!r} needs {' and '.join(missing)}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _no_bucket(bucket: str) -> StorageError:
    return StorageError(f"there is no bucket {bucket!r}; create it, or correct TTS_STORAGE_URL")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()
