"""Celery's result backend, made to wait through an outage of Redis.

Celery's own gives a waiting ``.get()`` up for good after twenty tries, whatever its timeout, and
does not notice that the connection it listens on has lost its other end. Here ``.get()`` waits as
long as its caller wants, and asks for what it may have missed. Named by ``result_backend``; proved
by ``tests/e2e/test_connections.py``.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.backends import redis as celery_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

_RETRY_S = 0.5
#: How often results that are waited for are looked up, in case their message got lost.
_LOOK_EVERY_S = 3.0


def result_backend_url(url: str) -> str:
    """Return ``url`` as Celery's setting ``result_backend``, with the class that serves it."""
    name = "PatientSentinelBackend" if url.startswith("sentinel") else "PatientBackend"
    return f"{__name__}:{name}+{url}"


class PatientResultConsumer(celery_redis.ResultConsumer):
    """Hears of results; a lost connection is a reason to try again, never to give up.

    Methods of Celery's class are overridden and two private ones called: the retry policy is the
    only option there is, and it binds ``.get()`` for as long as the policy insists, beyond the
    caller's timeout, to give up for good then.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lost = False
        self._look_at_s = 0.0
        super().__init__(*args, **kwargs)

    @contextmanager
    def reconnect_on_error(self) -> Iterator[None]:
        """Note that the connection is lost; `drain_events` makes a new one."""
        try:
            yield
        except TimeoutError:
            raise  # nothing was heard for a while, which is no error
        except self._connection_errors:
            self._lost = True

    def on_wait_for_pending(self, result: Any, **kwargs: Any) -> None:
        """Look the result up before waiting for it; if that fails, the waiting has begun."""
        with self.reconnect_on_error():
            super().on_wait_for_pending(result, **kwargs)

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for news, at most ``timeout`` seconds."""
        if self._lost or time.monotonic() >= self._look_at_s:
            self._look()
        if self._lost:
            time.sleep(_RETRY_S if timeout is None else min(timeout, _RETRY_S))
        else:
            super().drain_events(timeout)

    def _look(self) -> None:
        """Look up every result that is waited for, and listen anew if that is necessary."""
        with self._locked():
            try:
                if self._lost:
                    self._reconnect_pubsub()  # it looks them up, too
                elif self.subscribed_to:
                    for meta in filter(None, self.backend.mget(list(self.subscribed_to))):
                        self.on_state_change(self._decode_result(meta), None)
                self._lost = False
            except self._connection_errors:
                self._lost = True
            self._look_at_s = time.monotonic() + _LOOK_EVERY_S


class PatientBackend(celery_redis.RedisBackend):
    """Results in Redis."""

    ResultConsumer = PatientResultConsumer


class PatientSentinelBackend(celery_redis.SentinelBackend):
    """Results in the Redis that Sentinels name."""

    ResultConsumer = PatientResultConsumer
