"""The stages of a shift that run in threads of their own, beside the one that speaks."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from tts_tasks.batches.manifest import Manifest
from tts_tasks.errors import StorageError, UnavailableError
from tts_tasks.requests import parse_request
from tts_tasks.storage import Ownership, find_published, names_reserved
from tts_workers.attempts import (
    Publication,
    artifact_record,
    check_requirements,
    details_of,
    publish_all,
)
from tts_workers.endings import exhausted_reason, failure, of_lost_attempts
from tts_workers.link import nonce_prefix
from tts_workers.pipeline import Outcome
from tts_workers.rendering import Insist, Rendering, Tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tts_tasks.batches.manifest import ManifestLine
    from tts_tasks.batches.window import Window
    from tts_tasks.events import EventLog
    from tts_tasks.ledger import JobLedger
    from tts_tasks.ledger.batch_book import BatchBook
    from tts_tasks.settings import Settings
    from tts_workers.engine_host import LoadedEngine
    from tts_workers.pipeline import Line, Pipeline

logger = logging.getLogger(__name__)

#: Lines that the engine will need less for, in seconds, are handed on to it together: waking it
#: for each costs as much as they do.
_HAND_ON_S: Final = 0.01
#: Chunks of manifests that are kept in memory: a run lies in one or two.
_CHUNKS_KEPT: Final = 4


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a shift works with."""

    book: BatchBook
    ledger: JobLedger
    window: Window
    loaded: LoadedEngine
    tools: Tools  #: its `insist` is for what is spoken
    events: EventLog
    settings: Settings
    queue: str
    worker: str
    child: int  #: pid of this process, by which its claims are told from its predecessor's
    others_ready: Callable[[], int] = lambda: (
        0
    )  #: workers that could take what this one failed over
    on_taken: Callable[[], object] = lambda: None  #: told of each run: there may be more

    def owner(self, line: Line) -> Ownership:
        """Return whose a line's artifact is."""
        if line.request is None:
            raise ValueError(f"{line.claim.job_id} has not been read")
        if line.owner is None:
            line.owner = Ownership(job=line.claim.job_id, sound=line.request.sound_sha256())
        return line.owner


class Preparing:
    """Takes runs ahead, reads their requests, and cuts their texts."""

    def __init__(self, equipment: Equipment, pipeline: Pipeline, insist: Insist) -> None:
        self._equipment = equipment
        self._pipeline = pipeline
        self._insist = insist
        self._chunks: OrderedDict[tuple[str, int], dict[int, ManifestLine]] = OrderedDict()
        self._cutting = threading.Lock()

    def work(self) -> None:
        """Go on until there is nothing left, or the pipeline is stopped."""
        while (news := self._pipeline.wait_to_take()) is not None:
            if not self._take() and not self._pipeline.nothing_taken(news):
                return

    def _take(self) -> bool:
        equipment, limits = self._equipment, self._pipeline.limits
        nonce = nonce_prefix(equipment.child) + secrets.token_hex(8)
        run = self._insist(
            lambda: equipment.book.take(
                equipment.queue,
                equipment.worker,
                nonce=nonce,
                max_jobs=limits.run_lines,
                max_chars=self._chars_of_a_run(),
                max_strikes=equipment.settings.max_attempts,
                elsewhere_s=equipment.settings.elsewhere_s if equipment.others_ready() else 0.0,
            )
        )
        if run is None:
            return False
        equipment.on_taken()
        taken = self._pipeline.take_in(run, equipment.worker)
        read = list(self._those_to_speak(taken, self._read))
        reserved = self._reserved(read)
        ready: list[Line] = []
        for line in self._those_to_speak(read, lambda line: self._prepare(line, reserved)):
            ready.append(line)
            if sum(one.expected_s for one in ready) > _HAND_ON_S:
                self._pipeline.prepared(ready)
                ready = []
        self._pipeline.prepared(ready)
        return True

    def _chars_of_a_run(self) -> int:
        """Return how much is taken at once: what the engine does in a moment, others may do too."""
        limits = self._pipeline.limits
        char_s = self._equipment.tools.pace.expected_s("speak", 1)
        if not char_s:
            return 1 if char_s is None else limits.run_chars  # one line, whatever its length
        return max(1, min(limits.run_chars, int(limits.run_s / char_s)))

    def _those_to_speak(
        self, lines: Iterable[Line], step: Callable[[Line], Outcome | None]
    ) -> Iterator[Line]:
        """Yield the lines that go on after a step; those that came to something end."""
        for line in lines:
            if self._pipeline.stopped:
                return
            try:
                outcome = step(line)
            except UnavailableError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this line alone
                outcome = Outcome(line, "", error=error)
            if outcome is None:
                yield line
            else:
                self._pipeline.ended(outcome)

    def _read(self, line: Line) -> Outcome | None:
        """Read what a line asks for; returns what came of it where its attempts are used up."""
        if line.job.exhausted:
            return self._given_up(line)
        told = self._manifest_line(line)
        line.named(told.name, told.id or "")
        line.request = parse_request(told.request or {})
        return None

    def _reserved(self, lines: Sequence[Line]) -> set[str]:
        """Return the names of lines that may be published already, all asked about at once."""
        storage = self._equipment.loaded.storage
        names = [line.claim.meta.name for line in lines]
        try:
            return self._insist(lambda: names_reserved(storage, names))
        except StorageError:  # of one of them: asked about alone it says which
            return set(names)

    def _prepare(self, line: Line, reserved: set[str]) -> Outcome | None:
        """Prepare a line to be spoken; returns what came of it where it is published already."""
        equipment = self._equipment
        if line.request is None:
            raise ValueError(f"{line.claim.job_id} has not been read")
        name, owner, storage = line.claim.meta.name, equipment.owner(line), equipment.loaded.storage
        if name in reserved:
            found = self._insist(lambda: find_published(storage, name, owner))
            if found is not None and found.details:
                return Outcome(line, "succeeded", artifact_record(line.claim, found))
        check_requirements(line.request, equipment.loaded)
        self.cut(line)
        expected_s = equipment.tools.pace.expected_s("speak", len(line.request.text))
        if expected_s is not None:
            line.expected_s = expected_s
        return None

    def cut(self, line: Line) -> Rendering:
        """Begin a line's rendering, also anew."""
        line.close()
        if line.request is None:
            raise ValueError(f"{line.claim.job_id} has not been read")
        equipment = self._equipment
        rendering = Rendering(line.claim, line.request, equipment.loaded, equipment.tools)
        line.rendering = rendering
        with self._cutting:  # one call of `Engine.split` at a time
            rendering.prepare(self._insist)
        return rendering

    def _given_up(self, line: Line) -> Outcome:
        record = self._insist(lambda: self._equipment.ledger.get(line.claim.job_id))
        code, reason = "attempts_exhausted", "too many attempts ended without progress"
        evidence = {}
        if record is not None:
            reason, evidence = exhausted_reason(record), of_lost_attempts(record)
            code = record.evidence.get("code", code)  # an engine's error, not a death
        result = failure(code, reason, worker=self._equipment.worker, **evidence)
        return Outcome(line, "failed", result)

    def _manifest_line(self, line: Line) -> ManifestLine:
        key = line.batch, line.job.chunk
        if key not in self._chunks:
            manifest = Manifest(self._equipment.loaded.storage, line.batch)
            lines = self._insist(lambda: manifest.chunk(line.job.chunk))
            self._chunks[key] = {told.line: told for told in lines}
            while len(self._chunks) > _CHUNKS_KEPT:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(key)
        told = self._chunks[key].get(line.job.line)
        if told is None or told.request is None:
            raise StorageError(
                f"the manifest of batch {line.batch} has no job in line {line.job.line}: submit "
                "its file again"
            )
        return told


class Storing:
    """Encodes and publishes what was spoken; several threads do."""

    def __init__(self, equipment: Equipment, pipeline: Pipeline, insist: Insist) -> None:
        self._equipment = equipment
        self._pipeline = pipeline
        self._insist = insist

    def work(self) -> None:
        """Go on until the pipeline is closed."""
        lines: list[Line] = []
        while lines := self._pipeline.next_to_store(lines):
            self._pipeline.ended(*self._store(lines))

    def _store(self, lines: Sequence[Line]) -> list[Outcome]:
        storage = self._equipment.loaded.storage
        outcomes: list[Outcome] = []
        publications: dict[Line, Publication] = {}
        for line in lines:
            try:
                publications[line] = self._encoded(line)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this line alone
                outcomes.append(Outcome(line, "", error=error))
        told = publish_all(storage, list(publications.values()), self._insist)
        for line, published in zip(publications, told, strict=True):
            if isinstance(published, Exception):
                outcomes.append(Outcome(line, "", error=published))
            else:
                record = artifact_record(line.claim, published)
                outcomes.append(Outcome(line, "succeeded", record, _of_no_use(line)))
        return outcomes

    def _encoded(self, line: Line) -> Publication:
        if line.rendering is None or line.request is None:
            raise ValueError(f"{line.claim.job_id} has not been spoken")
        encoded = line.rendering.encode()
        details = details_of(line.claim, line.request, self._equipment.loaded, encoded)
        owner = self._equipment.owner(line)
        return Publication.of(line.claim.meta.name, encoded, owner, details)


def _of_no_use(line: Line) -> tuple[str, ...]:
    """Return what was staged of a line that has ended.

    Of what is heard while it is spoken a listener may still want it; that is swept later.
    """
    heard = line.request is None or line.request.stream
    return () if heard or line.rendering is None else tuple(line.rendering.staged)


class Stage(Protocol):
    """What a thread of a shift does."""

    def work(self) -> None:
        """Go on until there is nothing more to do."""
        ...


def in_thread(stage: Stage, pipeline: Pipeline) -> threading.Thread:
    """Start a stage; what ends it before its time stops the shift."""

    def guarded() -> None:
        try:
            stage.work()
        except BaseException as error:  # noqa: BLE001 - the shift raises it
            pipeline.stop(error)

    name = f"shift-{type(stage).__name__.lower()}"
    thread = threading.Thread(target=guarded, name=name, daemon=True)
    thread.start()
    return thread
