"""The watchdog alone: ``python -m tts_workers.watch``, which `ttsctl watchdog` runs.

Every agent watches every worker, so a cluster does not need this process. It helps where all
workers of a lane may die together, and where another machine is to have an eye on them. It looks
after its own lane and every other that it has seen a registered worker on; it leads nothing and is
registered nowhere. Any number of watchdogs at once is harmless: each removes exactly the record it
has seen.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from tts_tasks.app import app
from tts_tasks.clock import Clock, boottime_s
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.errors import ConfigurationError, TTSError
from tts_tasks.events import EventLog
from tts_tasks.ledger import JobLedger
from tts_tasks.redis_connection import connect
from tts_tasks.routing import Route, route_of
from tts_tasks.settings import get_settings
from tts_workers.chores import Chores, Rescue, survive
from tts_workers.decision import Recover, Remove, View, decide
from tts_workers.lease_keeper import remove_lease
from tts_workers.notices import Notices
from tts_workers.observer import Observer
from tts_workers.recovery import Recovery

if TYPE_CHECKING:
    from tts_tasks.coordination import Coordinator, Lease
    from tts_tasks.settings import Settings
    from tts_workers.watchdog import Silence

logger = logging.getLogger(__name__)


class StandaloneWatchdog:
    """Deposes and recovers, as an agent does, for every lane."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        *,
        coordinator: Coordinator,
        rescue: Rescue,
        events: EventLog,
        notices: Notices | None = None,
        clock: Clock = boottime_s,
    ) -> None:
        self._settings = settings
        self._name = name
        self._coordinator = coordinator
        self._events = events
        self._notices = notices
        self._clock = clock
        self._observer = Observer(coordinator, settings, clock)
        self._routes = {route_of(settings)}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._store_answered = True
        self._chores = Chores(
            name,
            rescue,
            clock=clock,
            reconcile_s=settings.lost_message_grace_s / 2,
        )

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()
        self._wake.set()
        self._chores.hurry()

    def run(self) -> None:
        """Watch until `stop`."""
        self._coordinator.listen(self._settings.lane_key, self._wake.set)
        chores = threading.Thread(
            target=self._chores.run,
            args=(self._stopping, self._observer.tick_s),
            name="tts-chores",
            daemon=True,
        )
        chores.start()
        if self._notices is not None:
            self._notices.start()
        while not self._stopping.is_set():
            self._wake.clear()
            survive(self.tick, self._note_store_failure)
            self._observer.rest(self._wake)
        self._coordinator.close()
        if self._notices is not None:
            self._notices.close()

    def tick(self) -> None:
        """Look once, and act."""
        leases = {route.lane_key: self._coordinator.read(route.lane_key) for route in self._routes}
        silences = self._observer.look(leases.values())
        # never fewer: a lane is looked after, and told of, also when its last worker is recovered
        self._routes |= {Route(w.pool, w.lane) for w in self._observer.workers.values() if w}
        if not self._store_answered:
            logger.info("the store answers again")
        self._store_answered = True
        queues = {queue for route in self._routes for queue in route.queues}
        self._chores.saw(self._observer.jobs, sorted(queues))
        for lane_key, lease in leases.items():
            self._watch_lane(lane_key, lease, silences)
            if self._notices is not None:
                self._notices.observe(lane_key, lease)
        self._events.flush()

    def do_chores(self) -> None:
        """Do what the chores' thread does, once."""
        self._chores.do()

    def _watch_lane(self, lane_key: str, lease: Lease | None, silences: dict[str, Silence]) -> None:
        view = View(
            me=self._name,
            ready=False,  # never a candidate
            draining=False,
            leadership=None,
            lease=lease,
            silences=silences,
            silence_limit_s=self._settings.silence_s,
            presence_grace_s=self._settings.presence_grace_s,
        )
        for action in decide(view, self._clock()):
            match action:
                case Remove(seen, reason):
                    self._depose(lane_key, seen, reason)
                case Recover(worker, silent_s):
                    self._chores.worker_died(worker, silent_s)

    def _depose(self, lane_key: str, lease: Lease, reason: str) -> None:
        store, events = self._coordinator, self._events
        if remove_lease(store, events, lane_key, lease, by=self._name, reason=reason):
            logger.warning("deposed %s in lane %s: %s", lease.holder, lane_key, reason)

    def _note_store_failure(self, error: TTSError) -> None:
        if self._store_answered:
            logger.warning("the store does not answer: %s", error)
        self._store_answered = False


def main() -> int:
    """Run until SIGINT or SIGTERM; returns an exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        watchdog = _set_up(get_settings())
    except ConfigurationError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2
    # Of a thread's own: a signal's handler runs in the main one, which must not hold a lock that
    # the handler wants. A `SimpleQueue` can be put to while it is got from; an `Event` cannot.
    ended: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.put(0))

    def watch() -> None:
        try:
            watchdog.run()
        finally:
            ended.put(1)

    thread = threading.Thread(target=watch, name="tts-watch")
    thread.start()
    status = ended.get()
    watchdog.stop()
    thread.join()
    return status


def _set_up(settings: Settings) -> StandaloneWatchdog:
    name = f"watchdog{os.getpid()}@{socket.gethostname()}/{secrets.token_hex(4)}"
    coordinator = RedisCoordinator(settings.redis_url, timeout_s=settings.request_timeout_s)
    diary = connect(settings.redis_url, timeout_s=settings.request_timeout_s, retries=0)
    events = EventLog(diary, kept=settings.events_kept)
    rescue = Recovery(
        app,
        settings,
        name=name,
        ledger=JobLedger(settings.redis_url, broker_url=settings.celery_url),
        coordinator=coordinator,
        events=events,
    )
    notices = Notices.of(settings, worker=name, events=events)
    logger.info("%s watches: no heartbeat for %.1f s is a death", name, settings.silence_s)
    return StandaloneWatchdog(
        settings,
        name,
        coordinator=coordinator,
        rescue=rescue,
        events=events,
        notices=notices,
    )


if __name__ == "__main__":
    sys.exit(main())
