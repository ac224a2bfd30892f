"""Who submits: batches and online jobs, each until it is accepted; again when the store forgot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tests.simulation.network import Link, Reach
from tests.simulation.runtime import Process
from tts_tasks import keys
from tts_tasks.batches.submission import Order, Submission
from tts_tasks.errors import UnavailableError
from tts_tasks.jsonl import BatchLine, RejectedLine
from tts_tasks.ledger import JobMeta
from tts_tasks.requests import SpeechRequest
from tts_tasks.testing import MemoryLedger

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.simulation.world import World

T = TypeVar("T")
POISON = "poison"
_TEXTS = ("one", "one|two", "one|two|three")
_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Batch:
    """A file that is submitted."""

    id: str
    output: str
    texts: tuple[str, ...]  #: of its lines, from 1; an empty one is no job

    def read(self, _pin: object = None) -> Iterator[BatchLine | RejectedLine]:
        """Yield the lines as they are read from the file."""
        for line, text in enumerate(self.texts, start=1):
            if not text:
                yield RejectedLine(line, f"i{line}", "text", "is missing")
                continue
            request = SpeechRequest(text=text, output_name=str(line))
            yield BatchLine(line, f"i{line}", request)

    def job_id(self, line: int) -> str:
        """Return the id of a line's job."""
        return keys.batch_job_id(self.id, line)

    def name(self, line: int) -> str:
        """Return the name of a line's artifact."""
        return f"{self.output}/{line}.wav"

    @property
    def job_ids(self) -> dict[str, str]:
        """The jobs, and the text of each."""
        texts = enumerate(self.texts, start=1)
        return {self.job_id(line): text for line, text in texts if text}


class Client:
    """Accepts, then rings; sometimes dies in between, or its ring is lost."""

    def __init__(self, world: World, *, poisoned: bool = False) -> None:
        rng = world.runtime.rng
        self._world = world
        self._runtime = world.runtime
        self._process = Process(world.runtime, "client")
        wire = Link(world, self._process, Reach(), timeout_s=_TIMEOUT_S)
        self._wire = wire
        self._ledger = MemoryLedger(world.store, wire=wire)
        self.batches = _batches(rng)
        if poisoned or (not world.calm and rng.random() < 0.15):
            self.batches[0] = _with_poison(self.batches[0], rng)
        self._online = [
            (rng.uniform(0.5, 15.0), rng.choice(_TEXTS)) for _ in range(rng.randint(2, 6))
        ]
        self.submitted: set[str] = set()  #: online jobs
        self.submitted_batches: set[str] = set()
        self.submitters: set[Process] = set()  #: that have not done it yet
        self._working = 0

    @property
    def done(self) -> bool:
        """Whether everything is submitted."""
        return self._working == 0

    def start(self) -> None:
        """Begin to submit."""
        rng, spawn = self._runtime.rng, self._runtime.spawn
        for number, (at_s, text) in enumerate(self._online):
            self._working += 1
            spawn(self._process, self._submit_online, number, text, after_s=at_s)
        for batch in self.batches:
            self._working += 1
            self._begin_to_submit(batch, after_s=rng.uniform(0.1, 9.0))

    def submit_again(self) -> None:
        """Submit all that was submitted once more, under the same ids."""
        self._working += 1
        self._runtime.spawn(self._process, self._again, after_s=self._runtime.rng.uniform(0.5, 2.0))

    def _again(self) -> None:
        self._working -= 1
        for batch in self.batches:
            if batch.id in self.submitted_batches:
                self._working += 1
                self._begin_to_submit(batch)
        for number, (_, text) in enumerate(self._online):
            if f"{self._world.lane_key}:{number}" in self.submitted:
                self._working += 1
                self._submit_online(number, text)

    # -- online jobs ----------------------------------------------------------------------------

    def _submit_online(self, number: int, text: str) -> None:
        lane_key = self._world.lane_key
        job_id = f"{lane_key}:{number}"
        self.submitted.add(job_id)
        queue = self._world.queues[0]
        meta = JobMeta(queue=queue, name=f"o{number}.wav", lane_key=lane_key, task_id=job_id)
        request = SpeechRequest(text=text)
        times_ms = self._insist(lambda: self._ledger.accept([(job_id, request, meta)]))
        self._ring(queue, [job_id], times_ms)
        self._working -= 1

    def _ring(self, queue: str, job_ids: list[str], times_ms: list[int | None]) -> None:
        if self._world.faults.active and self._runtime.rng.random() < 0.1:
            return  # died in between
        rung_ms = min((ms for ms in times_ms if ms), default=0)  # 0: written before, by a lost try
        try:
            self._wire(self._world.broker.ring, queue, job_ids, float(rung_ms))
        except UnavailableError:
            return  # the reconciler rings

    def _insist(self, call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except UnavailableError:
                self._runtime.sleep(self._runtime.rng.uniform(0.1, 0.5))

    # -- batches --------------------------------------------------------------------------------

    def _begin_to_submit(self, batch: Batch, after_s: float = 0.0) -> None:
        """Have a process of its own submit a batch; where it dies, somebody does it again."""
        world, rng = self._world, self._runtime.rng
        process = Process(self._runtime, f"submit-{batch.id}")

        def died() -> None:
            self.submitters.discard(process)
            self._begin_to_submit(batch, after_s=rng.uniform(0.1, 2.0))

        process.at_death.append(died)
        self.submitters.add(process)
        self._runtime.spawn(process, self._submit_batch, process, batch, after_s=after_s)
        if not world.calm and rng.random() < 0.2:
            world.later(after_s + rng.uniform(0.0, 0.15), process.kill)

    def _submit_batch(self, process: Process, batch: Batch) -> None:
        self.submitted_batches.add(batch.id)
        order = Order(batch.id, source="s", output=batch.output)
        self._insist(lambda: Submission(order, self._world.settings).run(batch.read))
        process.at_death.clear()
        self.submitters.discard(process)
        self._working -= 1


def _batches(rng: random.Random) -> list[Batch]:
    """Return one batch or two; the outputs of two may overlap, so that one waits for its turn."""
    outputs = rng.choice((("b1",), ("b1",), ("b1", "b2"), ("b1", "b1/b2")))
    return [
        Batch(f"b{number}", output, _texts(rng, rng.randint(4, 12) // len(outputs)))
        for number, output in enumerate(outputs, start=1)
    ]


def _texts(rng: random.Random, count: int) -> tuple[str, ...]:
    return tuple("" if rng.random() < 0.05 else rng.choice(_TEXTS) for _ in range(count))


def _with_poison(batch: Batch, rng: random.Random) -> Batch:
    texts = list(batch.texts)
    texts[rng.randrange(len(texts))] = POISON
    return Batch(batch.id, batch.output, tuple(texts))
