"""Processes and threads under virtual time: one greenlet a thread, one seed a schedule.

A thread gives way only where it sleeps, waits or asks a store (`Runtime.sleep`, `Runtime.block`);
who goes on is decided by the virtual time at which each is due, and the times are drawn from the
seed. A paused process (SIGSTOP) keeps its timers: they fire when it goes on. A killed one never
runs another line; what its `finally` blocks try is stopped by `Killed`.
"""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING, Any

from greenlet import GreenletExit, getcurrent, greenlet

if TYPE_CHECKING:
    from collections.abc import Callable

START_S = 1000.0


class Killed(GreenletExit):
    """The process of this thread is dead."""


class Process:
    """What is paused, resumed and killed as one."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self.runtime = runtime
        self.name = name
        self.alive = True
        self.paused = False
        self.resumed_s = runtime.now_s
        self.parked: list[Task] = []
        self.at_death: list[Callable[[], None]] = []
        self.at_resume: list[Callable[[], None]] = []

    def pause(self) -> None:
        """Stop every thread of it (SIGSTOP)."""
        if self.alive and not self.paused:
            self.paused = True
            self.runtime.log(self.name, "paused")

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        if not self.alive or not self.paused:
            return
        self.paused = False
        self.resumed_s = self.runtime.now_s
        self.runtime.log(self.name, "resumed")
        parked, self.parked = self.parked, []
        for task in parked:
            self.runtime.go_on(task)
        for tell in self.at_resume:
            tell()

    def kill(self) -> None:
        """End it (SIGKILL)."""
        if not self.alive:
            return
        self.alive = False
        self.parked.clear()
        self.runtime.log(self.name, "killed")
        for tell in self.at_death:
            tell()


class Task:
    """One thread."""

    __slots__ = ("done", "greenlet", "name", "process", "ticket", "timed_out")

    def __init__(self, process: Process, name: str) -> None:
        self.process = process
        self.name = name
        self.ticket = 0  #: of the one wake-up that counts; older ones are ignored
        self.timed_out = False
        self.done = False


class Runtime:
    """The scheduler. ``now_s`` is the time of every clock before its own offset."""

    def __init__(self, seed: int, *, trace: list[str] | None = None) -> None:
        self.rng = random.Random(seed)
        self.now_s = START_S
        self.steps = 0
        self.trace = trace
        self.errors: list[BaseException] = []
        self._due: list[tuple[float, int, Task, int]] = []
        self._order = 0
        self._tasks: dict[greenlet, Task] = {}
        self._main = getcurrent()
        self._closed = False
        self.world = Process(self, "world")

    def log(self, who: str, what: str) -> None:
        """Note a line of the trace, if one is kept."""
        if self.trace is not None:
            self.trace.append(f"{self.now_s - START_S:9.4f}  {who:<14} {what}")

    # -- threads --------------------------------------------------------------------------------

    def spawn(
        self,
        process: Process,
        work: Callable[..., Any],
        *args: Any,
        name: str = "",
        after_s: float = 0.0,
    ) -> Task:
        """Start a thread of a process, now or later."""
        task = Task(process, name or getattr(work, "__name__", "thread"))

        def body() -> None:
            try:
                work(*args)
            except GreenletExit:
                pass
            except Exception as error:  # noqa: BLE001 - the run fails with it
                self.errors.append(error)
            finally:
                task.done = True
                self._tasks.pop(task.greenlet, None)

        task.greenlet = greenlet(body, parent=self._main)
        self._tasks[task.greenlet] = task
        self._push(self.now_s + after_s, task)
        return task

    @property
    def current(self) -> Task:
        """The thread that runs."""
        return self._tasks[getcurrent()]

    def sleep(self, seconds: float) -> None:
        """Let time pass, and others run."""
        task = self._tasks[getcurrent()]
        self._check(task)
        due_s = self.now_s + seconds
        if not task.process.paused and (not self._due or self._due[0][0] > due_s):
            self.now_s = due_s  # nobody else has anything to do meanwhile
            self.steps += 1
            return
        self._push(due_s, task)
        self._give_way(task)

    def block(self, timeout_s: float | None = None) -> bool:
        """Wait for `wake`; False if the timeout came first."""
        task = self._tasks[getcurrent()]
        self._check(task)
        task.ticket += 1
        task.timed_out = True  # until `wake` says otherwise
        if timeout_s is not None:
            self._push(self.now_s + max(0.0, timeout_s), task, renew=False)
        self._give_way(task)
        return not task.timed_out

    def wake(self, task: Task) -> None:
        """Let a waiting thread go on."""
        task.timed_out = False
        self._push(self.now_s, task)

    def go_on(self, task: Task) -> None:
        """Let a thread of a resumed process go on with what it was about to do."""
        self._push(self.now_s, task)

    def _push(self, due_s: float, task: Task, *, renew: bool = True) -> None:
        if renew:
            task.ticket += 1
        self._order += 1
        heapq.heappush(self._due, (due_s, self._order, task, task.ticket))

    def _give_way(self, task: Task) -> None:
        self._main.switch()
        self._check(task)

    def _check(self, task: Task) -> None:
        if self._closed or not task.process.alive:
            raise Killed

    # -- the loop -------------------------------------------------------------------------------

    def run(self, until_s: float, stop: Callable[[], bool]) -> None:
        """Run until nothing is due before ``until_s``, or ``stop`` says so."""
        due = self._due
        while due and not self.errors:
            due_s, _, task, ticket = due[0]
            if due_s > until_s:
                break
            heapq.heappop(due)
            if ticket != task.ticket or task.done or not task.process.alive:
                continue
            if task.process.paused:
                task.process.parked.append(task)
                continue
            self.now_s = max(self.now_s, due_s)
            self.steps += 1
            task.greenlet.switch()
            if stop():
                break

    def close(self) -> None:
        """End every thread."""
        self._closed = True
        for thread in list(self._tasks):
            if thread:
                thread.throw(Killed)
        self._tasks.clear()
        self._due.clear()
