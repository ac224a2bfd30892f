"""Requirements → pool → lane → queue.

The one place that knows how queues are named. One pool and one lane unless configured otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tts_tasks.settings import Settings

QUEUE_PREFIX = "tts"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a pool's work is rung."""

    pool: str
    lane: str

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
