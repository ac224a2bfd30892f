"""The queue in memory: what Redis does for Celery, in the steps in which it does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.worker import Message

if TYPE_CHECKING:
    from tests.simulation.world import World


class Broker:
    """Messages that wait, and messages that were taken and are not acknowledged."""

    def __init__(self, world: World) -> None:
        self._world = world

    def ring(self, queue: str, task_ids: list[str], rung_ms: float) -> None:
        self._world.store.queues[queue] += [(task_id, rung_ms) for task_id in task_ids]
        self._world.queue_changed()

    def waiting(self, queue: str) -> int:
        return len(self._world.store.queues[queue])

    def pop(self, queue: str) -> Message | None:
        waiting = self._world.store.queues[queue]
        if not waiting:
            return None
        task_id, rung_ms = waiting.pop(0)
        return Message(self._world.next_number(), queue, task_id, rung_ms)

    def note(self, worker: str, message: Message) -> None:
        self._world.unacked[worker][message.tag] = message

    def acknowledge(self, worker: str, tag: int) -> None:
        self._world.unacked[worker].pop(tag, None)

    def restore(self, worker: str, tag: int) -> Message | None:
        """Put a message back to the head of its queue (in a transaction, as kombu does)."""
        message = self._world.unacked[worker].pop(tag, None)
        if message is not None:
            waiting = self._world.store.queues[message.queue]
            waiting.insert(0, (message.task_id, message.rung_ms))
            self._world.queue_changed()
        return message
