"""The way to the store and the storage, and all that can happen on it.

Every request is a yield point before its effect and after it: other processes run there, and
there a process is paused or killed, a request or a reply gets lost, or the effect comes long after
its sender has given up (as when a stopped Redis goes on and reads what lay in its socket).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.simulation.runtime import Killed
from tts_tasks.errors import TTSError, UnavailableError
from tts_tasks.testing import MemoryBatchBook, MemoryCoordinator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.simulation.runtime import Process
    from tests.simulation.world import World
    from tts_tasks.coordination.base import WorkerRecord

_SLOW = 0.02  #: share of requests that take long, but not too long
_CLOSED_SEEN_S = 0.005


@dataclass
class Reach:
    """Whether a process reaches the store: both ways, one way, or not."""

    requests: bool = True
    replies: bool = True


class Link:
    """The `Wire` of one process to one server. ``timeout_s``: what its client waits for a reply."""

    def __init__(
        self,
        world: World,
        process: Process,
        reach: Reach,
        *,
        timeout_s: float,
        storage: bool = False,
    ) -> None:
        self._world = world
        self._runtime = world.runtime
        self._process = process
        self._reach = reach
        self._timeout_s = timeout_s
        self._storage = storage

    def __call__(self, effect: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Carry one request; see the module."""
        world, runtime, name = self._world, self._runtime, effect.__name__.strip("_")
        rng = runtime.rng
        sent_s = runtime.now_s
        runtime.sleep(0.0002 + 0.0015 * rng.random() + self._slowness())
        fate = world.faults.fate_of_request(self._process) if world.faults.active else ""
        if fate:
            runtime.log(self._process.name, f"{name}: {fate}")
        if fate == "paused before":
            world.faults.pause(self._process)
            runtime.sleep(0.0)
        elif fate == "killed before":
            self._process.kill()
            raise Killed
        if not self._storage:
            self._await_store(effect, args, sent_s)
        if not self._reach.requests or fate == "request lost":
            self._time_out(sent_s)
        if fate == "late":
            self._do_later(effect, args, rng.uniform(0.3, 5.0))
            self._time_out(sent_s)
        answer = self._do(effect, args)
        if fate == "paused after":
            world.faults.pause(self._process)
        elif fate == "killed after":
            self._process.kill()
            raise Killed
        if not self._reach.replies or fate == "reply lost":
            self._time_out(sent_s)
        runtime.sleep(0.0002 + 0.0015 * rng.random() + self._slowness())
        if isinstance(answer, TTSError):
            raise answer
        return answer

    def _slowness(self) -> float:
        rng = self._runtime.rng
        if rng.random() < _SLOW:
            return rng.random() * min(0.15, self._timeout_s / 3)
        return 0.0

    def _await_store(
        self, effect: Callable[..., Any], args: tuple[Any, ...], sent_s: float
    ) -> None:
        """Refuse at once while the store is down; hang while it is stopped."""
        world = self._world
        if world.store_down:
            self._runtime.sleep(0.001)
            raise UnavailableError("connection refused")
        if world.store_paused_until_s > self._runtime.now_s:
            wait_s = world.store_paused_until_s - self._runtime.now_s
            left_s = sent_s + self._timeout_s - self._runtime.now_s
            if wait_s < left_s:
                self._runtime.sleep(wait_s)
                return
            # it lies in the store's socket: done when the store goes on, read by nobody
            self._do_later(effect, args, wait_s)
            self._time_out(sent_s)

    def _do_later(self, effect: Callable[..., Any], args: tuple[Any, ...], after_s: float) -> None:
        started = self._world.store_starts

        def do() -> None:
            if self._storage or started == self._world.store_starts:
                with suppress(ValueError):  # what a store refuses so late, nobody hears of
                    self._do(effect, args)

        self._runtime.spawn(self._runtime.world, do, name="late", after_s=after_s)

    def _time_out(self, sent_s: float) -> None:
        self._runtime.sleep(max(0.0, sent_s + self._timeout_s - self._runtime.now_s))
        raise UnavailableError("no answer in time")

    def _do(self, effect: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Let the store do it; an error that it answers with travels back as any answer does."""
        try:
            answer = effect(*args)
        except TTSError as error:
            answer = error
        name = effect.__name__
        if isinstance(getattr(effect, "__self__", None), MemoryBatchBook):
            name = name.replace("_store_", "_book_")  # both ledgers finish and release
        if self._runtime.trace is not None and not name.startswith("<"):
            self._runtime.log(
                self._process.name, f"{name.strip('_')}{_brief(args)} -> {_brief(answer)}"
            )
        if not isinstance(answer, TTSError):
            self._world.checker.after(self._process, name, args, answer)
        return answer


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) < 100 else f"{text[:97]}..."


class SimulatedCoordinator(MemoryCoordinator):
    """`MemoryCoordinator` whose presence is a connection that can be closed, as Redis's is."""

    def __init__(self, world: World, process: Process, reach: Reach, *, timeout_s: float) -> None:
        link = Link(world, process, reach, timeout_s=timeout_s)
        super().__init__(store=world.store, wire=link)
        self._world = world
        self._process = process
        self._reach = reach
        self._connection = ""
        self._closing = False

    def listen(self, lane_key: str, on_news: Callable[[], None]) -> None:
        """Be present from now on."""
        self._world.runtime.spawn(self._process, self._listen, lane_key, on_news, name="presence")

    def _listen(self, lane_key: str, on_news: Callable[[], None]) -> None:
        runtime = self._world.runtime
        while not self._closing:
            try:
                self._connection = self._ask(self._store_connect)
            except UnavailableError:
                runtime.sleep(runtime.rng.uniform(0.005, 0.3))
                continue
            on_news()
            connection = self._connection
            while connection in self._world.connections and not self._closing:
                task = runtime.current
                self._world.listeners[connection] = task
                if runtime.block(5.0) and connection in self._world.connections:
                    runtime.sleep(0.001)
                    on_news()
            self._world.listeners.pop(connection, None)
            self._connection = ""
            runtime.sleep(_CLOSED_SEEN_S)

    def _store_connect(self) -> str:
        return self._world.connect(self._process)

    def presence(self) -> str:
        """Return the id of this process's presence connection; empty while there is none."""
        return self._connection

    def close(self) -> None:
        """Be present no longer."""
        self._closing = True
        self._world.disconnect(self._connection)

    def absent(self, workers: Mapping[str, WorkerRecord | None]) -> set[str]:
        """Return those whose presence connection is closed."""
        told = {id_: record.presence for id_, record in workers.items() if record}
        expected = {id_: presence for id_, presence in told.items() if presence}
        if not expected:
            return set()
        closed = self._ask(self._store_closed, tuple(expected.values()))
        return {id_ for id_, presence in expected.items() if presence in closed}

    def _store_closed(self, connections: tuple[str, ...]) -> list[str]:
        return [id_ for id_ in connections if id_ not in self._world.connections]

    def _ring(self, lane_key: str) -> None:
        for connection, task in list(self._world.listeners.items()):
            if connection in self._world.connections:
                self._world.runtime.wake(task)


class RecordedEvents:
    """`EventLog` that keeps what it is told, and costs a moment to write."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def emit(self, event: str, **fields: Any) -> None:
        """Take an event down, as long as a write takes."""
        self.note(event, **fields)
        self._world.runtime.sleep(0.0005)

    def note(self, event: str, **fields: Any) -> None:
        """Take an event down at once."""
        if not self._process.alive:
            raise Killed
        self._world.event(self._process, event, fields)

    def flush(self) -> None:
        """There is nothing to write."""
