"""Waiting until replicas have a write, for writes that must not be forgotten by a promotion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.errors import UnavailableError
from tts_tasks.redis_connection import CLIENT_TIMEOUT_S, RedisClient, in_order

if TYPE_CHECKING:
    from collections.abc import Callable

#: How long replicas may take; well before the client's own patience ends.
_WAIT_MS = int(CLIENT_TIMEOUT_S * 500)


class ReplicaGate:
    """Runs writes, and returns only when ``replicas`` replicas have them (0: at once).

    Proved by ``tests/e2e/test_sentinel.py``.
    """

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def run(self, client: RedisClient, *steps: Callable[[RedisClient], object]) -> list[Any]:
        """Run steps as `in_order` does; raises `UnavailableError` if too few replicas answer."""
        if not self._replicas:
            return in_order(client, *steps)
        *answers, _, replicas = in_order(client, *steps, self._wait)
        if replicas < self._replicas:
            raise UnavailableError(
                f"{replicas} of the wanted {self._replicas} replicas have it after "
                f"{_WAIT_MS / 1000:g} s: the outcome is not known; the same call again is safe"
            )
        return answers

    def _wait(self, pipe: RedisClient) -> None:
        # WAIT counts from the last write of its connection, and the steps may have found that all
        # is written already: by a call before this one, which perhaps no replica has heard of
        pipe.set(keys.REPLICATED, "")
        pipe.wait(self._replicas, _WAIT_MS)
