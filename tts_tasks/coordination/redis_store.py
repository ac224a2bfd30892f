"""Lease and registry in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tts_tasks import keys
from tts_tasks.coordination.base import Lease, WorkerRecord, check_ttl
from tts_tasks.redis_connection import RedisClient, Scripts, connect, unavailable_is_clear

if TYPE_CHECKING:
    from collections.abc import Mapping


class RedisCoordinator:
    """`Coordinator` on one Redis. ``timeout_s`` bounds every request: none is tried twice."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url
        self._client: RedisClient = connect(url, timeout_s=timeout_s, retries=0)
        self._presence = connect(url, timeout_s=timeout_s, retries=0)
        self._scripts = Scripts(self._client, "tts_tasks.coordination")

    def acquire(self, lane_key: str, holder: str, ttl_s: float) -> Lease | None:
        """Take a free lane (``SET NX PX`` and a new epoch in one script)."""
        ttl_ms = check_ttl(ttl_s)
        with unavailable_is_clear(self._url):
            took, record = self._scripts.run(
                "acquire", [keys.lease(lane_key), keys.epoch(lane_key)], [holder, ttl_ms]
            )
        return Lease.parse(record) if took else None

    def renew(self, lane_key: str, lease: Lease, ttl_s: float) -> bool:
        """Prolong exactly this lease."""
        ttl_ms = check_ttl(ttl_s)
        with unavailable_is_clear(self._url):
            return bool(self._scripts.run("renew", [keys.lease(lane_key)], [str(lease), ttl_ms]))

    def remove(self, lane_key: str, lease: Lease) -> bool:
        """Remove exactly this lease."""
        with unavailable_is_clear(self._url):
            return bool(self._scripts.run("remove", [keys.lease(lane_key)], [str(lease)]))

    def read(self, lane_key: str) -> Lease | None:
        """Return the lease as it stands."""
        with unavailable_is_clear(self._url):
            record = self._client.get(keys.lease(lane_key))
        return Lease.parse(str(record)) if record else None

    def beat(self, record: WorkerRecord, ttl_s: float) -> None:
        """Register a worker, or renew its record."""
        with unavailable_is_clear(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.sadd(keys.WORKERS, record.id)
            pipe.set(keys.worker(record.id), record.to_json(), px=check_ttl(ttl_s))
            pipe.execute()

    def workers(self) -> dict[str, WorkerRecord | None]:
        """Return every registered worker; None for one whose record has expired."""
        with unavailable_is_clear(self._url):
            ids = sorted(self._client.smembers(keys.WORKERS))
            pipe = self._client.pipeline(transaction=False)
            for worker_id in ids:
                pipe.get(keys.worker(worker_id))
            records = pipe.execute()
        return {
            worker_id: WorkerRecord.from_json(record) if record else None
            for worker_id, record in zip(ids, records, strict=True)
        }

    def forget(self, worker_id: str) -> None:
        """Strike a worker off the registry."""
        with unavailable_is_clear(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.srem(keys.WORKERS, worker_id)
            pipe.delete(keys.worker(worker_id), keys.claims(worker_id))
            pipe.execute()

    def presence(self) -> str:
        """Return the id of this process's presence connection, opened anew if it was closed.

        One client that one thread uses keeps one connection; nothing else is sent over it.
        """
        with unavailable_is_clear(self._url):
            return str(self._presence.client_id())

    def absent(self, workers: Mapping[str, WorkerRecord | None]) -> set[str]:
        """Return those whose presence connection is closed."""
        told = {id_: record.presence for id_, record in workers.items() if record}
        expected = {id_: int(presence) for id_, presence in told.items() if presence}
        if not expected:
            return set()
        with unavailable_is_clear(self._url):
            open_now = {
                int(c["id"]) for c in self._client.client_list(client_id=[*expected.values()])
            }
        return {id_ for id_, presence in expected.items() if presence not in open_now}
