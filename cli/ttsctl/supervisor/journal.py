"""What the supervisor has to say: to people in its log, to the cluster in the event stream."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from tts_tasks.events import EventLog
from tts_tasks.redis_connection import RedisClient, connect

log = logging.getLogger("ttsctl.up")

_PENDING_KEPT = 100
_TIMEOUT_S = 0.5


class Journal:
    """Says each thing once in the log and once as an event; events wait while Redis is away."""

    def __init__(self) -> None:
        self._before: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_PENDING_KEPT)
        self._client: RedisClient | None = None
        self._events: EventLog | None = None

    def connect(self, redis_url: str) -> None:
        """Write events to this Redis from now on."""
        # Never a retry: whoever calls has processes to look after.
        self._client = connect(redis_url, timeout_s=_TIMEOUT_S, retries=0)
        self._events = EventLog(self._client)

    @property
    def has_pending(self) -> bool:
        """Whether events wait for Redis to come back."""
        return self._events is not None and bool(self._before or self._events.waiting)

    def say(self, text: str) -> None:
        """Tell people."""
        log.info(text)

    def event(self, name: str, text: str, **fields: Any) -> None:
        """Tell people ``text``, and the cluster the event ``name`` with its fields."""
        log.info(text)
        self._before.append((name, fields))
        self.flush()

    def flush(self) -> None:
        """Write the events that wait; those that cannot be written wait on."""
        if self._events is None:
            return
        while self._before:
            name, fields = self._before.popleft()
            self._events.note(name, **fields)
        self._events.flush()

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = self._events = None
