"""Delivers notices to one target: tries again, gives up, keeps nobody waiting.

Each target has a courier of its own, so that a webhook that does not answer delays no command.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from random import SystemRandom
from typing import TYPE_CHECKING

from tts_tasks.clock import Clock, boottime_s
from tts_tasks.errors import DeliveryError

if TYPE_CHECKING:
    from tts_tasks.events import EventLog
    from tts_workers.notice_targets import Notice, Target

logger = logging.getLogger(__name__)

#: So many notices wait for one target; of more, the oldest are given up.
QUEUE_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Retries:
    """When a failed delivery is tried again: twice as late each time, with jitter."""

    first_s: float = 1.0
    longest_s: float = 60.0
    give_up_after_s: float = 300.0  #: since the first try began

    def pause_s(self, failed_tries: int, rng: SystemRandom) -> float:
        """Return how long to wait after so many failed tries; half of it is chance."""
        pause_s = min(self.longest_s, self.first_s * 2.0 ** min(failed_tries - 1, 30))
        return pause_s * rng.uniform(0.5, 1.0)


class Courier:
    """Delivers notices to one target, in order, in a thread of its own."""

    def __init__(
        self,
        target: Target,
        events: EventLog,
        *,
        retries: Retries = Retries(),
        limit: int = QUEUE_LIMIT,
        clock: Clock = boottime_s,
    ) -> None:
        self._target = target
        self._events = events
        self._retries = retries
        self._limit = limit
        self._clock = clock
        self._rng = SystemRandom()  # engines reseed `random`
        self._waiting: deque[Notice] = deque()
        self._given_up: deque[Notice] = deque(maxlen=limit)
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tts-courier", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def hand(self, notice: Notice) -> None:
        """Take a notice; returns at once."""
        with self._changed:
            if len(self._waiting) == self._limit:
                self._given_up.append(self._waiting.popleft())
            self._waiting.append(notice)
            self._changed.notify_all()

    def close(self) -> None:
        """Try once more what waits, without pauses, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Wait until it has ended, but not for long."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (notice := self._next()) is not None:
            self._deliver(notice)
            while self._given_up:
                self._fail(self._given_up.popleft(), 0, "too many notices waited for this target")

    def _next(self) -> Notice | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return self._waiting.popleft() if self._waiting else None

    def _deliver(self, notice: Notice) -> None:
        give_up_at_s = self._clock() + self._retries.give_up_after_s
        tries = 0
        while True:
            tries += 1
            try:
                self._target.send(notice)
            except DeliveryError as error:
                reason, final = str(error), error.final
            except Exception as error:  # the thread must live on: it is the only one
                logger.exception("a delivery to %s failed", self._target.name)
                reason, final = type(error).__name__, False
            else:
                self._events.emit(
                    "notice.sent", notice=notice.id, type=notice.type, to=self._target.name,
                    tries=tries,
                )  # fmt: skip
                return
            pause_s = self._retries.pause_s(tries, self._rng)
            if final or self._clock() + pause_s > give_up_at_s or not self._pause(pause_s):
                self._fail(notice, tries, reason)
                return

    def _pause(self, pause_s: float) -> bool:
        with self._changed:
            return not self._changed.wait_for(lambda: self._closing, pause_s)

    def _fail(self, notice: Notice, tries: int, reason: str) -> None:
        logger.warning(
            "notice %s did not reach %s (tries: %d): %s",
            notice.id, self._target.name, tries, reason,
        )  # fmt: skip
        self._events.emit(
            "notice.failed", notice=notice.id, type=notice.type, to=self._target.name,
            tries=tries, reason=reason,
        )  # fmt: skip
