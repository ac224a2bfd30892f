"""Tells the child that somebody waits for a sound, so that a batch makes way between segments."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from tts_tasks.errors import UnavailableError
from tts_tasks.redis_connection import connect, unavailable_is_clear
from tts_tasks.routing import route_of

if TYPE_CHECKING:
    from tts_tasks.settings import Settings
    from tts_workers.leadership import BelievedLease

#: How often the broker is asked, in seconds,
_ASK_EVERY_S = 0.02
#: and how soon again after it has not answered.
_ASK_AGAIN_S = 5.0


class OnlineWork:
    """The online queue of the lane, as the one sees it who would have to serve it.

    While it is entered, a thread of its own looks at the queue: who speaks does not wait for it.
    """

    def __init__(self, settings: Settings, lease: BelievedLease) -> None:
        self._url = settings.celery_url
        self._queue = route_of(settings).online_queue
        self._client = connect(self._url, timeout_s=settings.request_timeout_s, retries=0)
        self._lease = lease
        self._waits = False
        self._left = threading.Event()

    def __enter__(self) -> Self:
        self._waits, self._left = False, threading.Event()
        thread = threading.Thread(
            target=self._look, args=(self._left,), name="online-work", daemon=True
        )
        thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def waits(self) -> bool:
        """Whether online work waits for this worker: it leads the lane, and a message is there.

        Others have no business with it, and a broker that does not answer has none for us.
        """
        return self._waits

    def _look(self, left: threading.Event) -> None:
        pause_s = 0.0
        while not left.wait(pause_s):
            pause_s = _ASK_EVERY_S
            waits = False
            if self._lease.get(0.0) is not None:
                try:
                    with unavailable_is_clear(self._url):
                        waits = bool(self._client.llen(self._queue))
                except UnavailableError:
                    pause_s = _ASK_AGAIN_S
            if not left.is_set():
                self._waits = waits
