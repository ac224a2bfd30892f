"""The Unix socket between a worker's parent and its child: in order, and closed by a death."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tests.simulation.runtime import Killed, Process
from tests.simulation.virtual_threading import Event

if TYPE_CHECKING:
    from collections.abc import Callable

HOP_S = 0.0005  #: from one end to the other


class Pipe:
    """One direction of the socket: a thread of the reader's takes what was sent, in order."""

    def __init__(
        self,
        reader: Process,
        deliver: Callable[[dict[str, Any]], None],
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._runtime = reader.runtime
        self._deliver = deliver
        self._at_end = at_end
        self._waiting: deque[dict[str, Any]] = deque()
        self._closed = False
        self._news = Event(reader.runtime)
        reader.runtime.spawn(reader, self._read, name="link")

    def send(self, message: dict[str, Any]) -> None:
        self._waiting.append(message)
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    def _read(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            self._runtime.sleep(HOP_S)
            while self._waiting:
                self._deliver(self._waiting.popleft())
            if self._closed:
                self._at_end()
                return


class ChildLink:
    """The child's end of the socket."""

    def __init__(self, process: Process, pipe: Pipe, pid: int) -> None:
        self.pid = pid
        self._process = process
        self._pipe = pipe

    def show(self, message: dict[str, Any], *, later: bool = False) -> None:
        """Let the parent see something; here it is told like everything else."""
        self.say(message)

    def say(self, message: dict[str, Any]) -> None:
        """Tell the parent something."""
        if not self._process.alive:
            raise Killed
        self._pipe.send(message)
