"""`threading` and `time` for code that runs under `Runtime`: same names, virtual time.

The product's modules get these in place of the real ones (see `patching`), so that the agent's own
threads, locks and conditions run in the simulation as they are written.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.runtime import Runtime, Task

#: Between asking for a lock and having it, another thread may run: this often.
_PREEMPTED = 0.03
_PREEMPTION_S = 0.002


class VirtualThreading:
    """The names of the module `threading` that the product uses."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def RLock(self) -> Lock:  # noqa: N802
        return Lock(self._runtime)

    def Lock(self) -> Lock:  # noqa: N802
        return Lock(self._runtime)

    def Event(self) -> Event:  # noqa: N802
        return Event(self._runtime)

    def Condition(self, lock: Lock | None = None) -> Condition:  # noqa: N802
        return Condition(self._runtime, lock or Lock(self._runtime))

    def Thread(self, **options: Any) -> Thread:  # noqa: N802
        return Thread(self._runtime, **options)


class VirtualTime:
    """The names of the module `time` that the product uses."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def monotonic(self) -> float:
        return self._runtime.now_s

    def time(self) -> float:
        return self._runtime.now_s

    def time_ns(self) -> int:
        return int(self._runtime.now_s * 1e9)

    def sleep(self, seconds: float) -> None:
        self._runtime.sleep(seconds)


class VirtualRandom:
    """`random.SystemRandom`, but from the seed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __call__(self) -> Any:
        return self._runtime.rng


class VirtualSecrets:
    """`secrets`, but from the seed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def token_hex(self, size_bytes: int) -> str:
        return self._runtime.rng.randbytes(size_bytes).hex()


class Lock:
    """A lock; the same thread may take it again."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._owner: Task | None = None
        self._depth = 0
        self._waiting: list[Task] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        runtime = self._runtime
        me = runtime.current
        if self._owner is me:
            self._depth += 1
            return True
        if blocking and runtime.rng.random() < _PREEMPTED:
            runtime.sleep(runtime.rng.random() * _PREEMPTION_S)
        while self._owner is not None and self._owner.process.alive:
            if not blocking:
                return False
            self._waiting.append(me)
            runtime.block()
        self._owner, self._depth = me, 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
            if self._waiting:
                self._runtime.wake(self._waiting.pop(0))

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        if self._owner is not None:
            self.release()


class Condition:
    """A condition on a lock."""

    def __init__(self, runtime: Runtime, lock: Lock) -> None:
        self._runtime = runtime
        self._lock = lock
        self._waiting: list[Task] = []
        self.acquire, self.release = lock.acquire, lock.release

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()

    def wait(self, timeout: float | None = None) -> bool:
        depth, self._lock._depth = self._lock._depth, 1
        self._lock.release()
        me = self._runtime.current
        self._waiting.append(me)
        woken = self._runtime.block(timeout)
        if me in self._waiting:
            self._waiting.remove(me)
        self._lock.acquire()
        self._lock._depth = depth
        return woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        give_up_s = None if timeout is None else self._runtime.now_s + timeout
        while not (answer := predicate()):
            left_s = None if give_up_s is None else give_up_s - self._runtime.now_s
            if left_s is not None and left_s <= 0:
                break
            self.wait(left_s)
        return answer

    def notify_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._runtime.wake(task)

    def notify(self, n: int = 1) -> None:
        waiting, self._waiting = self._waiting[:n], self._waiting[n:]
        for task in waiting:
            self._runtime.wake(task)


class Event:
    """A flag to wait for."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._flag = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        return self._flag

    def set(self) -> None:
        self._flag = True
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._runtime.wake(task)

    def clear(self) -> None:
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        if self._flag:
            return True
        me = self._runtime.current
        self._waiting.append(me)
        self._runtime.block(timeout)
        if me in self._waiting:
            self._waiting.remove(me)
        return self._flag


class Thread:
    """A thread of the process that starts it."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        target: Callable[..., Any],
        args: tuple[Any, ...] = (),
        name: str = "thread",
        daemon: bool = True,
    ) -> None:
        self._runtime = runtime
        self._target, self._args, self.name = target, args, name
        self._task: Task | None = None
        self._ended = Event(runtime)

    def start(self) -> None:
        process = self._runtime.current.process
        self._task = self._runtime.spawn(process, self._run, name=self.name)

    def _run(self) -> None:
        self._target(*self._args)
        self._ended.set()

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.done

    def join(self, timeout: float | None = None) -> None:
        if self.is_alive():
            self._ended.wait(60.0 if timeout is None else timeout)


class InlineExecutor:
    """`ThreadPoolExecutor`, but what is submitted is done at once, by whoever submits it."""

    def __init__(self, *_: Any) -> None:
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args))
        except Exception as error:  # noqa: BLE001 - `result` raises it
            future.set_exception(error)
        return future
