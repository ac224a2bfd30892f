"""The one stream of what happened: operators read it, and so does the history checker.

An event is a stable dotted name and plain fields. Writing is best effort: the system's truth is
in the ledger and the lease, never in the stream.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import RedisClusterException

from tts_tasks import keys
from tts_tasks.clock import boottime_s
from tts_tasks.redis_connection import shared_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tts_tasks.clock import Clock
    from tts_tasks.redis_connection import RedisClient
    from tts_tasks.settings import Settings

#: Events that wait in memory while the store is away; of more, the oldest are dropped.
_WAITING_KEPT = 1000
#: After a failed write nobody is kept waiting for another one that soon.
_RETRY_S = 1.0
#: From then on a reader is told that an event was written later than it happened.
_LATE_S = 0.5


class EventLog:
    """Appends to and reads from the capped stream ``tts:events``.

    Every event carries ``at_s``, the `boottime_s` of its machine when it happened. While the store
    cannot be reached, events wait in memory and are written later, in their order, with ``late_s``.
    """

    def __init__(
        self, client: RedisClient, *, kept: int = 20_000, clock: Clock = boottime_s
    ) -> None:
        self._client = client
        self._kept = kept
        self._clock = clock
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_WAITING_KEPT)
        self._writing = threading.Lock()
        self._retry_at_s = 0.0
        self.lost = 0  #: events that were dropped because too many waited

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event now, or as soon as the store can be reached."""
        self.note(event, **fields)
        self.flush()

    def note(self, event: str, **fields: Any) -> None:
        """Take an event down without any I/O; `flush` or the next `emit` writes it."""
        self.lost += len(self._waiting) == _WAITING_KEPT
        self._waiting.append((event, {"at_s": round(self._clock(), 4), **fields}))

    @property
    def waiting(self) -> int:
        """How many events are not written yet."""
        return len(self._waiting)

    def flush(self) -> None:
        """Write what waits, unless another thread does, or the store has just not answered."""
        if not self._waiting or self._clock() < self._retry_at_s:
            return
        if not self._writing.acquire(blocking=False):
            return
        try:
            while self._waiting:
                oldest = self._waiting[0]
                self._write(*oldest)
                if self._waiting[0] is oldest:  # else it was dropped meanwhile
                    self._waiting.popleft()
        except (redis.RedisError, RedisClusterException):
            self._retry_at_s = self._clock() + _RETRY_S
        finally:
            self._writing.release()

    def close(self) -> None:
        """Try once more to write what waits, though the store may just not have answered."""
        self._retry_at_s = 0.0
        self.flush()

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        late_s = self._clock() - fields["at_s"]
        if late_s > _LATE_S:
            fields = {**fields, "late_s": round(late_s, 3)}
        self._client.xadd(
            keys.EVENTS,
            {"event": event, "fields": json.dumps(fields, ensure_ascii=False)},
            maxlen=self._kept,
            approximate=True,
        )

    def read(
        self,
        *,
        follow: bool = False,
        since_s: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[dict[str, Any]]:
        """Yield events, oldest first; ``since_s`` seconds back (None: all that is kept).

        With ``follow`` it goes on with what happens next, until ``stop()`` is true.
        """
        start = "-"
        if since_s is not None:
            now_s, micros = self._client.time()
            start = str(max(0, int((now_s + micros / 1e6 - since_s) * 1000)))
        last = "0-0"
        while batch := self._client.xrange(keys.EVENTS, start, "+", count=500):
            for entry, raw in batch:
                yield self._decode(entry, raw)
                last = entry
            start = f"({last}"
        while follow and not stop():
            # shorter than the client's socket timeout, so that waiting is not an error
            answer = self._client.xread({keys.EVENTS: last}, count=500, block=500)
            for _, entries in answer or []:
                for entry, raw in entries:
                    yield self._decode(entry, raw)
                    last = entry

    @staticmethod
    def _decode(entry: str, raw: dict[str, str]) -> dict[str, Any]:
        written_s = int(entry.split("-", maxsplit=1)[0]) / 1000
        fields: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            fields = json.loads(raw.get("fields", "{}"))
        at = datetime.fromtimestamp(written_s - float(fields.get("late_s", 0.0)), UTC)
        stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": stamp, "event": raw.get("event", "?"), **fields}


def event_log(settings: Settings) -> EventLog:
    """Return the log of a process that has nothing but its settings."""
    return EventLog(shared_client(settings.redis_url), kept=settings.events_kept)


def utc_now() -> str:
    """Return the time for people and file names: UTC, ISO 8601, milliseconds."""
    now = datetime.fromtimestamp(time.time(), UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
