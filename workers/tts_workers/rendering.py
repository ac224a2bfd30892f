"""One job from its text to its encoded sound, from where an earlier attempt stopped.

Each finished segment is kept, fenced by the attempt, with the engine's state after it; the next
attempt, on whatever worker, starts at the next one with that state. The result is the same to the
byte however often that happens. Proved by ``tests/contract/test_rendering.py``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from tts_tasks import audio
from tts_tasks.errors import NotFoundError, RequestError, TTSError
from tts_tasks.ledger import LoggedSegment
from tts_tasks.storage.staging import Staging
from tts_workers.engines.base import SpeakOptions, VoiceReference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tts_tasks.ledger import Checkpoint, Claim, SegmentLog
    from tts_tasks.requests import SpeechRequest
    from tts_tasks.settings import Settings
    from tts_workers.engine_host import LoadedEngine
    from tts_workers.engines.base import EngineState, Segment
    from tts_workers.pace import Pace

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Speech of one job up to this size is joined in memory, a longer one in a temporary file.
_IN_MEMORY_BYTES = 32 * 1024 * 1024


class Insist(Protocol):
    """Calls a store until it answers."""

    def __call__(self, call: Callable[[], T], /) -> T:
        """Return what the call returns."""
        ...


class OvertakenError(Exception):
    """The ledger has refused a segment: a newer attempt has the job, or it has ended."""


class YieldedError(Exception):
    """The job was left at the end of a segment, for somebody who waits."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every rendering of a process works with."""

    log: SegmentLog
    pace: Pace
    settings: Settings
    insist: Insist
    on_segment: Callable[[int, int], None] = lambda _number, _segments: None  #: it is begun


@dataclass(frozen=True, slots=True)
class Encoded:
    """The whole sound of a job."""

    data: bytes
    duration_s: float
    sample_rate_hz: int


class Rendering:
    """The rendering of one job by one attempt: first `prepare`, then `speak`, then `encode`.

    Each may be called from another thread than the one before, and only `speak` from the thread
    that the engine speaks in. A context manager: it holds a temporary file.
    """

    def __init__(
        self, claim: Claim, request: SpeechRequest, loaded: LoadedEngine, tools: Tools
    ) -> None:
        self._claim = claim
        self._request = request
        self._loaded = loaded
        self._tools = tools
        self._sample_rate_hz = loaded.engine.capabilities().sample_rate_hz
        self._staging = Staging(loaded.storage, claim.job_id, claim.attempt)
        self._pcm = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115
        self._segments: list[Segment] = []
        self._plan = ""
        self._state: EngineState | None = None
        self._done = 0
        self._logged_bytes = 0  #: of audio in the log itself
        self.staged: list[str] = []  #: objects in storage that are of no use once it is published

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let its sound go."""
        self._pcm.close()

    @property
    def size_bytes(self) -> int:
        """How much sound there is so far."""
        return self._pcm.tell()

    def prepare(self) -> None:
        """Cut the text; raises `UnspeakableTextError`, `RequestError`."""
        _check_voice(self._request)
        self._segments = self._loaded.engine.split(self._request.text)
        self._plan = plan_of(self._segments, self._sample_rate_hz, self._loaded.fingerprint)

    def speak(self, must_yield: Callable[[], bool] = lambda: False) -> None:
        """Speak what is still to be spoken.

        ``must_yield`` is asked after each segment but the last. Raises `OvertakenError`,
        `YieldedError`, and what engines and stores raise.
        """
        request = self._request
        with self._tools.pace.step(f"voice {request.voice}"):
            voice = self._loaded.engine.encode_voice(
                VoiceReference(name=request.voice, prompt_text=request.prompt_text)
            )
        options = SpeakOptions(seed=request.seed, speed=request.speed)
        if self.is_kept:
            self._resume()
        for segment in self._segments[self._done :]:
            self._tools.on_segment(self._done + 1, len(self._segments))
            with self._tools.pace.step("speak", len(segment.text)):
                spoken = self._loaded.engine.speak(segment, voice, self._state, options)
            self._state = spoken.state
            self._done += 1
            pcm = audio.pcm16(
                audio.join([spoken.samples], [segment.pause_after_s], self._sample_rate_hz)
            )
            self._pcm.write(pcm)
            if self.is_kept:
                self._keep(pcm)
            if self._done < len(self._segments) and must_yield():
                raise YieldedError

    def encode(self) -> Encoded:
        """Join and encode what was spoken."""
        self._pcm.seek(0)
        request = self._request
        rate_hz = audio.encodable_rate_hz(
            request.sample_rate or self._sample_rate_hz, request.format
        )
        data, duration_s = audio.encode_pcm16(
            self._pcm, self._sample_rate_hz, rate_hz, request.format
        )
        return Encoded(data, duration_s, rate_hz)

    # -- what attempts leave to each other ----------------------------------------------------

    @property
    def is_kept(self) -> bool:
        """Whether there is anything to go on from, or anybody who listens."""
        return len(self._segments) > 1 or self._request.stream

    def _keep(self, pcm: bytes) -> None:
        """Keep the newest segment for the next attempt, and give it to those who listen."""
        inline = (
            self._request.stream
            and self._logged_bytes + len(pcm) <= self._tools.settings.segment_log_bytes
        )
        name = "" if inline else self._tools.insist(lambda: self._staging.put(self._done, pcm))
        segment = LoggedSegment.of(
            self._done, len(self._segments), pcm, self._sample_rate_hz, reference=name
        )
        ttl_s = self._tools.settings.retention_s
        kept = self._tools.insist(
            lambda: self._tools.log.append(self._claim, segment, self._plan, self._state, ttl_s)
        )
        self._note(segment)
        if not kept:
            if name:
                with suppress(TTSError):  # else it is swept later
                    self._loaded.storage.remove([name])
            raise OvertakenError

    def _note(self, segment: LoggedSegment) -> None:
        self._logged_bytes += len(segment.audio)
        if segment.reference:
            self.staged.append(segment.reference)

    def _resume(self) -> None:
        """Take over what earlier attempts have spoken, if this engine can go on from there."""
        log, insist = self._tools.log, self._tools.insist
        checkpoint = insist(lambda: log.checkpoint(self._claim.job_id))
        if not checkpoint.segments_done:
            return
        if self._goes_on_from(checkpoint) and self._take_over(checkpoint):
            return
        logger.info("%s is spoken from its beginning again", self._claim.job_id)
        self._pcm.seek(0)
        self._pcm.truncate()
        self._done, self._state, self._logged_bytes = 0, None, 0
        if not insist(lambda: log.restart(self._claim)):
            raise OvertakenError
        insist(lambda: self._loaded.storage.remove(self.staged))
        self.staged.clear()

    def _goes_on_from(self, checkpoint: Checkpoint) -> bool:
        split, _, fingerprint = checkpoint.plan.partition(" ")
        if checkpoint.plan == self._plan:
            self._state = checkpoint.engine_state
            return True
        if not self._request.stream or split != self._plan.partition(" ")[0]:
            return False
        # What was heard cannot be unsaid: another version of the engine goes on with the next
        # segment, without a state that it may not understand.
        logger.warning("%s goes on, but was begun with %s", self._claim.job_id, fingerprint)
        return True

    def _take_over(self, checkpoint: Checkpoint) -> bool:
        logged = list(self._logged())
        for segment in logged:
            self._note(segment)
        for segment in logged:
            try:
                pcm = segment.audio or self._tools.insist(
                    lambda name=segment.reference: self._loaded.storage.read(name)  # type: ignore[misc]
                )
            except NotFoundError:
                pcm = b""
            if segment.number != self._done + 1 or not segment.is_intact(pcm):
                logger.warning("segment %d of %s is damaged", segment.number, self._claim.job_id)
                return False
            self._pcm.write(pcm)
            self._done += 1
        return self._done == checkpoint.segments_done

    def _logged(self) -> Iterator[LoggedSegment]:
        after = 0
        while found := self._tools.insist(
            lambda: self._tools.log.read(self._claim.job_id, after)  # noqa: B023 - called at once
        ):
            yield from found
            after = found[-1].number


def plan_of(segments: list[Segment], sample_rate_hz: int, fingerprint: str) -> str:
    """Return what decides whether one attempt's segments follow on another's: split and engine."""
    texts: list[Any] = [[segment.text, segment.pause_after_s] for segment in segments]
    split = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
    return f"{split}.{sample_rate_hz} {fingerprint}"


def _check_voice(request: SpeechRequest) -> None:
    if request.prompt_audio is not None:
        raise RequestError(
            "prompt_audio", "no engine of this release clones a voice; use a named voice"
        )
