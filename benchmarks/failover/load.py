"""The jobs that every system is given: a steady stream of short ones, and one that is in hand."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from tts_tasks.clock import boottime_s

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

#: Seconds of work for one second of audio: a short job then costs a few ms, the one in hand half a
#: second. espeak itself needs a thousandth of the audio's time, and some ms for a job.
COST = "0.02"
SHORT = "好"
IN_HAND = "这是一段比较长的通知，请大家注意听。" * 6


class Stream:
    """Gives a job every ``every_s`` from a thread of its own, while it is entered.

    ``give`` gets the number of the job and returns its id; what it raises ends the stream, and is
    raised again when it is left.
    """

    def __init__(self, give: Callable[[int], str], *, every_s: float) -> None:
        self._give = give
        self._every_s = every_s
        self._stopping = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self.ids: list[str] = []  #: of the jobs given so far, oldest first

    def _run(self) -> None:
        next_s = boottime_s()
        try:
            while not self._stopping.is_set():
                self.ids.append(self._give(len(self.ids)))
                next_s = max(next_s + self._every_s, boottime_s() - self._every_s)
                time.sleep(max(0.0, next_s - boottime_s()))
        except Exception as error:  # noqa: BLE001 - raised again where the stream is left
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Give no more jobs."""
        self._stopping.set()
        self._thread.join()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if self._error is not None and error is None:
            raise self._error
