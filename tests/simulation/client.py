"""Who submits: a batch and online jobs, each until it is accepted; again when the store forgot."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tests.simulation.network import Link, Reach
from tests.simulation.runtime import Process
from tts_tasks import keys
from tts_tasks.errors import UnavailableError
from tts_tasks.ledger import JobMeta
from tts_tasks.requests import SpeechRequest
from tts_tasks.testing import MemoryBatches, MemoryLedger

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.world import World

T = TypeVar("T")
BATCH = "b1"
_TEXTS = ("one", "one|two", "one|two|three")
_TIMEOUT_S = 1.0


class Client:
    """Accepts, then rings; sometimes dies in between, or its ring is lost."""

    def __init__(self, world: World) -> None:
        rng = world.runtime.rng
        self._world = world
        self._runtime = world.runtime
        self._process = Process(world.runtime, "client")
        wire = Link(world, self._process, Reach(), timeout_s=_TIMEOUT_S)
        self._wire = wire
        self._ledger = MemoryLedger(world.store, wire=wire)
        self._batches = MemoryBatches(world.store, wire=wire)
        self._lines = rng.randint(2, 6)
        texts = [rng.choice(_TEXTS) for _ in range(self._lines)]
        if not world.calm and rng.random() < 0.15:
            texts[0] = "poison"
        self._texts = texts
        self._online = [
            (rng.uniform(0.5, 15.0), rng.choice(_TEXTS)) for _ in range(rng.randint(2, 6))
        ]
        self.submitted: set[str] = set()
        self._working = 0

    @property
    def done(self) -> bool:
        """Whether everything is submitted."""
        return self._working == 0

    def start(self) -> None:
        """Begin to submit."""
        spawn = self._runtime.spawn
        for number, (at_s, text) in enumerate(self._online):
            self._working += 1
            spawn(self._process, self._submit_online, number, text, after_s=at_s)
        self._working += 1
        spawn(self._process, self._submit_batch, after_s=self._runtime.rng.uniform(0.1, 4.0))

    def submit_again(self) -> None:
        """Submit all that was submitted once more, under the same ids."""
        self._working += 1
        self._runtime.spawn(self._process, self._again, after_s=self._runtime.rng.uniform(0.5, 2.0))

    def _again(self) -> None:
        self._working -= 1
        for number, (_, text) in enumerate(self._online):
            if f"{self._world.lane_key}:{number}" in self.submitted:
                self._working += 1
                self._submit_online(number, text)
        if keys.batch_job_id(BATCH, 1) in self.submitted:
            self._working += 1
            self._submit_batch()

    def _submit_online(self, number: int, text: str) -> None:
        lane_key = self._world.lane_key
        job_id = f"{lane_key}:{number}"
        self.submitted.add(job_id)
        queue = self._world.queues[0]
        meta = JobMeta(queue=queue, name=f"o{number}.wav", lane_key=lane_key, task_id=job_id)
        times_ms = self._insist(lambda: self._ledger.accept([(job_id, _request(text), meta)]))
        self._ring(queue, [job_id], times_ms)
        self._working -= 1

    def _submit_batch(self) -> None:
        queue = self._world.queues[1]
        source = "s"
        lines = list(enumerate(self._texts, start=1))
        jobs = [
            (
                keys.batch_job_id(BATCH, line),
                _request(text),
                JobMeta(queue=queue, name=f"{BATCH}/{line}.wav", batch=BATCH, line=line),
            )
            for line, text in lines
        ]
        self.submitted.update(job_id for job_id, _, _ in jobs)
        self._insist(lambda: self._batches.open(BATCH, source=source, output=BATCH, queue=queue))
        times_ms = self._insist(lambda: self._ledger.accept(jobs))
        self._insist(lambda: self._batches.reached(BATCH, len(jobs)))
        self._ring(queue, [job_id for job_id, _, _ in jobs], times_ms)
        self._insist(lambda: self._batches.seal(BATCH, accepted=len(jobs), rejected=0))
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


def _request(text: str) -> SpeechRequest:
    return SpeechRequest(text=text)
