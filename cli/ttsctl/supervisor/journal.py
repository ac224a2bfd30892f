"""What the supervisor has to say: to people in its log, to the cluster in the event stream."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tts_tasks.events import EventLog

log = logging.getLogger("ttsctl.up")

_PENDING_KEPT = 100
_TIMEOUT_S = 0.5


class Journal:
    """Says each thing once in the log and once as an event; events wait while Redis is away."""

    def __init__(self) -> None:
        self._pending: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_PENDING_KEPT)
        self._client: redis.Redis | None = None

    def connect(self, redis_url: str) -> None:
        """Write events to this Redis from now on."""
        # Never a retry: whoever calls has processes to look after.
        self._client = redis.Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )

    @property
    def has_pending(self) -> bool:
        """Whether events wait for Redis to come back."""
        return bool(self._pending) and self._client is not None

    def say(self, text: str) -> None:
        """Tell people."""
        log.info(text)

    def event(self, name: str, text: str, **fields: Any) -> None:
        """Tell people ``text``, and the cluster the event ``name`` with its fields."""
        log.info(text)
        self._pending.append((name, fields))
        self.flush()

    def flush(self) -> None:
        """Write the events that wait; those that cannot be written wait on."""
        if self._client is None or not self._pending:
            return
        events = EventLog(self._client)
        while self._pending:
            name, fields = self._pending[0]
            events.emit(name, **fields)
            if events.lost:
                return
            self._pending.popleft()

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
