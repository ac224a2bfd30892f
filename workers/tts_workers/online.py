"""Tells the child that somebody waits for a sound, so that a batch makes way between segments."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tts_tasks.errors import UnavailableError
from tts_tasks.redis_connection import connect, unavailable_is_clear
from tts_tasks.routing import route_of

if TYPE_CHECKING:
    from tts_tasks.settings import Settings
    from tts_workers.leadership import BelievedLease

#: The broker is not asked more often than that, in seconds: short segments follow on each other.
_ASK_EVERY_S = 0.02
#: Nor so soon after it has not answered: a batch need not stand still with it.
_ASK_AGAIN_S = 5.0


class OnlineWork:
    """The online queue of the lane, as the one sees it who would have to serve it."""

    def __init__(self, settings: Settings, lease: BelievedLease) -> None:
        self._url = settings.celery_url
        self._queue = route_of(settings).online_queue
        self._client = connect(self._url, timeout_s=settings.request_timeout_s, retries=0)
        self._lease = lease
        self._ask_s = 0.0

    def waits(self) -> bool:
        """Whether online work waits for this worker: it leads the lane, and a message is there.

        Others have no business with it, and a broker that does not answer has none for us.
        """
        now_s = time.monotonic()
        if now_s < self._ask_s or self._lease.get(0.0) is None:
            return False
        self._ask_s = now_s + _ASK_EVERY_S
        try:
            with unavailable_is_clear(self._url):
                return bool(self._client.llen(self._queue))
        except UnavailableError:
            self._ask_s = now_s + _ASK_AGAIN_S
            return False
