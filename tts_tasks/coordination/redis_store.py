"""Lease and registry in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tts_tasks import keys
from tts_tasks.coordination.base import (
    DRAINED_KEPT_S,
    EpochFloor,
    Lease,
    Orders,
    WorkerRecord,
    check_ttl,
)
from tts_tasks.coordination.redis_presence import Presence, server_run
from tts_tasks.errors import EpochsUnknownError
from tts_tasks.redis_connection import (
    RedisClient,
    Scripts,
    connect,
    server_of,
    unavailable_is_clear,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class RedisCoordinator:
    """`Coordinator` on one Redis. ``timeout_s`` bounds every request: none is tried twice."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._client: RedisClient = connect(url, timeout_s=timeout_s, retries=0)
        self._presence: Presence | None = None
        self._scripts = Scripts(self._client, "tts_tasks.coordination")

    # -- the lease --------------------------------------------------------------------------

    def acquire(self, lane_key: str, holder: str, ttl_s: float, floor: EpochFloor) -> Lease | None:
        """Take a free lane (``SET NX PX`` and a new epoch in one script)."""
        ttl_ms = check_ttl(ttl_s)
        lane = [keys.lease(lane_key), keys.epoch(lane_key), keys.successor(lane_key)]
        with unavailable_is_clear(self._url):
            args = [holder, ttl_ms, floor.epoch, int(floor.complete)]
            outcome, *record = self._scripts.run("acquire", lane, args)
        if outcome == "uncounted":
            raise EpochsUnknownError(lane_key)
        return Lease.parse(record[0]) if outcome == "taken" else None

    def renew(self, lane_key: str, lease: Lease, ttl_s: float) -> bool:
        """Prolong exactly this lease."""
        ttl_ms = check_ttl(ttl_s)
        with unavailable_is_clear(self._url):
            return bool(self._scripts.run("renew", [keys.lease(lane_key)], [str(lease), ttl_ms]))

    def remove(self, lane_key: str, lease: Lease) -> bool:
        """Remove exactly this lease."""
        lane = [keys.lease(lane_key), keys.bell(lane_key)]
        with unavailable_is_clear(self._url):
            return bool(self._scripts.run("remove", lane, [str(lease)]))

    def read(self, lane_key: str) -> Lease | None:
        """Return the lease as it stands."""
        with unavailable_is_clear(self._url):
            record = self._client.get(keys.lease(lane_key))
        return Lease.parse(str(record)) if record else None

    # -- orders -----------------------------------------------------------------------------

    def orders(self, lane_key: str, worker_id: str) -> Orders:
        """Return what is ordered for a lane and one of its workers."""
        with unavailable_is_clear(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.get(keys.successor(lane_key))
            pipe.exists(keys.drained(worker_id))
            successor, drained = pipe.execute()
        return Orders(successor or "", bool(drained))

    def reserve(self, lane_key: str, successor: str, ttl_s: float) -> None:
        """Order a switchover."""
        with unavailable_is_clear(self._url):
            self._client.set(keys.successor(lane_key), successor, px=check_ttl(ttl_s))
            self._ring(lane_key)

    def drain(self, lane_key: str, worker_id: str, reason: str) -> None:
        """Order that a worker takes no new work."""
        with unavailable_is_clear(self._url):
            self._client.set(keys.drained(worker_id), reason, ex=DRAINED_KEPT_S)
            self._ring(lane_key)

    def undrain(self, lane_key: str, worker_id: str) -> bool:
        """Take that order back."""
        with unavailable_is_clear(self._url):
            was_ordered = bool(self._client.delete(keys.drained(worker_id)))
            self._ring(lane_key)
        return was_ordered

    def _ring(self, lane_key: str) -> None:
        self._client.xadd(keys.bell(lane_key), {"ordered": ""}, maxlen=1, approximate=False)

    # -- the registry -----------------------------------------------------------------------

    def beat(self, record: WorkerRecord, ttl_s: float) -> None:
        """Register a worker, or renew its record."""
        with unavailable_is_clear(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.sadd(keys.WORKERS, record.id)
            pipe.set(keys.worker(record.id), record.to_json(), px=check_ttl(ttl_s))
            pipe.expire(keys.drained(record.id), DRAINED_KEPT_S)
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

    def forget(self, worker_id: str) -> bool:
        """Strike a worker off the registry; False if it was not registered."""
        with unavailable_is_clear(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.srem(keys.WORKERS, worker_id)
            pipe.delete(keys.worker(worker_id))
            pipe.delete(keys.claims(worker_id))
            return bool(pipe.execute()[0])

    # -- presence ---------------------------------------------------------------------------

    def listen(self, lane_key: str, on_news: Callable[[], None]) -> None:
        """Be present from now on, and hear of what is done to the lane."""
        bell = keys.bell(lane_key)
        client = connect(self._url, timeout_s=self._timeout_s, retries=0, node_of=bell)
        self._presence = Presence(client, bell, on_news, timeout_s=self._timeout_s)
        self._presence.start()

    def presence(self) -> str:
        """Return the id of this process's presence connection; empty while there is none."""
        return self._presence.id if self._presence else ""

    def close(self) -> None:
        """Be present no longer."""
        if self._presence is not None:
            self._presence.close()

    def absent(self, workers: Mapping[str, WorkerRecord | None]) -> set[str]:
        """Return those whose presence connection is closed.

        Of a connection to a server that has been started again since, or succeeded by another,
        nothing is known: that worker is on its way.
        """
        absent: set[str] = set()
        with unavailable_is_clear(self._url):
            for server, expected in self._by_server(workers):
                ids = [connection for _, connection in expected.values()]
                open_now = {int(c["id"]) for c in self._client.client_list(client_id=ids, **server)}
                closed = {
                    id_: run
                    for id_, (run, connection) in expected.items()
                    if connection not in open_now
                }
                if closed:
                    run_now = server_run(self._client, **server)
                    absent |= {id_ for id_, run in closed.items() if run == run_now}
        return absent

    def _by_server(
        self, workers: Mapping[str, WorkerRecord | None]
    ) -> list[tuple[dict[str, Any], dict[str, tuple[str, int]]]]:
        """Return the workers' connections by where they are: the server of their lane's bell."""
        found: dict[str, tuple[dict[str, Any], dict[str, tuple[str, int]]]] = {}
        for id_, record in workers.items():
            if record is not None and record.presence:
                server = server_of(self._client, keys.bell(record.lane_key))
                _, expected = found.setdefault(str(server), (server, {}))
                run, _, connection = record.presence.partition("/")
                expected[id_] = (run, int(connection))
        return [*found.values()]
