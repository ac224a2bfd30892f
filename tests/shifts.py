"""Batches by reference with a fake engine, for the suites of the window and of the shift."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.batch_books import BATCH, QUEUE, Books, books_of_kind
from tests.recorded_events import RecordedEvents
from tts_tasks.batches.manifest import Head, Manifest, ManifestLine
from tts_tasks.batches.report import ReportParts, report_name
from tts_tasks.batches.window import Window
from tts_tasks.errors import EngineError, UnspeakableTextError
from tts_tasks.settings import get_settings
from tts_tasks.storage import LocalStorage
from tts_tasks.storage.epochs import EpochMarks
from tts_workers.engine_host import LoadedEngine
from tts_workers.engines.base import Capabilities, EngineVoice, Segment, Spoken
from tts_workers.insisting import Insisting
from tts_workers.pace import Pace
from tts_workers.pipeline import Limits
from tts_workers.rendering import Tools
from tts_workers.shift import Equipment, Shift

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest

ME, OTHER = "w1", "w2"
CHILD = 4711
UNSPEAKABLE = "不可说"


class Engine:
    """Speaks noise that hangs on everything spoken before; keeps book of who called it."""

    name, version = "chained", "1"

    def __init__(self) -> None:
        self.spoken: list[str] = []
        self.splitting = 0  #: calls of `split` at the same time, the most there were
        self.speakers: set[int] = set()
        self.fails: Callable[[str], Exception | None] = lambda _: None
        self.meanwhile: Callable[[str], object] = lambda _: None
        self.freed_by: list[int] = []
        self._split = threading.Lock()
        self._speaks = threading.Lock()

    def capabilities(self) -> Capabilities:
        return Capabilities(languages=("zh",), sample_rate_hz=8000)

    def load(self, device: str) -> None:
        return

    def encode_voice(self, reference: Any) -> EngineVoice:
        self.speakers.add(threading.get_ident())
        return EngineVoice(reference)

    def split(self, text: str) -> list[Segment]:
        assert self._split.acquire(blocking=False), "two texts are split at once"
        try:
            if text == UNSPEAKABLE:
                raise UnspeakableTextError("nothing to speak")
            return [Segment(part) for part in text.split("|")]
        finally:
            self._split.release()

    def speak(self, segment: Segment, _: Any, state: Any, options: Any) -> Spoken:
        assert self._speaks.acquire(blocking=False), "two segments are spoken at once"
        try:
            self.speakers.add(threading.get_ident())
            if error := self.fails(segment.text):
                raise error
            self.spoken.append(segment.text)
            self.meanwhile(segment.text)
            heard = [*(state or {"heard": []})["heard"], segment.text]
            seed = [options.seed, *map(ord, "".join(heard))]
            noise = np.random.default_rng(seed).uniform(-0.9, 0.9, 160)
            return Spoken(noise.astype(np.float32), {"heard": heard})
        finally:
            self._speaks.release()

    def free_memory(self) -> None:
        self.freed_by.append(threading.get_ident())

    def fingerprint(self) -> str:
        return "f"

    def close(self) -> None:
        return


@dataclass
class World:
    """One book and one storage, and workers that come and go."""

    books: Books
    storage: Any
    engine: Engine = field(default_factory=Engine)
    events: RecordedEvents = field(default_factory=RecordedEvents)
    settings: dict[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=lambda: Limits(end_s=30.0, yield_s=30.0))
    knows_its_pace: bool = True  #: an engine that is so quick that whole runs are taken
    said: list[str] = field(default_factory=list)

    def stores_by(self, create: Callable[[str, bytes], bool]) -> None:
        """Have each object created by a function, also those that are created together."""
        self.storage.create = create
        self.storage.create_many = lambda objects: [create(*one) for one in objects]

    def window(
        self, *, ready_lines: int = 1000, through: Callable[[Any], Any] = lambda it: it
    ) -> Window:
        events: Any = self.events
        return Window(
            through(self.books.book),
            through(self.storage),
            events,
            retention_s=60,
            ready_lines=ready_lines,
        )

    def write(
        self, texts: Sequence[str | dict[str, Any]], batch: str = BATCH, *, priority: float = 1.0
    ) -> None:
        """Put a batch's manifest in storage, and open it."""
        head = Head(batch, "s", batch, "default", 1, priority)
        manifest = Manifest(self.storage, batch)
        manifest.begin(head)
        self.books.book.open(
            batch, source="s", output=batch, queue=QUEUE, created_ms=1, priority=priority
        )
        summary = manifest.write(
            (_line(batch, number, text) for number, text in enumerate(texts, start=1)),
            lambda number, _: self.books.book.grow(batch, number),
        )
        self.books.book.seal(
            batch, chunks=summary.chunks, accepted=summary.accepted, rejected=summary.rejected
        )

    def submit(
        self, texts: Sequence[str | dict[str, Any]], batch: str = BATCH, *, priority: float = 1.0
    ) -> None:
        """Submit a batch: its lines are ready afterwards."""
        self.write(texts, batch, priority=priority)
        self.window().feed(batch)

    def shift(
        self,
        worker: str = ME,
        *,
        child: int = CHILD,
        engine: Engine | None = None,
        must_stop: Callable[[], bool] = lambda: False,
        online_waits: Callable[[], bool] = lambda: False,
        limits: Limits | None = None,
        through: Callable[[Any], Any] = lambda it: it,
        book: Any = None,
        ledger: Any = None,
        log: Any = None,
        storage: Any = None,
    ) -> Shift:
        """Return a shift; ``through`` is put before everything that is a store."""
        engine = engine or self.engine
        book = through(book or self.books.book)
        storage = through(storage or self.storage)
        events: Any = self.events
        settings = get_settings().model_copy(update=self.settings)
        pace = Pace(lambda _: None, floor_s=1, factor=5, unknown_s=60)
        if self.knows_its_pace:
            with pace.step("speak", 1_000_000):
                pass
        insist = Insisting(settings.store_outage_s)
        tools = Tools(through(log or self.books.log), pace, settings, insist)
        capabilities = {"languages": ("zh",), "features": []}
        marks = EpochMarks(self.storage, "default.0")
        loaded = LoadedEngine(engine, "f", capabilities, storage, marks)
        equipment = Equipment(
            book,
            through(ledger or self.books.ledger),
            Window(book, storage, events, retention_s=60),
            loaded,
            tools,
            events,
            settings,
            QUEUE,
            worker,
            child,
        )
        return Shift(
            equipment,
            must_stop=must_stop,
            online_waits=online_waits,
            on_line=self.said.append,
            limits=limits or self.limits,
        )

    def recover(self, worker: str = ME) -> None:
        """Give back what a dead worker held, as its recoverers do."""
        book = self.books.book
        for batch in book.claimed_by(worker):
            book.release(
                batch, worker, [(line, None, False) for line in book.held_by(batch, worker)]
            )

    def report(self, batch: str = BATCH) -> list[dict[str, Any]]:
        """Return the report, out of its parts; the final one must be there and be the same."""
        record = self.books.book.get(batch)
        assert record is not None
        assert record.report is not None, "there is no report yet"
        head = Manifest(self.storage, batch).head()
        assert head is not None
        parts = ReportParts(self.storage, batch)
        lines = [line for part in parts.lines(record.chunks) for line in part]
        assert self.storage.read(report_name(head, "jsonl")) == b"".join(
            parts.pieces(record.chunks)
        )
        return lines

    def states(self, batch: str = BATCH) -> list[str]:
        """Return how the lines have ended, in the order of the file."""
        return [line["state"] for line in self.report(batch)]

    def artifacts(self, batch: str = BATCH) -> list[str]:
        """Return the names of what is published."""
        return sorted(name for name in self.storage.list(batch) if name.endswith(".wav"))


def world_of_kind(kind: str, request: pytest.FixtureRequest, root: Path) -> World:
    """Return an empty world on one kind of book and a local storage."""
    return World(books_of_kind(kind, request), LocalStorage(root))


def dies(text: str) -> Callable[[str], Exception | None]:
    """Have an engine fail over a text."""
    return lambda spoken: EngineError(f"dies at {text}") if spoken == text else None


def _line(batch: str, number: int, text: str | dict[str, Any]) -> ManifestLine:
    if isinstance(text, dict) and "rejected" in text:
        return ManifestLine(number, f"i{number}", rejected=text["rejected"])
    request = {"text": text} if isinstance(text, str) else text
    name = f"{batch}/{request.get('output_name', number)}.wav"
    return ManifestLine(number, f"i{number}", name, len(request["text"]), request)
