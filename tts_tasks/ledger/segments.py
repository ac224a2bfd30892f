"""The segment log: what of a job's text has been spoken, and how to go on after it.

An entry holds a segment's audio or, where nobody listens or the log would become large, the name
of the object in storage that does. Rule 8: what is in Redis is bounded and expires. The state of
the engine is kept after the newest segment only. Proved by ``tests/contract/test_segment_log.py``.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.redis_connection import Scripts, shared_client, unavailable_is_clear

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tts_tasks.ledger.records import Claim
    from tts_tasks.redis_connection import RedisClient

#: Entries that are read in one round trip: each may hold a minute of sound.
READ_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class LoggedSegment:
    """One spoken segment, the silence that follows it included; mono, 16 bit, little endian."""

    number: int  #: from 1
    segments: int  #: in all
    size_bytes: int
    crc32: int  #: of the audio
    sample_rate_hz: int
    audio: bytes = b""  #: empty if it is in storage
    reference: str = ""  #: its name in storage

    def is_intact(self, audio: bytes) -> bool:
        """Tell whether this is what was appended."""
        return len(audio) == self.size_bytes and zlib.crc32(audio) == self.crc32

    @classmethod
    def of(
        cls, number: int, segments: int, audio: bytes, sample_rate_hz: int, *, reference: str = ""
    ) -> LoggedSegment:
        """Describe audio, which goes into the log itself unless there is a ``reference``."""
        return cls(
            number=number,
            segments=segments,
            size_bytes=len(audio),
            crc32=zlib.crc32(audio),
            sample_rate_hz=sample_rate_hz,
            audio=b"" if reference else audio,
            reference=reference,
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """From where a job's next attempt can go on."""

    segments_done: int
    plan: str  #: what it is only good for; see `tts_workers.rendering.plan_of`
    engine_state: dict[str, Any] | None


class SegmentLog:
    """The segment logs of all jobs. Every call may raise `UnavailableError`."""

    def __init__(self, url: str, *, client: RedisClient | None = None) -> None:
        self._url = url
        self._client = client or shared_client(url)
        self._scripts = Scripts(self._client, "tts_tasks.ledger")

    def append(
        self,
        claim: Claim,
        segment: LoggedSegment,
        plan: str,
        engine_state: dict[str, Any] | None,
        ttl_s: int,
    ) -> bool:
        """Append a segment; False if a newer attempt has the job or it has ended.

        What is there already stays as it is: appending twice is appending once.
        """
        where = ["ref", segment.reference] if segment.reference else ["audio", segment.audio]
        entry = ["size", segment.size_bytes, "crc", segment.crc32, "hz", segment.sample_rate_hz]
        with unavailable_is_clear(self._url):
            return bool(
                self._scripts.run(
                    "append",
                    [keys.job(claim.job_id), keys.segments(claim.job_id)],
                    [
                        *(claim.attempt, claim.worker, segment.number, segment.segments),
                        *(plan, json.dumps(engine_state, ensure_ascii=False), ttl_s),
                        *(*entry, "of", segment.segments, *where),
                    ],
                )
            )

    def checkpoint(self, job_id: str) -> Checkpoint:
        """Return how far the job has come."""
        with unavailable_is_clear(self._url):
            done, plan, state = self._client.hmget(
                keys.job(job_id), "segments_done", "plan", "engine_state"
            )
        return Checkpoint(int(done or 0), plan or "", json.loads(state or "null"))

    def restart(self, claim: Claim) -> bool:
        """Forget the segments; False if a newer attempt has the job or it has ended."""
        job_keys = [keys.job(claim.job_id), keys.segments(claim.job_id)]
        with unavailable_is_clear(self._url):
            return bool(self._scripts.run("restart", job_keys, [claim.attempt, claim.worker]))

    def read(
        self, job_id: str, after: int = 0, *, limit: int = READ_AT_ONCE
    ) -> list[LoggedSegment]:
        """Return the segments after number ``after``, in order, at most ``limit``."""
        with unavailable_is_clear(self._url):
            found = self._raw("XRANGE", keys.segments(job_id), f"({after}-0", "+", "COUNT", limit)
        return [_entry(entry_id, fields) for entry_id, fields in found or ()]

    def wait(self, job_id: str, after: int, timeout_s: float) -> list[LoggedSegment]:
        """Return like `read`, once there is something after ``after``; nothing after a while.

        ``timeout_s`` must be less than the client's time for one answer.
        """
        key = keys.segments(job_id)
        block_ms = max(1, int(timeout_s * 1000))
        with unavailable_is_clear(self._url):
            found = self._raw(
                *("XREAD", "COUNT", READ_AT_ONCE, "BLOCK", block_ms, "STREAMS", key, f"{after}-0")
            )
        # a list of [key, entries] pairs (RESP2), or a mapping of key to lists of entries (RESP3)
        entries = found[0][1] if isinstance(found, list) and found else []
        if isinstance(found, dict):
            entries = [entry for lists in found.values() for entry in lists[0]]
        return [_entry(entry_id, fields) for entry_id, fields in entries]

    def expire(self, job_id: str, ttl_s: int) -> None:
        """Let the log of an ended job go after a while, in which listeners may catch up."""
        with unavailable_is_clear(self._url):
            self._client.expire(keys.segments(job_id), ttl_s)

    def remove(self, job_ids: Iterable[str]) -> None:
        """Let the logs of jobs go that have ended and that nobody listens to."""
        pipe = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.unlink(keys.segments(job_id))
        with unavailable_is_clear(self._url):
            pipe.execute()

    def exists(self, job_id: str) -> bool:
        """Tell whether there is a log."""
        with unavailable_is_clear(self._url):
            return bool(self._client.exists(keys.segments(job_id)))

    def _raw(self, *command: Any) -> Any:
        """Ask for an answer that is bytes: this process's clients decode all others."""
        return self._client.execute_command(*command, NEVER_DECODE=True)


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> LoggedSegment:
    return LoggedSegment(
        number=int(entry_id.partition(b"-")[0]),
        segments=int(fields[b"of"]),
        size_bytes=int(fields[b"size"]),
        crc32=int(fields[b"crc"]),
        sample_rate_hz=int(fields[b"hz"]),
        audio=fields.get(b"audio", b""),
        reference=fields.get(b"ref", b"").decode(),
    )
