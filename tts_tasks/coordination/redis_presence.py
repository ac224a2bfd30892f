"""The connection by which Redis knows that a process lives, and by which the process hears news.

One blocking read on one connection does both: the kernel closes it when the process dies, however
it dies; a process that merely lost it knows at once, because its read ends, and registers anew.
"""

from __future__ import annotations

import contextlib
import threading
import time
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.redis_connection import RedisClient

_FIRST_RETRY_S, _LAST_RETRY_S = 0.01, 0.5
_UNBLOCK_AGAIN_S = 0.05


class Presence:
    """Listens on a bell in a thread of its own, over one connection that nothing else uses.

    ``timeout_s``: the client's socket timeout. A connection over which nothing comes for that long
    is half-open, and is opened anew.
    """

    def __init__(
        self, client: RedisClient, bell: str, on_news: Callable[[], None], *, timeout_s: float
    ) -> None:
        self._client = client
        self._bell = bell
        self._on_news = on_news
        self._block_ms = max(1, int(timeout_s * 500))  # well before the socket's timeout
        self._closing = threading.Event()
        self._heard = "$"  #: the last ring; none is missed while the connection is opened anew
        self._rng = SystemRandom()
        self._thread = threading.Thread(target=self._run, name="tts-presence", daemon=True)
        self._connection = 0  #: Redis's id of the open connection
        #: ``server run/connection``: where the connection is, and which one. Another server, or the
        #: same one started again, knows nothing of it, and may have given its number to another.
        self.id = ""

    def start(self) -> None:
        """Begin to be present."""
        self._thread.start()

    def close(self) -> None:
        """Close the connection."""
        self._closing.set()
        until_s = time.monotonic() + 4 * self._block_ms / 1000
        while self._thread.is_alive() and time.monotonic() < until_s:
            with contextlib.suppress(redis.RedisError, OSError):  # then the read ends by itself
                self._client.client_unblock(self._connection)
            self._thread.join(timeout=_UNBLOCK_AGAIN_S)  # it may just have been about to read
        if not self._thread.is_alive():  # else it uses the connection, and ends with the process
            self._client.close()

    def _run(self) -> None:
        retry_s = 0.0
        while not self._closing.wait(retry_s):
            try:
                self._listen()
                retry_s = 0.0
            except (redis.RedisError, OSError):
                # the first time at once: others count how long this process is absent
                retry_s = min(max(2 * retry_s, _FIRST_RETRY_S), _LAST_RETRY_S)
                retry_s *= self._rng.uniform(0.5, 1.0)
                self._connection, self.id = 0, ""  # an absence is for the others to see

    def _listen(self) -> None:
        """Wait for one ring, or for half the timeout."""
        if self._heard == "$":
            newest = self._client.xrevrange(self._bell, count=1)
            self._heard = newest[0][0] if newest else "0-0"
        connection = self._client.client_id()
        if connection != self._connection:
            self.id = f"{server_run(self._client)}/{connection}"
            self._connection = connection
            self._on_news()
        rings = self._client.xread({self._bell: self._heard}, block=self._block_ms)
        for _, entries in rings or []:
            self._heard = entries[-1][0]
            self._on_news()


def server_run(client: RedisClient, **server: Any) -> str:
    """Return the id that a Redis has from its start to its end."""
    return str(client.info("server", **server)["run_id"])
