"""The forms of ``TTS_REDIS_URL`` and ``TTS_BROKER_URL``: one server, and beyond.

One setting names everything: ``sentinel://:password@host:26379,host:26379/name/0`` is the master
that Sentinels call ``name``, ``cluster://:password@host:6379,host:6379`` a Redis Cluster. Other
URLs are redis-py's own. See ``docs/decisions/0009-redis-urls-beyond-one-node.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from redis.connection import parse_url

from tts_tasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

SINGLE_LOOKS = "redis://[:password@]host:port/0"
SENTINEL_LOOKS = "sentinel://[:password@]host:26379,host:26379/MASTER/0"
CLUSTER_LOOKS = "cluster://[:password@]host:port,host:port"
LOOKS = f"{SINGLE_LOOKS}, {SENTINEL_LOOKS} or {CLUSTER_LOOKS}"

SINGLE_SCHEMES = ("redis", "rediss", "unix")
_DEFAULT_PORTS = {"sentinel": 26379, "cluster": 6379}
_SENTINEL_PARAMETERS = ("sentinel_password", "sentinel_username")


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """What a ``sentinel://`` or ``cluster://`` URL says."""

    kind: str  #: sentinel | cluster
    hosts: tuple[tuple[str, int], ...]  #: Sentinels, or some nodes of the cluster
    username: str | None
    password: str | None
    master_name: str  #: empty for a cluster
    db: int
    sentinel_username: str | None
    sentinel_password: str | None

    @property
    def credentials(self) -> dict[str, str]:
        """The data servers' user and password, as redis-py's options."""
        return _given(username=self.username, password=self.password)

    @property
    def sentinel_credentials(self) -> dict[str, str]:
        """The Sentinels' user and password, as redis-py's options."""
        return _given(username=self.sentinel_username, password=self.sentinel_password)

    def for_kombu(self) -> str:
        """Return it as kombu and Celery write it: one URL a Sentinel, joined by semicolons."""
        user = ""
        if self.password is not None:
            user = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@"
        return ";".join(
            f"sentinel://{user}{_bracketed(host)}:{port}/{self.db}" for host, port in self.hosts
        )


def scheme_of(url: str) -> str:
    """Return what stands before ``://``, in small letters."""
    return url.partition("://")[0].lower()


def beyond_one_server(url: str) -> bool:
    """Whether a URL names Sentinels or a cluster."""
    return scheme_of(url) in _DEFAULT_PORTS


def is_cluster(url: str) -> bool:
    """Whether a URL names a Redis Cluster."""
    return scheme_of(url) == "cluster"


def parse_redis_url(url: str) -> RedisUrl | None:
    """Read a Sentinel or cluster URL; None for any other, if redis-py can read it, or if empty.

    Raises `ConfigurationError`; its text holds no password.
    """
    kind = scheme_of(url)
    if not beyond_one_server(url):
        if url:
            _check_one_server(kind, url)
        return None
    rest, _, query = url.partition("://")[2].partition("?")
    if ";" in rest or "://" in rest:
        raise _wrong(kind, "the hosts stand in one URL, separated by commas")
    # not urlsplit: it knows no list of hosts
    user_info, at, place = rest.rpartition("@")
    hosts, _, path = place.partition("/")
    if "/" in user_info:
        raise _wrong(kind, "a slash in the password is written %2F")
    username, _, password = user_info.partition(":")
    parameters = _parameters(kind, query)
    master_name, db = _path(kind, path)
    return RedisUrl(
        kind=kind,
        hosts=tuple(_host(kind, host) for host in hosts.split(",")),
        username=unquote(username) or None,
        password=unquote(password) if at else None,
        master_name=master_name,
        db=db,
        sentinel_username=parameters.get("sentinel_username"),
        sentinel_password=parameters.get("sentinel_password"),
    )


def _check_one_server(kind: str, url: str) -> None:
    if kind not in SINGLE_SCHEMES:
        raise _wrong(kind, "there is no such scheme")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its text may hold what stands before a slash in the password
        raise _wrong(kind, "the port is no number (a slash in a password is written %2F)") from None
    try:
        read = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise _wrong(kind, str(error)) from None
    if kind != "unix" and parts.path.strip("/") and "db" not in read:
        raise _wrong(kind, f"{parts.path[1:]!r} is not the number of a database")


def _host(kind: str, text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _wrong(kind, f"host {text!r}: {error}") from None
    if not host:
        raise _wrong(kind, f"{text!r} is not a host")
    return host, port or _DEFAULT_PORTS[kind]


def _path(kind: str, path: str) -> tuple[str, int]:
    words = [unquote(word) for word in path.split("/") if word]
    if kind == "cluster":
        if words not in ([], ["0"]):
            raise _wrong(kind, "a cluster has no databases and no names of masters")
        return "", 0
    if not words or len(words) > 2:
        raise _wrong(kind, "the path is the name of the master, then perhaps the database")
    try:
        return words[0], int(words[1]) if len(words) > 1 else 0
    except ValueError:
        raise _wrong(kind, f"{words[1]!r} is not the number of a database") from None


def _parameters(kind: str, query: str) -> Mapping[str, str]:
    known = _SENTINEL_PARAMETERS if kind == "sentinel" else ()
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    for name in parameters:
        if name not in known:
            offered = ", ".join(known) or "none"
            raise _wrong(kind, f"unknown parameter {name!r}; there are: {offered}")
    return parameters


def _wrong(kind: str, what: str) -> ConfigurationError:
    looks = {"sentinel": SENTINEL_LOOKS, "cluster": CLUSTER_LOOKS}
    return ConfigurationError(f"{what}; it looks like {looks.get(kind, LOOKS)}")


def _given(**options: str | None) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
