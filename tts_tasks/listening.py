"""Listening to a job while it is made: its segments as they are appended, once and in order.

A listener that comes late gets all from the beginning; one that reconnects, all from where it left
off. Failover of the worker is a pause, never a gap or a repeat: the segments are read from the log
that a new attempt goes on with.
"""

from __future__ import annotations

import asyncio
import io
import time
import wave
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tts_tasks import keys
from tts_tasks.batches.outcomes import Outcomes
from tts_tasks.errors import (
    JobCancelledError,
    JobFailedError,
    NotFoundError,
    WaitTimeoutError,
)
from tts_tasks.ledger import BatchBook, JobLedger, LoggedSegment, SegmentLog
from tts_tasks.ledger.batch_records import ENDINGS
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any

    from tts_tasks.storage import Storage

#: How often a job is looked at that appends nothing: it may have failed.
_LOOK_EVERY_S = 1.0
_BYTES_A_SAMPLE = 2


@dataclass(frozen=True, slots=True)
class AudioSegment:
    """A piece of a job's sound: 16-bit little-endian mono PCM, the pause after it included.

    One after the other, the segments of a job are its whole sound at the engine's own rate: the
    samples of its artifact, if that is WAV or FLAC at this rate.
    """

    number: int  #: from 1; the ``after`` that resumes behind it
    segments: int  #: in all
    pcm: bytes
    sample_rate_hz: int

    @property
    def duration_s(self) -> float:
        """How long it sounds."""
        return len(self.pcm) / _BYTES_A_SAMPLE / self.sample_rate_hz


def follow_audio(
    id: str,  # noqa: A002 - the field's name
    *,
    after: int = 0,
    timeout_s: float | None = None,
) -> Iterator[AudioSegment]:
    """Yield the segments of a job as they are spoken; returns after its last.

    ``after``: the number of the last segment that was heard before. A job whose request says
    ``stream`` is heard with the least delay, and for ``segment_log_ttl_s`` after its end. Raises
    `JobFailedError`, `JobCancelledError`, `WaitTimeoutError` after ``timeout_s`` (the work goes
    on), and `NotFoundError` for a job that is unknown, or of which only the artifact is left, not
    in WAV.
    """
    listener = _Listener(id, after)
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    while not listener.has_all:
        wait_s = _LOOK_EVERY_S
        if deadline_s is not None:
            wait_s = min(wait_s, deadline_s - time.monotonic())
            if wait_s <= 0:
                raise WaitTimeoutError(f"{id} has not ended after {timeout_s:g} s; it goes on")
        yield from listener.next(wait_s)


async def follow_audio_async(
    id: str,  # noqa: A002 - the field's name
    *,
    after: int = 0,
    timeout_s: float | None = None,
) -> AsyncIterator[AudioSegment]:
    """Yield like `follow_audio`, without blocking the event loop."""
    segments = follow_audio(id, after=after, timeout_s=timeout_s)
    while (segment := await asyncio.to_thread(next, segments, None)) is not None:
        yield segment


class _Listener:
    """What one listener has heard."""

    def __init__(self, job_id: str, after: int) -> None:
        settings = get_settings()
        self._job_id = job_id
        self._ledger = JobLedger(settings.redis_url)
        self._book = BatchBook(settings.redis_url)
        self._lines: Outcomes | None = None
        self._log = SegmentLog(settings.redis_url)
        self._storage_url = settings.storage_url
        self._opened: Storage | None = None
        self._after = after
        self._outcome()
        self.has_all = False

    def next(self, wait_s: float) -> list[AudioSegment]:
        """Return what is there now, or comes within ``wait_s``."""
        logged = self._log.read(self._job_id, self._after)
        outcome = None if logged else self._outcome()
        if outcome is not None:
            # looked at again: it may have ended between the two looks
            logged = self._log.read(self._job_id, self._after)
            if not logged:
                return self._ended(outcome)
        if not logged:
            logged = self._log.wait(self._job_id, self._after, wait_s)
        heard: list[AudioSegment] = []
        for segment in logged:
            pcm = segment.audio or self._staged(segment)
            if pcm is None:
                return heard + self._ended(self._outcome())
            heard.append(
                AudioSegment(segment.number, segment.segments, pcm, segment.sample_rate_hz)
            )
            self._after = segment.number
            self.has_all = segment.number == segment.segments
        return heard

    def _outcome(self) -> dict[str, Any] | None:
        """Return ``{"state", "name", "error"}`` of a job that has ended; None while it has not."""
        record = self._ledger.get(self._job_id)
        if record is not None:
            return {"state": record.state, **record.result} if record.ended else None
        batch_id, item = keys.split_job_id(self._job_id)
        batch = self._book.get(batch_id) if item.isdecimal() else None
        if batch is None:
            raise NotFoundError(f"there is no job {self._job_id}")
        # a line that nobody has taken yet, or whose part of the batch is in the report
        self._lines = self._lines or Outcomes(self._book, self._storage, batch_id)
        line = self._lines.of_line(batch, int(item))
        return line if line["state"] in ENDINGS else None

    @property
    def _storage(self) -> Storage:
        self._opened = self._opened or open_storage(self._storage_url)
        return self._opened

    def _staged(self, segment: LoggedSegment) -> bytes | None:
        """Return what of a segment is in storage; None once the job has ended and it is gone."""
        try:
            pcm = self._storage.read(segment.reference)
        except NotFoundError:
            return None
        return pcm if segment.is_intact(pcm) else None

    def _ended(self, outcome: dict[str, Any] | None) -> list[AudioSegment]:
        """Return what is left to hear of a job of which the log does not say it (any more)."""
        if outcome is None:
            time.sleep(_LOOK_EVERY_S)  # the segment was taken back, and will be spoken again
            return []
        self.has_all = True
        if outcome["state"] == "cancelled":
            raise JobCancelledError(f"job {self._job_id} was cancelled")
        if outcome["state"] != "succeeded":
            error = outcome.get("error") or {}
            reason = error.get("reason", "it was not spoken")
            raise JobFailedError(error.get("code", outcome["state"]), reason)
        heard = self._log.read(self._job_id, 0, limit=self._after) if self._after else []
        if heard and heard[-1].number == heard[-1].segments:
            return []
        name = str(outcome["name"])
        if not name.endswith(".wav"):
            raise NotFoundError(
                f"the segments of {self._job_id} are no longer kept; its artifact is {name}"
            )
        return [self._rest_of(self._storage.read(name), heard)]

    def _rest_of(self, artifact: bytes, heard: list[LoggedSegment]) -> AudioSegment:
        """Return what of a WAV file was not heard yet, as one segment."""
        with wave.open(io.BytesIO(artifact)) as file:
            rate_hz = file.getframerate()
            if len(heard) != self._after or any(one.sample_rate_hz != rate_hz for one in heard):
                raise NotFoundError(
                    f"the segments of {self._job_id} are no longer kept: listen from the beginning"
                )
            file.setpos(sum(one.size_bytes for one in heard) // _BYTES_A_SAMPLE)
            rest = file.readframes(file.getnframes())
        last = self._after + 1
        return AudioSegment(last, last, rest, rate_hz)
