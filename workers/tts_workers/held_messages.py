"""The messages that a worker has taken and not acknowledged, as they stand in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def held_by(channel: Any, client: Any) -> dict[str, Any]:
    """Return what stands under the name of a channel's worker: tag → message, the oldest first."""
    held = client.hgetall(channel.unacked_key)
    return {tag.decode() if isinstance(tag, bytes) else tag: held[tag] for tag in held}


def put_back(channel: Any, client: Any, tags: Sequence[str]) -> None:
    """Put messages, the oldest first, back to the heads of their queues."""
    # newest first: each goes to the very head, so the oldest ends up in front
    for tag in reversed(tags):
        channel.qos.restore_by_tag(tag, client=client)
