"""The one stream of what happened: operators read it, and so does the history checker.

An event is a stable dotted name and plain fields. Writing is best effort: the system's truth is
in the ledger and the lease, never in the stream.
"""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import redis

from tts_tasks import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tts_tasks.redis_connection import RedisClient


class EventLog:
    """Appends to and reads from the capped stream ``tts:events``."""

    def __init__(self, client: RedisClient, *, kept: int = 20_000) -> None:
        self._client = client
        self._kept = kept
        self.lost = 0  #: events that could not be written

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event; a store that cannot be reached loses it and is counted."""
        try:
            self._client.xadd(
                keys.EVENTS,
                {"event": event, "fields": json.dumps(fields, ensure_ascii=False)},
                maxlen=self._kept,
                approximate=True,
            )
        except redis.RedisError:
            self.lost += 1

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
        at = datetime.fromtimestamp(int(entry.split("-", maxsplit=1)[0]) / 1000, UTC)
        fields: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            fields = json.loads(raw.get("fields", "{}"))
        stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": stamp, "event": raw.get("event", "?"), **fields}


def utc_now() -> str:
    """Return the time for people and file names: UTC, ISO 8601, milliseconds."""
    now = datetime.fromtimestamp(time.time(), UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
