"""Writes the history of a run: one JSON object a line, each with ``at_s`` by CLOCK_BOOTTIME.

It watches on its own connection to Redis and on the storage's folder, never through the workers.
What a kind of record holds is said in `tests.chaos.history`.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import redis

from tts_tasks import keys
from tts_tasks.clock import boottime_s
from tts_tasks.redis_connection import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.chaos.artifacts import ArtifactWatch

_EVENTS_BLOCK_MS = 400
_LEASE_EVERY_S = 0.05
_STORAGE_EVERY_S = 0.5
_RETRY_S = 0.05


class Recorder:
    """Appends records; may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")
        self._mutex = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._last_event = "0-0"
        self.events_seen = 0

    def record(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Write one record; ``at_s`` is now unless given."""
        entry = {"at_s": round(fields.pop("at_s", boottime_s()), 4), "kind": kind, **fields}
        line = json.dumps(entry, ensure_ascii=False)
        with self._mutex:
            self._file.write(line + "\n")
            self._file.flush()
        return entry

    def watch(self, redis_url: str, lane_key: str, artifacts: ArtifactWatch) -> None:
        """Begin to read the event stream, the lane's lease and the storage."""
        client = connect(redis_url, timeout_s=2.0, retries=0)
        last_lease: list[str | None] = [None]

        def look_at_lease() -> None:
            lease = client.get(keys.lease(lane_key))
            if lease and lease != last_lease[0]:
                epoch, _, holder = lease.partition(":")
                self.record("lease", lane=lane_key, epoch=int(epoch), holder=holder)
            last_lease[0] = lease

        def look_at_storage() -> None:
            for found in artifacts.look():
                self.record(**found)

        self._repeat("chaos-events", lambda: self._read_events(client), 0.0)
        self._repeat("chaos-lease", look_at_lease, _LEASE_EVERY_S)
        self._repeat("chaos-storage", look_at_storage, _STORAGE_EVERY_S)

    def stop(self) -> None:
        """End the watching; `record` still works."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)

    def close(self) -> None:
        """Close the file."""
        with self._mutex:
            self._file.close()

    def _read_events(self, client: Any) -> None:
        """Take in what is new in the stream.

        By entry ids, not by `EventLog.read`, which does not resume where an outage ended it.
        """
        answer = client.xread({keys.EVENTS: self._last_event}, count=500, block=_EVENTS_BLOCK_MS)
        for _, entries in answer or []:
            for entry, raw in entries:
                fields = json.loads(raw["fields"])
                # An event of a program that does not say when: by Redis's clock, this machine's.
                by_stream_s = int(entry.partition("-")[0]) / 1000 - time.time() + boottime_s()
                at_s = fields.pop("at_s", by_stream_s)
                self.record("event", at_s=at_s, id=entry, event=raw["event"], fields=fields)
                self._last_event = entry
                self.events_seen += 1

    def _repeat(self, name: str, look: Callable[[], None], every_s: float) -> None:
        def run() -> None:
            while not self._stopping.wait(every_s):
                try:
                    look()
                except (redis.RedisError, OSError):
                    self._stopping.wait(_RETRY_S)  # Redis is away: that is the experiment

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)
