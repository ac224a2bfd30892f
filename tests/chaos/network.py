"""The way of each worker to Redis, and what can be done to it.

`open_network` chooses: network namespaces where this process may make them, else one TCP proxy a
worker on loopback.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class NetworkError(Exception):
    """This network cannot be made here; the text says why."""


class Cut(StrEnum):
    """How a worker is parted from Redis."""

    TO_STORE = "to-store"  #: what the worker sends is dropped
    FROM_STORE = "from-store"  #: what Redis sends is dropped
    BOTH = "both"
    REFUSED = "refused"  #: every packet is answered with RST


class Network(Protocol):
    """One path a worker. Names are those of `tests.chaos.world`: ``w1``, ``w2`` ..."""

    name: str

    def expose(self, redis_url: str) -> None:
        """Make Redis reachable over these paths; again after each restart of Redis."""
        ...

    def url(self, worker: str) -> str:
        """Return the URL under which this worker finds Redis."""
        ...

    def command(self, worker: str) -> list[str]:
        """Return what a worker's command line begins with."""
        ...

    def cut(self, worker: str, how: Cut) -> str:
        """Part a worker from Redis; returns by what means."""
        ...

    def half_open(self, worker: str) -> str:
        """Silence the connections that a worker has, both ways; new ones pass."""
        ...

    def heal(self, worker: str) -> None:
        """Undo cuts and silences."""
        ...

    def owns(self, worker: str, address: str) -> bool:
        """Whether a client's address, as Redis sees it, is one of this worker's connections."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


def open_network(kind: str, workers: Sequence[str]) -> Network:
    """Make the paths of these workers; ``kind``: ``auto``, ``netns`` or ``proxy``.

    Raises `NetworkError` if ``netns`` was asked for and cannot be had.
    """
    from tests.chaos.namespaces import NamespaceNetwork
    from tests.chaos.proxies import ProxyNetwork

    if kind in {"auto", "netns"}:
        try:
            return NamespaceNetwork(workers)
        except NetworkError:
            if kind == "netns":
                raise
    return ProxyNetwork(workers)
