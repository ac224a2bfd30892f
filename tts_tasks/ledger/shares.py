"""Fair shares: which batch of a queue gets the next run.

Stride scheduling (Waldspurger and Weihl, 1995): each batch has a virtual time, which grows by
``chars / priority`` with each run it gets, and the one with the smallest gets the next. So a small
batch does not wait behind a large one. The batch's own virtual time stands in its hash and is
charged by the script that takes the run; the sorted set of the queue is an index of it, of the
batches that may have work. Proved by ``tests/contract/test_batch_shares.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.redis_connection import RedisClient, Scripts, in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Batches that are looked at in one round trip.
_PAGE = 50


class Shares:
    """The index of batches with work, one a queue, in Redis."""

    def __init__(self, client: RedisClient, scripts: Scripts) -> None:
        self._client = client
        self._scripts = scripts

    def fairest_first(
        self, queue: str, page: list[tuple[str, float]]
    ) -> Iterator[tuple[str, float]]:
        """Yield ``(batch, virtual time)`` once each; ``page``: what `page` has read first."""
        seen: set[str] = set()
        while True:
            asked_for = len(seen) + _PAGE
            for batch_id, at in page:
                if batch_id not in seen:
                    seen.add(batch_id)
                    yield batch_id, at
            if len(page) < asked_for:
                return
            page = self.page(self._client, queue, beyond=len(seen))

    @staticmethod
    def page(client: RedisClient, queue: str, *, beyond: int = 0) -> Any:
        """Ask for the fairest batches, a page more than ``beyond``, with their virtual times."""
        return client.zrange(keys.shares(queue), 0, beyond + _PAGE - 1, withscores=True)

    def enter(self, queue: str, batch_id: str, virtual_time: str, pipe: RedisClient) -> None:
        """List a batch that has work."""
        args = [batch_id, virtual_time]
        self._scripts.run("enter_share", [keys.shares(queue)], args, client=pipe)

    def charge(self, queue: str, virtual_times: Mapping[str, float]) -> None:
        """Note how far batches have come; it never goes back, nor lists one that has left."""
        self._client.zadd(keys.shares(queue), dict(virtual_times), gt=True, xx=True)

    def leave(self, queue: str, batch_id: str) -> None:
        """Strike off a batch that has no ready lines; one that has got some meanwhile stays."""
        _, ready, virtual_time = in_order(
            self._client,
            lambda pipe: pipe.zrem(keys.shares(queue), batch_id),
            lambda pipe: [
                pipe.llen(keys.batch_ready(batch_id)),
                pipe.hget(keys.batch(batch_id), "virtual_time"),
            ],
        )
        if ready:
            self.enter(queue, batch_id, virtual_time or "0", self._client)
