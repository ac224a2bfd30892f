"""A whole cluster in one process: a store, a storage, workers, a client, and trouble."""

from __future__ import annotations

import logging
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from tests.simulation.broker import Broker
from tests.simulation.checker import Checker, Violation
from tests.simulation.client import Client
from tests.simulation.faults import STOP_S, Faults
from tests.simulation.network import Link, Reach, RecordedEvents
from tests.simulation.patching import patched
from tests.simulation.runtime import Process, Runtime
from tests.simulation.worker import Engine, OnlineQueue, Worker
from tts_tasks.routing import route_of
from tts_tasks.settings import Settings
from tts_tasks.testing import (
    MemoryBatchBook,
    MemoryCoordinator,
    MemoryLedger,
    MemorySegments,
    MemoryStorage,
    MemoryStore,
)
from tts_workers.pipeline import Limits

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.simulation.runtime import Task
    from tests.simulation.virtual_threading import Event
    from tts_tasks.coordination import WorkerRecord
    from tts_workers.leadership import BelievedLease

_CLIENT_TIMEOUT_S = 1.0
#: By then everything must have ended: after the last fault, the store's clock may have to catch up
#: with a jump, jobs of the dead are found, and every job is spoken.
SETTLED_S = 120.0

_SETTINGS = Settings(redis_url="redis://nowhere", storage_url="memory:", home="/nonexistent")


@dataclass(frozen=True)
class Sizes:
    """How much of a batch goes into a chunk, into the window, and into the hands of a shift.

    So small that a batch of a few lines is fed and flushed often, and taken by several workers.
    """

    chunk_lines: int
    window: dict[str, int]
    limits: Limits

    @classmethod
    def drawn(cls, rng: random.Random, *, calm: bool) -> Self:
        """Draw them from the seed.

        Where nothing goes wrong, a shift that makes way waits until all is stored: what it gives
        back too early is refused, and rightly.
        """
        run_lines = rng.choice((1, 2, 3))
        return cls(
            chunk_lines=rng.choice((1, 2, 4)),
            window={
                "ready_lines": rng.choice((1, 2, 4)),
                "window_chunks": rng.choice((1, 2, 32)),
            },
            limits=Limits(
                run_lines=run_lines,
                run_chars=rng.choice((4, 2000)),
                lines_ahead=run_lines + rng.choice((0, 2)),
                storing_lines=rng.choice((1, 3)),
                storers=rng.choice((1, 2)),
                end_s=rng.choice((1.0, 10.0)),
                yield_s=10.0 if calm else 1.0,
            ),
        )


class _Bugs(logging.Handler):
    """Hears of exceptions that the product gets over, though it does not expect them."""

    def __init__(self, checker: Checker) -> None:
        super().__init__(logging.ERROR)
        self._checker = checker

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        # A store that lost its data counts attempts anew, so that a worker may have the same one
        # twice; and a late `restart` forgets what was kept since. Either costs an attempt.
        is_known = "would follow on" in str(error)
        if error is not None and not isinstance(error, Violation) and not is_known:
            self._checker.fail(f"{record.getMessage()}: {error!r}")


class World:
    """One run. `run` returns when all is done, or raises what was violated."""

    def __init__(
        self,
        seed: int,
        *,
        calm: bool = False,
        forgetful: bool = False,
        poisoned: bool = False,
        only: tuple[str, ...] = (),
        trace: list[str] | None = None,
        workers: int = 3,
    ) -> None:
        self.runtime = Runtime(seed, trace=trace)
        self.calm = calm
        self.started_s = self.runtime.now_s
        self.settings = _SETTINGS
        self.lane_key = self.settings.lane_key
        self.queues = route_of(self.settings).queues
        self.glances_per_tick = self.runtime.rng.choice((1, 1, 1, 5))
        self.sizes = Sizes.drawn(self.runtime.rng, calm=calm)
        self.clock_offset_s = 0.0
        self.store = MemoryStore(self._store_clock)
        self.store_down = False
        self.store_paused_until_s = 0.0
        self.store_starts = 0
        self.objects: dict[str, bytes] = {}
        self.unacked: dict[str, dict[int, Any]] = defaultdict(dict)
        self.connections: set[str] = set()
        self.listeners: dict[str, Task] = {}
        self.consumers: list[Event] = []
        self.workers: list[Worker] = []
        self.broker = Broker(self)
        self._connection_of: dict[Process, str] = {}
        self._reach_of: dict[Process, Reach] = {}
        self._acting: Process | None = None
        self._number = 0
        self.checker = Checker(self)
        self.faults = Faults(self, calm=calm, forgetful=forgetful, only=only)
        self._operator = MemoryCoordinator(store=self.store)
        self._operator._ring = self._ring_bell  # type: ignore[method-assign]
        self._nodes = [f"w{number}" for number in range(workers)]
        self.client = Client(self, poisoned=poisoned)

    # -- the run --------------------------------------------------------------------------------

    def run(self) -> None:
        """Run to the end; raises `Violation`, or whatever a thread died of."""
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        bugs = _Bugs(self.checker)
        logging.root.addHandler(bugs)
        try:
            with patched(self):
                for node in self._nodes:
                    self.later(
                        self.runtime.rng.uniform(0, 0.5), lambda node=node: self._start(node)
                    )
                self.client.start()
                self.runtime.run(self.started_s + STOP_S + SETTLED_S, self._is_over)
                if self.runtime.errors:
                    raise self.runtime.errors[0]
                self.checker.at_end()
        finally:
            logging.root.removeHandler(bugs)
            logging.disable(logging.CRITICAL)  # of what its threads say as they are ended
            self.runtime.close()
            logging.disable(level)

    def _is_over(self) -> bool:
        if self.runtime.now_s < self.started_s + STOP_S or self.faults.active:
            return False
        return self.client.done and self.checker.all_ended()

    def _start(self, node: str) -> None:
        worker = Worker(self, node, self.next_number())
        self._reach_of[worker.process] = worker.reach
        self.workers = [w for w in self.workers if w.process.alive or w.node != node] + [worker]
        self.runtime.log("world", f"starts {worker.id}")
        worker.start()

    def start_again(self, worker: Worker, after_s: float = 0.3) -> None:
        """Start a worker anew under the same name, as a supervisor does."""
        after_s += self.runtime.rng.uniform(0, 3.0)

        def start() -> None:
            if worker.process.alive:
                self.later(0.5, start)
            elif not any(w.node == worker.node and w.process.alive for w in self.workers):
                self._start(worker.node)

        self.later(after_s, start)

    def fill_up(self) -> None:
        """Start again whatever died without anybody to start it again."""
        for worker in self.workers:
            if not worker.process.alive:
                self.start_again(worker)
            elif worker.process.paused:
                continue

    def later(self, after_s: float, do: Callable[[], None]) -> None:
        """Do something in a while."""
        self.runtime.spawn(self.runtime.world, do, name="later", after_s=after_s)

    def next_number(self) -> int:
        """Return a number that was not returned before."""
        self._number += 1
        return self._number

    def primary(self) -> Worker | None:
        """Return the worker that holds the lease now, if it lives."""
        lease = self.store.lease(self.lane_key)
        alive = [worker for worker in self.workers if worker.process.alive]
        return next((w for w in alive if lease is not None and w.id == lease.holder), None)

    def event(self, process: Process, event: str, fields: dict[str, Any]) -> None:
        """Take in an event of the product's."""
        self.runtime.log(process.name, f"event {event} {fields}")

    # -- what the product's modules get ---------------------------------------------------------

    @contextmanager
    def acting_for(self, process: Process, reach: Reach) -> Iterator[None]:
        """Build the clients of a process that does not run yet."""
        self._reach_of[process] = reach
        self._acting = process
        try:
            yield
        finally:
            self._acting = None

    def _link(self, *, storage: bool = False) -> Link:
        process = self._acting or self.runtime.current.process
        reach = Reach() if storage else self._reach_of.setdefault(process, Reach())
        return Link(self, process, reach, timeout_s=_CLIENT_TIMEOUT_S, storage=storage)

    def ledger(self) -> MemoryLedger:
        return MemoryLedger(self.store, wire=self._link())

    def segments(self) -> MemorySegments:
        return MemorySegments(self.store, wire=self._link())

    def online_work(self, lease: BelievedLease) -> OnlineQueue:
        return OnlineQueue(self, lease)

    def book(self) -> MemoryBatchBook:
        return MemoryBatchBook(self.store, wire=self._link())

    def registered(self) -> list[tuple[WorkerRecord, bool]]:
        """Return the registry as who submits reads it, at once: it decides nothing here."""
        workers = MemoryCoordinator(store=self.store).workers()
        return [(record, True) for record in workers.values() if record]

    def events(self) -> RecordedEvents:
        return RecordedEvents(self, self._acting or self.runtime.current.process)

    def storage(self) -> MemoryStorage:
        return MemoryStorage(self.objects, wire=self._link(storage=True))

    def engine(self) -> Engine:
        return Engine(self, self.runtime.current.process)

    def ring(self, _app: Any, queue: str, task_ids: Any, *, rung_ms: float, **_: Any) -> int:
        self._link()(self.broker.ring, queue, list(task_ids), rung_ms)
        return len(list(task_ids))

    def ring_for_work(self, _app: Any, queue: str, _settings: Any) -> bool:
        link = self._link()
        if link(self.broker.waiting, queue):
            return False
        if self.runtime.current.process in self.client.submitters and self.faults.loses_a_ring():
            return True  # the reconciler rings
        link(self.broker.ring, queue, [f"work-{self.next_number()}"], 0.0)
        return True

    # -- the store ------------------------------------------------------------------------------

    def _store_clock(self) -> float:
        return self.runtime.now_s + self.clock_offset_s

    def jump_clock(self, seconds: float) -> None:
        """Let the store's clock jump."""
        self.runtime.log("store", f"clock {seconds:+.1f} s")
        self.clock_offset_s += seconds
        self.checker.clock_jumped()

    def stop_store(self, *, down_s: float, lose: bool) -> None:
        """Stop the store and start it again, with its data or without."""
        self.runtime.log("store", "down")
        self.checker.disturbed(None)
        self.store_down = True
        self.store_starts += 1
        for connection in sorted(self.connections):
            self.disconnect(connection)

        def start() -> None:
            self.store_down = False
            self.checker.disturbed(None)
            if lose:
                self.checker.data_lost()
                self.store.lose_data()
                self.unacked.clear()
                self.client.submit_again()
            self.runtime.log("store", "up, empty" if lose else "up")

        self.later(down_s, start)

    def connect(self, process: Process) -> str:
        """Open a presence connection."""
        connection = f"c{self.next_number()}"
        self.connections.add(connection)
        self._connection_of[process] = connection
        return connection

    def disconnect(self, connection: str) -> None:
        """Close a presence connection; its process learns of it."""
        self.connections.discard(connection)
        task = self.listeners.pop(connection, None)
        if task is not None:
            self.runtime.wake(task)

    def connection_of_process_closed(self, process: Process) -> None:
        """Close the connection of a process, as the kernel does, or a reset."""
        connection = self._connection_of.pop(process, None)
        if connection is not None:
            self.disconnect(connection)

    def queue_changed(self) -> None:
        """Wake the consumers that wait for messages."""
        waiting, self.consumers = self.consumers, []
        for wake in waiting:
            wake.set()

    def _ring_bell(self, _lane_key: str) -> None:
        for connection, task in list(self.listeners.items()):
            if connection in self.connections:
                self.runtime.wake(task)

    # -- the operator ---------------------------------------------------------------------------

    def operator(self, order: str, worker: Worker) -> None:
        """Give an order, as `ttsctl` does."""
        if self.store_down:
            return
        match order:
            case "drain":
                self._operator.drain(self.lane_key, worker.id, "by hand")
            case "undrain":
                self._operator.undrain(self.lane_key, worker.id)
            case "reserve":
                self._operator.reserve(self.lane_key, worker.id, 3.0)

    def undrain_all(self) -> None:
        """Take every order back."""
        self.store.drained.clear()
