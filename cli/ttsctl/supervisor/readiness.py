"""Whether the workers of an `up` take part in the cluster and have spoken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis

from tts_tasks.errors import TTSError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tts_tasks.settings import Settings


def workers_are_ready(settings: Settings, pid_of_node: Mapping[str, int]) -> bool:
    """Say whether the cluster counts each of these workers, under its pid, as ready.

    A store that does not answer, or not yet, is "no".
    """
    from tts_tasks.cluster import cluster_status

    try:
        workers = cluster_status(settings=settings)["workers"]
    except (TTSError, redis.RedisError):
        return False
    ready = {(str(w["id"]).partition("/")[0], w["pid"]) for w in workers if w["ready"]}
    return all(pair in ready for pair in pid_of_node.items())
