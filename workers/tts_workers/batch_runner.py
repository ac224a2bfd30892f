"""Works on lines of batches in the worker's child: a shift for each ring that is heard."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from celery.exceptions import Reject

from tts_tasks.app import app
from tts_tasks.batches.window import Window
from tts_tasks.doorbell import ring_for_work
from tts_tasks.errors import EngineLoadError, UnavailableError
from tts_tasks.routing import route_of
from tts_workers.insisting import Insisting
from tts_workers.online import OnlineWork
from tts_workers.shift import Equipment, Shift, give_back_held

if TYPE_CHECKING:
    from tts_workers.engine_host import LoadedEngine
    from tts_workers.workbench import Workbench

logger = logging.getLogger(__name__)

#: How long a ring waits for an engine that is loading again, or for the news that it is served.
_READY_S = 1.0
#: How long a worker rests that hands a ring on to others, who may do what it could not.
_PAUSE_S = 0.25
#: How often a worker looks whether there is anything on its list that it does not work on.
_LOOK_EVERY_S = 10.0
#: How long what is owed may hold up whoever gives it back, in seconds; it is tried again.
_GIVE_BACK_S = 1.0


class BatchRunner:
    """Runs one shift at a time on the engine of this process."""

    def __init__(self, bench: Workbench) -> None:
        self._host = bench.host
        self._lease = bench.lease
        self._link = bench.link
        self._settings = bench.settings
        self._worker_id = bench.worker_id
        self._queue = route_of(bench.settings).batch_queue
        self._book = bench.book
        self._ledger = bench.ledger
        self._events = bench.events
        self._online = OnlineWork(bench.settings, bench.lease)
        self._tools = bench.tools(self._begins)
        self._working = threading.Lock()
        self._owes = True  #: perhaps lines that the last shift could not give back
        self._next_look_s = 0.0

    def __call__(self) -> None:
        """Work a shift; raises Celery's `Reject` where somebody is still to hear the ring."""
        try:
            loaded = self._host.wait(_READY_S)
        except EngineLoadError:
            raise Reject("the engine of this worker is not ready", requeue=True) from None
        if not self._lease.serves(_READY_S):
            raise Reject("this worker takes no work now", requeue=True)
        try:
            with self._working, self._online:
                spoken = self._shift(loaded).work()
            work_is_left = self._book.has_work(self._queue)
        except UnavailableError as error:
            self._owes = True
            raise Reject(str(error), requeue=True) from None
        except Exception:
            # Whatever it was: the lines are given back, and the ring must not be lost with it.
            self._owes = True
            logger.exception("a shift ended before its time")
            time.sleep(_READY_S)
            raise Reject("a shift ended before its time", requeue=True) from None
        if work_is_left:
            if not spoken:
                time.sleep(_PAUSE_S)
            raise Reject("there is work left", requeue=True)

    def give_back_what_is_owed(self) -> None:
        """Give back lines that are on this worker's list though no shift has them in hand.

        A shift may have ended while the stores did not answer; and what a replica has not heard of
        before it became the master, such as a line's end, has not happened.
        """
        if not self._owes and time.monotonic() < self._next_look_s:
            return
        if not self._working.acquire(blocking=False):
            return
        self._next_look_s = time.monotonic() + _LOOK_EVERY_S
        try:
            insist = Insisting(_GIVE_BACK_S)
            give_back_held(self._book, self._worker_id, self._link.pid, insist)
            self._owes = False
        except UnavailableError as error:
            logger.debug("lines are not given back yet: %s", error)
        finally:
            self._working.release()

    def _shift(self, loaded: LoadedEngine) -> Shift:
        equipment = Equipment(
            book=self._book,
            ledger=self._ledger,
            window=Window(
                self._book,
                loaded.storage,
                self._events,
                retention_s=self._settings.retention_s,
            ),
            loaded=loaded,
            tools=self._tools,
            events=self._events,
            settings=self._settings,
            queue=self._queue,
            worker=self._worker_id,
            child=self._link.pid,
            others_ready=lambda: self._lease.others_ready,
            on_taken=self._wake_another,
        )
        return Shift(
            equipment,
            must_stop=lambda: not self._lease.serves(),
            online_waits=self._online.waits,
            on_line=self._on_line,
        )

    def _wake_another(self) -> None:
        with suppress(UnavailableError):  # somebody rings when the broker is back
            if not self._lease.others_ready:
                return
            ring_for_work(app, self._queue, self._settings)

    def _on_line(self, job_id: str) -> None:
        # a line is shown with its first budget, before anything is done with it
        self._link.show({"event": "job", "job": job_id}, later=bool(job_id))

    def _begins(self, number: int, segments: int) -> None:
        if segments > 1:  # of a short line it says nothing
            shown = {"event": "segment", "segment": number, "segments": segments}
            self._link.show(shown, later=True)  # with the budget for it
