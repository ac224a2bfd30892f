"""Connections to Redis: short timeouts, loud errors, one place where Lua files are loaded."""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from tts_tasks.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.commands.core import Script

#: A client as `connect` makes it. redis-py's types cannot tell that it answers with str, not bytes.
RedisClient = Any

#: How long a client waits for one answer before it calls Redis unreachable.
CLIENT_TIMEOUT_S = 2.0

#: What a Redis answers that is there but cannot write now: full, a replica, voting.
_REFUSALS = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)

#: Not by parsing: a URL too broken to parse must not show its password either.
_USER_INFO = re.compile(r"(://)[^/?#]*@")
_PASSWORD_PARAMETER = re.compile(r"([?&]password=)[^&#]*")


def connect(url: str, *, timeout_s: float = CLIENT_TIMEOUT_S, retries: int = 1) -> RedisClient:
    """Return a client (lazily connected, thread-safe); raises `ConfigurationError` for a bad URL.

    ``timeout_s`` bounds one try of one request; ``retries`` more are made on a new connection.
    """
    try:
        return redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # a half-open connection must not swallow a command for minutes
            health_check_interval=3,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), retries),
        )
    except ValueError as error:
        raise ConfigurationError(
            f"TTS_REDIS_URL {without_password(url)!r}: {error}; "
            "it looks like redis://[:password@]host:port/0"
        ) from None


@lru_cache(maxsize=8)
def shared_client(url: str) -> RedisClient:
    """Return this process's client for a URL: one pool of connections, whoever asks."""
    return connect(url)


def without_password(url: str) -> str:
    """Return the URL as it may be shown to people and written to logs."""
    url = _USER_INFO.sub(r"\1***@", url)
    return _PASSWORD_PARAMETER.sub(r"\1***", url)


@contextmanager
def unavailable_is_clear(url: str) -> Iterator[None]:
    """Turn "cannot reach Redis" into an `UnavailableError` that says what to do."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise ConfigurationError(
            f"Redis at {without_password(url)} refused the password: {error}; check TTS_REDIS_URL"
        ) from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise UnavailableError(
            f"no Redis at {without_password(url)} ({error}): "
            "start one with `ttsctl up`, or set TTS_REDIS_URL"
        ) from error
    except redis.ResponseError as error:
        if not isinstance(error, _REFUSALS) and not str(error).startswith("MISCONF"):
            raise
        raise UnavailableError(
            f"Redis at {without_password(url)} refuses to work now: {error}"
        ) from error


@lru_cache(maxsize=64)
def _source(package: str, name: str) -> str:
    return resources.files(package).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")


class Scripts:
    """The Lua scripts of one package, registered on one client by file name."""

    def __init__(self, client: RedisClient, package: str) -> None:
        self._client = client
        self._package = package
        self._scripts: dict[str, Script] = {}

    def run(
        self, name: str, keys: list[str], args: list[Any], client: RedisClient | None = None
    ) -> Any:
        """Run ``scripts/<name>.lua``; with a pipeline as ``client``, queue it there."""
        script = self._scripts.get(name)
        if script is None:
            script = self._client.register_script(_source(self._package, name))
            self._scripts[name] = script
        return script(keys=keys, args=args, client=client)
