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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from tts_tasks import audio
from tts_tasks.errors import EngineLostError, NotFoundError, TTSError
from tts_tasks.ledger import LoggedSegment
from tts_tasks.storage.staging import Staging
from tts_workers.audio_out.finishing import encoded_whole, finished_segment, with_pauses
from tts_workers.audio_out.subtitles import cues, rendered
from tts_workers.engines.base import SpeakOptions, SpeaksAhead
from tts_workers.text.written import written_segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tts_tasks.ledger import Checkpoint, Claim, SegmentLog
    from tts_tasks.requests import SpeechRequest
    from tts_tasks.settings import Settings
    from tts_workers.engine_host import LoadedEngine
    from tts_workers.engines.base import (
        EngineState,
        EngineVoice,
        Segment,
        Spoken,
        VoiceReference,
    )
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
    on_lost: Callable[[EngineLostError], None] = lambda _: None  #: told when the engine is lost


@dataclass(frozen=True, slots=True)
class Encoded:
    """The whole sound of a job."""

    data: bytes
    duration_s: float
    sample_rate_hz: int
    subtitles: Mapping[str, bytes] = field(default_factory=dict)  #: by their format


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
        self._sample_rate_hz = loaded.sample_rate_hz
        self._pcm = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115
        self._segments: list[Segment] = []
        self._plan = ""
        self._reference: VoiceReference | None = None  #: read ahead
        self._state: EngineState | None = None
        self._done = 0
        self._lengths: list[int] = []  #: of the segments that are done, in samples
        self._raw: tuple[Spoken, Segment] | None = None  #: all of it, where nobody hears it before
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
        return self._pcm.tell() if self._raw is None else self._raw[0].samples.nbytes

    def prepare(self, insist: Insist | None = None) -> None:
        """Cut the text, and read reference audio; raises `UnspeakableTextError`, `RequestError`.

        ``insist``: how, where it is not the way of what is spoken.
        """
        self._loaded.voices.check(self._request)
        segments = self._split(insist or self._tools.insist)
        self._segments = with_pauses(segments, self._request)
        if self.is_kept:
            self._plan = plan_of(self._segments, self._sample_rate_hz, self._loaded.fingerprint)
        self._reference = self._loaded.voices.fetch(self._request, insist or self._tools.insist)

    def speak(self, must_yield: Callable[[], bool] = lambda: False) -> None:
        """Speak what is still to be spoken.

        ``must_yield`` is asked after each segment but the last. Raises `OvertakenError`,
        `YieldedError`, and what engines and stores raise.
        """
        request = self._request
        voice = self._loaded.voices.encoded(
            request, self._reference, self._tools.insist, self._encode_voice
        )
        self._reference = None
        options = SpeakOptions(seed=request.seed, speed=request.speed)
        if self.is_kept:
            self._resume()
        with self._expected(self._segments[self._done :], voice, options):
            self._speak_the_rest(voice, options, must_yield)

    def _speak_the_rest(
        self, voice: EngineVoice, options: SpeakOptions, must_yield: Callable[[], bool]
    ) -> None:
        for segment in self._segments[self._done :]:
            self._tools.on_segment(self._done + 1, len(self._segments))
            with self._tools.pace.step("speak", len(segment.text)) as step:
                spoken = self._spoken(segment, voice, options)
                step.took_s = spoken.took_s
            self._state = spoken.state
            self._done += 1
            if self.is_kept:
                pcm = self._finished(spoken, segment)
                self._take(pcm)
                self._keep(pcm)
            else:  # its only segment: what is left to do need not hold up the engine
                self._raw = spoken, segment
            if self._done < len(self._segments) and must_yield():
                raise YieldedError

    @contextmanager
    def _expected(
        self, segments: list[Segment], voice: EngineVoice, options: SpeakOptions
    ) -> Iterator[None]:
        """Let an engine that can do so begin with segments before they are asked for."""
        engine = self._loaded.engine
        if len(segments) < 2 or not isinstance(engine, SpeaksAhead):
            yield
            return
        engine.expect(segments, voice, options)
        try:
            yield
        finally:
            engine.expect((), voice, options)

    def _spoken(self, segment: Segment, voice: EngineVoice, options: SpeakOptions) -> Spoken:
        with self._loss_told():
            return self._loaded.engine.speak(segment, voice, self._state, options)

    def _encode_voice(self, reference: VoiceReference) -> EngineVoice:
        kind = reference.name if reference.prompt_audio is None else "from reference audio"
        with self._tools.pace.step(f"voice {kind}"), self._loss_told():
            return self._loaded.engine.encode_voice(reference)

    @contextmanager
    def _loss_told(self) -> Iterator[None]:
        try:
            yield
        except EngineLostError as error:
            self._tools.on_lost(error)
            raise

    def _finished(self, spoken: Spoken, segment: Segment) -> bytes:
        """Return what is kept of a segment and the pause behind it, as 16-bit PCM."""
        samples = finished_segment(spoken.samples, self._request, self._sample_rate_hz)
        pauses_s = [segment.pause_after_s]
        return audio.pcm16(audio.join([samples], pauses_s, self._sample_rate_hz))

    def encode(self) -> Encoded:
        """Join and encode what was spoken."""
        if self._raw is not None:
            self._take(self._finished(*self._raw))
            self._raw = None
        request, from_hz = self._request, self._sample_rate_hz
        rate_hz = audio.encodable_rate_hz(request.sample_rate or from_hz, request.format)
        data, duration_s = encoded_whole(self._pcm, from_hz, rate_hz, request)
        return Encoded(data, duration_s, rate_hz, self._subtitles(rate_hz))

    def _subtitles(self, rate_hz: int) -> dict[str, bytes]:
        """Return the subtitle files, from what the segments were kept as."""
        if not self._request.subtitles:
            return {}
        from_hz = self._sample_rate_hz
        written = written_segments(self._request.text, self._segments)
        texts = [(text, one.text) for text, one in zip(written, self._segments, strict=True)]
        pauses = [audio.pause_samples(one.pause_after_s, from_hz) for one in self._segments]
        found = cues(texts, self._lengths, pauses)
        return {kind: rendered(found, kind, from_hz, rate_hz) for kind in self._request.subtitles}

    def _take(self, pcm: bytes) -> None:
        """Add a segment, with its pause, to what there is."""
        self._pcm.write(pcm)
        self._lengths.append(len(pcm) // 2)

    def _split(self, insist: Insist) -> list[Segment]:
        text, name = self._request.text, self._request.lexicon
        if name is None:
            return self._loaded.engine.split(text)
        lexicon = insist(lambda: self._loaded.lexicons.get(name))
        return self._loaded.engine.split(text, lexicon)

    # -- what attempts leave to each other ----------------------------------------------------

    @cached_property
    def _staging(self) -> Staging:  # of one that is not kept there is none
        return Staging(self._loaded.storage, self._claim.job_id, self._claim.attempt)

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
        self._lengths.clear()
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
            self._take(pcm)
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
