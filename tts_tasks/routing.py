"""Requirements → pool → lane → queue.

The one place that knows how queues are named. `Router` reads the registry, and `tts_tasks.pools`
chooses: what joins, leaves or changes is seen within a heartbeat, as workers say it at once and
what was read is used for half of one.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Self

from tts_tasks import keys
from tts_tasks.coordination.base import WorkerRecord, record_ttl_s
from tts_tasks.errors import NoPoolError, RequestError
from tts_tasks.lexicons.store import LexiconStore
from tts_tasks.pools import Needs, Pool, choose, needs_of, pools_of, voice_key
from tts_tasks.redis_connection import shared_client, unavailable_is_clear
from tts_tasks.settings import NAME_PATTERN
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tts_tasks.requests import SpeechRequest
    from tts_tasks.settings import Settings

QUEUE_PREFIX = "tts"

#: So many heartbeats what was read of the registry is used.
_KEPT_HEARTBEATS: Final = 0.5
#: Before a request is refused, what was read is to be at most so old.
_FRESH_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Route:
    """Where a pool's work is rung."""

    pool: str
    lane: str

    @classmethod
    def parse(cls, lane_key: str) -> Self | None:
        """Read ``pool.lane``; None for what no lane is called."""
        pool, _, lane = lane_key.partition(".")
        plain = NAME_PATTERN.fullmatch(pool) and NAME_PATTERN.fullmatch(lane)
        return cls(pool, lane) if plain else None

    @property
    def lane_key(self) -> str:
        """``pool.lane``: the lane's name and the hash tag of its keys."""
        return f"{self.pool}.{self.lane}"

    @property
    def online_queue(self) -> str:
        """Consumed by the lane's primary alone, and before anything else."""
        return f"{QUEUE_PREFIX}.online.{self.pool}.{self.lane}"

    @property
    def batch_queue(self) -> str:
        """Consumed by every ready worker of the pool."""
        return f"{QUEUE_PREFIX}.batch.{self.pool}"

    @property
    def queues(self) -> tuple[str, str]:
        """Both queues, in the order in which a worker that has both takes from them."""
        return (self.online_queue, self.batch_queue)


def route_of(settings: Settings) -> Route:
    """Return the pool and lane that this process is configured for."""
    return Route(settings.pool, settings.lane)


class Router:
    """Chooses where requests go, by what the registry shows."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Iterable[tuple[WorkerRecord, bool]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``read`` returns the registered workers, and of each whether it beats."""
        self._home = route_of(settings)
        #: somebody has said so: `TTS_POOL`, `TTS_LANE`
        self._pool_is_said = "pool" in settings.model_fields_set
        self._lane_is_said = "lane" in settings.model_fields_set
        self._kept_s = settings.heartbeat_s * _KEPT_HEARTBEATS
        self._storage_url = settings.storage_url
        self._read = read
        self._clock = clock
        self._mutex = threading.Lock()
        self._pools: dict[str, Pool] = {}
        self._read_s = float("-inf")

    def pools(self, *, fresh: bool = False) -> dict[str, Pool]:
        """Return the pools as they were at most half a heartbeat ago; ``fresh``: a moment ago."""
        with self._mutex:
            now_s = self._clock()
            if now_s - self._read_s >= (_FRESH_S if fresh else self._kept_s):
                self._pools = pools_of(self._read())
                self._read_s = now_s
            return self._pools

    def route(self, request: SpeechRequest, job_id: str = "") -> Route:
        """Return where a pinned request goes; raises `NoPoolError` where nobody can serve it.

        ``job_id``: its lane is given, and is only held to what the request needs.
        """
        given = self._lane_of(job_id) if job_id else None
        needs = self.needs(request)
        if given is not None:
            if needs.pool not in ("", given.pool):
                raise RequestError("task_id", f"{job_id} is of another pool than {needs.pool}")
            needs = replace(needs, pool=given.pool)
        pool = self.pool_for(needs)
        return given or Route(pool, self._lane(pool, request))

    def pool_for(self, needs: Needs) -> str:
        """Return the pool for what is needed; raises `NoPoolError`."""
        with suppress(NoPoolError):
            return self._choose(needs, self.pools())
        # perhaps somebody has joined since
        return self._choose(needs, self.pools(fresh=True))

    def _choose(self, needs: Needs, pools: dict[str, Pool]) -> str:
        return choose(needs, pools, self._home.pool, at_home=self._pool_is_said)

    def _lane(self, name: str, request: SpeechRequest) -> str:
        pool = self.pools().get(name)
        if pool is None or (name == self._home.pool and self._lane_is_said):
            return self._home.lane
        return pool.lane_for(voice_key(request))

    def needs(self, request: SpeechRequest) -> Needs:
        """Return what a pinned request needs; the storage is asked once for each lexicon."""
        lexicon = request.lexicon
        return needs_of(
            request, has_sounds=lexicon is not None and _has_sounds(self._storage_url, lexicon)
        )

    def routes(self) -> list[Route]:
        """Return every lane where a job may be: this process's own, and those of the registry."""
        known = {Route(pool.name, lane) for pool in self.pools().values() for lane in pool.lanes}
        return [self._home, *sorted(known - {self._home}, key=lambda route: route.lane_key)]

    @staticmethod
    def _lane_of(job_id: str) -> Route:
        route = Route.parse(keys.split_job_id(job_id)[0])
        if route is None:
            raise RequestError("task_id", f"{job_id[:120]!r} is not of a lane (POOL.LANE:ITEM)")
        return route


def router_of(settings: Settings) -> Router:
    """Return this process's router."""
    return _router(settings, os.getpid())


def forget_registry() -> None:
    """Read the registry again at once: this process has changed it."""
    _router.cache_clear()


@lru_cache(maxsize=8)
def _router(settings: Settings, _pid: int) -> Router:
    url, heartbeat_s, silence_s = settings.redis_url, settings.heartbeat_s, settings.silence_s
    return Router(settings, lambda: registered(url, heartbeat_s, silence_s))


def registered(
    redis_url: str, heartbeat_s: float, silence_s: float
) -> list[tuple[WorkerRecord, bool]]:
    """Return the registered workers, and of each whether it has beaten within ``silence_s``."""
    client = shared_client(redis_url)
    with unavailable_is_clear(redis_url):
        ids = sorted(client.smembers(keys.WORKERS))
        pipe = client.pipeline(transaction=False)
        for worker_id in ids:
            pipe.get(keys.worker(worker_id))
            pipe.pttl(keys.worker(worker_id))
        answers = pipe.execute() if ids else []
    left_ms = (record_ttl_s(heartbeat_s) - silence_s) * 1000
    return [
        (WorkerRecord.from_json(record), ttl_ms >= left_ms)
        for record, ttl_ms in zip(answers[::2], answers[1::2], strict=True)
        if record
    ]


@lru_cache(maxsize=256)
def _has_sounds(storage_url: str, lexicon: str) -> bool:
    """Whether a pinned lexicon, which never changes, says how phrases sound."""
    found = LexiconStore(open_storage(storage_url)).read(lexicon)
    return any(entry.kind != "text" for entry in found.entries)
