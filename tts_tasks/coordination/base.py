"""What a coordination store must do, and the values that go in and out of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Lease:
    """A lane's lease as the store holds it: the pair that every fenced effect is checked with."""

    epoch: int
    holder: str

    def __str__(self) -> str:
        return f"{self.epoch}:{self.holder}"

    @classmethod
    def parse(cls, record: str) -> Self:
        """Read ``epoch:holder``; raises ValueError for anything else."""
        epoch, separator, holder = record.partition(":")
        if not separator or not holder:
            raise ValueError(f"{record!r} is not a lease record (epoch:holder)")
        return cls(int(epoch), holder)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """What a worker says of itself with every heartbeat."""

    id: str  #: ``node@host/incarnation``: a restarted worker is another one
    host: str
    pid: int
    pool: str
    lane: str
    beat: int  #: changes with every heartbeat; what the watchdog watches
    ready: bool = False  #: its engine has spoken
    draining: bool = False
    device: str = "cpu"
    engine: str = ""
    fingerprint: str = ""
    capabilities: dict[str, Any] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    job: str = ""  #: what its child works on
    presence: str = ""  #: id of the connection that the kernel closes when the worker dies
    epoch: int = 0  #: the highest epoch of its lane that it has seen
    started_at: str = ""
    fault: str = ""  #: why its device is not to be used
    gpu: dict[str, Any] = field(default_factory=dict)  #: how its GPU is: temperature, memory …

    @property
    def lane_key(self) -> str:
        """``pool.lane``: the name of its lane."""
        return f"{self.pool}.{self.lane}"

    def to_json(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a record; unknown fields of a newer version are ignored."""
        fields = json.loads(text)
        known = {name: value for name, value in fields.items() if name in cls.__slots__}
        known["queues"] = tuple(known.get("queues", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class EpochFloor:
    """What a candidate knows of the epochs that have been used."""

    epoch: int = 0  #: no epoch up to this one may be given out again
    complete: bool = False  #: it knows of every epoch that anything was published under


#: So long after its worker's last heartbeat an order to take no work is kept, in seconds: a worker
#: that was taken for dead may come back, and is still not to serve.
DRAINED_KEPT_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Orders:
    """What operators have ordered."""

    successor: str = ""  #: the only worker that may take the lane next; lapses by itself
    drained: bool = False  #: the worker is to take no new work


class Coordinator(Protocol):
    """Lease and registry in one store. Every call may raise `UnavailableError`."""

    def acquire(self, lane_key: str, holder: str, ttl_s: float, floor: EpochFloor) -> Lease | None:
        """Take a free lane under a new epoch; None if somebody has it or is to have it.

        The epoch is greater than every earlier one that the store knows, and than the ``floor``.
        Raises `EpochsUnknownError` where the store knows of none (a new one, or one that has lost
        its data) and the floor is not known to be complete.
        """
        ...

    def renew(self, lane_key: str, lease: Lease, ttl_s: float) -> bool:
        """Prolong exactly this lease; False if it is no longer there."""
        ...

    def remove(self, lane_key: str, lease: Lease) -> bool:
        """Remove exactly this lease: its holder's release or a watchdog's deposition."""
        ...

    def read(self, lane_key: str) -> Lease | None:
        """Return the lease as it stands."""
        ...

    def orders(self, lane_key: str, worker_id: str) -> Orders:
        """Return what is ordered for a lane and one of its workers."""
        ...

    def reserve(self, lane_key: str, successor: str, ttl_s: float) -> None:
        """Order a switchover: the primary gives way, and for a while only ``successor`` may lead.

        For ``ttl_s`` the primary may still need to learn of it; a successor that dies blocks the
        lane no longer than that.
        """
        ...

    def drain(self, lane_key: str, worker_id: str, reason: str) -> None:
        """Order that a worker takes no new work, until `undrain` or its end.

        It holds also when the worker was taken for dead, forgotten, and comes back.
        """
        ...

    def undrain(self, lane_key: str, worker_id: str) -> bool:
        """Take that order back; False if there was none."""
        ...

    def beat(self, record: WorkerRecord, ttl_s: float) -> None:
        """Register a worker, or renew its record."""
        ...

    def workers(self) -> dict[str, WorkerRecord | None]:
        """Return every registered worker; None for one whose record has expired."""
        ...

    def forget(self, worker_id: str) -> bool:
        """Strike a worker off the registry; False if it was not registered."""
        ...

    def listen(self, lane_key: str, on_news: Callable[[], None]) -> None:
        """Be present from now on, and hear of what is done to the lane.

        ``on_news`` is called, in a thread of the coordinator's own, when a lease of the lane was
        removed, an order was given, or `presence` has changed.
        """
        ...

    def presence(self) -> str:
        """Return the id of this process's presence connection; empty while there is none.

        The kernel closes the connection when the process dies. Performs no I/O.
        """
        ...

    def close(self) -> None:
        """Be present no longer."""
        ...

    def absent(self, workers: Mapping[str, WorkerRecord | None]) -> set[str]:
        """Return those whose presence connection is closed. It may be a mere reconnection."""
        ...


def record_ttl_s(heartbeat_s: float) -> float:
    """Return the TTL of a worker's record: far past the watchdog's verdict, who does not use it."""
    return 60 * heartbeat_s


def check_ttl(ttl_s: float) -> int:
    """Return a TTL in whole milliseconds; raises ValueError for one that would never lapse."""
    ttl_ms = int(ttl_s * 1000)
    if ttl_ms <= 0:
        raise ValueError(f"a lease needs a TTL greater than 0 s, not {ttl_s!r}")
    return ttl_ms
