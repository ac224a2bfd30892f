"""The cluster as operators see it: lanes, workers, queues, events."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tts_tasks.batches.standing import status_of
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.events import EventLog
from tts_tasks.ledger import BatchBook
from tts_tasks.pools import pools_of
from tts_tasks.redis_connection import (
    CLIENT_TIMEOUT_S,
    RedisClient,
    shared_client,
    unavailable_is_clear,
)
from tts_tasks.routing import Route, route_of
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tts_tasks.coordination import WorkerRecord
    from tts_tasks.settings import Settings


def cluster_status(*, settings: Settings | None = None) -> dict[str, Any]:
    """Return who is primary where, what pools can do, who lives, what waits, and open batches.

    Lanes are those that have workers; this process's own too where nobody has any, or jobs wait in
    it. For a queue of batches, ``queues`` says how many lines are not ended; of a batch that is
    still being accepted, how many are ready.

    ``heartbeat_age_s`` is by Redis's clock, to the second; it is for people. The watchdog counts
    changes on its own.
    """
    settings = settings or get_settings()
    coordinator = coordinator_of(settings.redis_url)
    client = shared_client(settings.redis_url)
    records = {id_: record for id_, record in coordinator.workers().items() if record}
    routes = {Route(record.pool, record.lane) for record in records.values()}
    mine = route_of(settings)
    if not routes or any(_queue_lengths({mine}, settings).values()):
        routes.add(mine)  # nobody serves it, or not any more
    lanes, primaries = [], {}
    for route in sorted(routes, key=lambda route: route.lane_key):
        lease = coordinator.read(route.lane_key)
        lanes.append(
            {
                "pool": route.pool,
                "lane": route.lane,
                "primary": lease.holder if lease else None,
                "epoch": lease.epoch if lease else None,
            }
        )
        if lease:
            primaries[route.lane_key] = lease.holder
    ages_s = _ages_s(client, records, settings)
    workers = [
        _worker(record, primaries.get(record.lane_key), ages_s[id_])
        for id_, record in records.items()
    ]
    batches = _open_batches(settings)
    queues = _queue_lengths(routes, settings)
    queues |= {route.batch_queue: 0 for route in routes}
    for batch in batches:
        queues[batch["queue"]] = queues.get(batch["queue"], 0) + batch["left"]
    return {
        "lanes": lanes,
        "pools": _pools(records.values(), ages_s, settings),
        "workers": workers,
        "queues": queues,
        "batches": batches,
    }


@lru_cache(maxsize=8)
def coordinator_of(url: str) -> RedisCoordinator:
    """Return this process's coordinator for a URL, for who is not a member of the cluster."""
    return RedisCoordinator(url, timeout_s=CLIENT_TIMEOUT_S)


def events(
    *, follow: bool = False, since_s: float | None = None, settings: Settings | None = None
) -> Iterator[dict[str, Any]]:
    """Yield ``{"time", "event", ...}``, oldest first; with ``follow`` also what happens next."""
    settings = settings or get_settings()
    log = EventLog(shared_client(settings.redis_url))
    with unavailable_is_clear(settings.redis_url):
        yield from log.read(follow=follow, since_s=since_s)


def _pools(
    records: Iterable[WorkerRecord], ages_s: dict[str, float | None], settings: Settings
) -> list[dict[str, Any]]:
    """Return what requests are routed by; of a pool whose workers differ, an entry a kind."""
    beating = [(record, (ages_s[record.id] or 0) <= settings.silence_s) for record in records]
    shown = []
    for pool in pools_of(beating).values():
        size: dict[str, Any] = {"pool": pool.name, "lanes": sorted(pool.lanes)}
        size |= {"workers": pool.workers, "serving": pool.serving}
        shown += [size | asdict(offer) for offer in pool.offers] or [size]
    return shown


def _worker(record: WorkerRecord, primary: str | None, age_s: float | None) -> dict[str, Any]:
    role = "primary" if record.id == primary else "draining" if record.draining else "standby"
    return {
        "id": record.id,
        "host": record.host,
        "pid": record.pid,
        "pool": record.pool,
        "lane": record.lane,
        "role": role if record.ready else "faulty" if record.fault else "loading",
        "ready": record.ready,
        "draining": record.draining,
        "job": record.job,
        "device": record.device,
        "fault": record.fault,
        "gpu": record.gpu,
        "engine": record.engine,
        "fingerprint": record.fingerprint,
        "capabilities": record.capabilities,
        "heartbeat_age_s": age_s,
        "started_at": record.started_at,
    }


def _ages_s(
    client: RedisClient, records: dict[str, WorkerRecord], settings: Settings
) -> dict[str, float | None]:
    from tts_tasks import keys
    from tts_tasks.coordination.base import record_ttl_s

    ttl_s = record_ttl_s(settings.heartbeat_s)
    with unavailable_is_clear(settings.redis_url):
        pipe = client.pipeline(transaction=False)
        for id_ in records:
            pipe.pttl(keys.worker(id_))
        left_ms = pipe.execute()
    return {
        id_: round(max(0.0, ttl_s - ms / 1000), 1) if ms > 0 else None
        for id_, ms in zip(records, left_ms, strict=True)
    }


def _open_batches(settings: Settings) -> list[dict[str, Any]]:
    book = BatchBook(settings.redis_url)
    found = []
    for record in book.unreported():
        status = status_of(record, book)
        ended = record.succeeded + record.failed + record.cancelled
        left = record.accepted - ended if record.sealed else book.ready(record.id)
        found.append(
            {
                "batch": record.id,
                "state": status.state,
                "left": left,
                "priority": record.priority,
                "output": record.output,
                "waits_for": list(status.waits_for),
                "queue": record.queue,
            }
        )
    return found


def _queue_lengths(routes: set[Route], settings: Settings) -> dict[str, int]:
    names = sorted(route.online_queue for route in routes)
    with unavailable_is_clear(settings.celery_url):
        pipe = shared_client(settings.celery_url).pipeline(transaction=False)
        for name in names:
            pipe.llen(name)
        return dict(zip(names, pipe.execute(), strict=True))
