"""What operators do to a running cluster: move the primary, take workers out of service and back.

Orders are written to the store; the agents obey within milliseconds, as the lane's bell rings.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tts_tasks.cluster import coordinator_of
from tts_tasks.errors import ConflictError, NotFoundError, UnavailableError, WaitTimeoutError
from tts_tasks.events import event_log
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from tts_tasks.coordination import Coordinator, Lease, WorkerRecord
    from tts_tasks.settings import Settings

_POLL_S = 0.01
#: How long only the chosen worker may lead. A primary that is cut off has lost its lease by then.
_RESERVATION_LEASES = 2


def switchover(
    lane: str | None = None,
    *,
    to: str | None = None,
    reason: str,
    timeout_s: float = 10.0,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Move the primary of a lane (``pool.lane``; None: the configured one) to another worker.

    ``to``: a worker's id or an unambiguous beginning of it; None: any ready standby. The old
    primary finishes what it has in hand. Returns ``{"lane", "from", "to", "epoch", "took_s"}``.
    Raises `NotFoundError` for a lane without workers and for an unknown worker, `ConflictError`
    for one that cannot lead now, `UnavailableError` when there is no standby, `WaitTimeoutError`
    when nobody has taken over within ``timeout_s``: then the first ready worker will.
    """
    settings = settings or get_settings()
    lane_key = lane or settings.lane_key
    coordinator = coordinator_of(settings.redis_url)
    members = _members(coordinator, lane_key)
    old = coordinator.read(lane_key)
    successor = _successor(members, old, to, lane_key)
    began_s = time.monotonic()
    event_log(settings).emit(
        "lane.switchover",
        lane=lane_key,
        old=old.holder if old else "",
        new=successor,
        reason=reason,
    )
    coordinator.reserve(lane_key, successor, _RESERVATION_LEASES * settings.lease_ttl_s)
    while time.monotonic() - began_s < timeout_s:
        lease = coordinator.read(lane_key)
        if lease is not None and lease != old and lease.holder == successor:
            return {
                "lane": lane_key,
                "from": old.holder if old else None,
                "to": lease.holder,
                "epoch": lease.epoch,
                "took_s": round(time.monotonic() - began_s, 3),
            }
        time.sleep(_POLL_S)
    raise WaitTimeoutError(
        f"{successor} has not taken lane {lane_key} within {timeout_s:g} s: see `ttsctl status` "
        "and `ttsctl events`"
    )


def drain(worker: str, *, reason: str, settings: Settings | None = None) -> dict[str, Any]:
    """Order that a worker takes no new work; it hands its lane over and ends what it has in hand.

    Returns ``{"worker", "draining", "reason"}``. Raises `NotFoundError` and `ConflictError` like
    `switchover`.
    """
    settings = settings or get_settings()
    coordinator = coordinator_of(settings.redis_url)
    record = _find(_members(coordinator), worker)
    coordinator.drain(record.lane_key, record.id, reason)
    event_log(settings).emit("worker.drained", worker=record.id, reason=reason)
    return {"worker": record.id, "draining": True, "reason": reason}


def undrain(worker: str, *, settings: Settings | None = None) -> dict[str, Any]:
    """Put a drained worker back into service; returns and raises like `drain`."""
    settings = settings or get_settings()
    coordinator = coordinator_of(settings.redis_url)
    record = _find(_members(coordinator), worker)
    if coordinator.undrain(record.lane_key, record.id):
        event_log(settings).emit("worker.undrained", worker=record.id)
    return {"worker": record.id, "draining": False, "reason": ""}


def _members(coordinator: Coordinator, lane_key: str | None = None) -> dict[str, WorkerRecord]:
    members = {
        id_: record
        for id_, record in coordinator.workers().items()
        if record is not None and lane_key in (None, record.lane_key)
    }
    if not members:
        where = f"on lane {lane_key}" if lane_key else "in this cluster"
        raise NotFoundError(f"there is no worker {where}: see `ttsctl status`")
    return members


def _find(members: dict[str, WorkerRecord], given: str) -> WorkerRecord:
    found = [record for id_, record in members.items() if id_ == given or id_.startswith(given)]
    exact = [record for record in found if given in (record.id, record.id.partition("@")[0])]
    found = exact or found
    if not found:
        raise NotFoundError(f"there is no worker {given!r}; there are: {', '.join(members)}")
    if len(found) > 1:
        raise ConflictError(
            f"{given!r} may mean {', '.join(record.id for record in found)}: give more of the id"
        )
    return found[0]


def _successor(
    members: dict[str, WorkerRecord], old: Lease | None, to: str | None, lane_key: str
) -> str:
    if to is not None:
        record = _find(members, to)
        if old is not None and record.id == old.holder:
            raise ConflictError(f"{record.id} is the primary of lane {lane_key} already")
        if not record.ready or record.draining:
            why = "is draining" if record.draining else "is not ready yet"
            raise ConflictError(f"{record.id} {why}: it cannot lead lane {lane_key}")
        return record.id
    for id_, record in sorted(members.items()):
        if record.ready and not record.draining and (old is None or id_ != old.holder):
            return id_
    raise UnavailableError(f"lane {lane_key} has no ready standby: see `ttsctl status`")
