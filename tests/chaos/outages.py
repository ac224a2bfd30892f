"""Faults of what the workers share: the network to Redis, Redis itself, the storage."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, ClassVar

import redis

from tests.chaos.faults import LONG_S, Fault, NotNowError
from tests.chaos.network import Cut

if TYPE_CHECKING:
    from tests.chaos.faults import Scene

_CLOCK_STEP_MS = 20_000
_HOUR_MS = 3_600_000


class _Partition(Fault):
    how: ClassVar[Cut]
    hold_s = LONG_S
    effects: ClassVar[tuple[str, ...]] = ("cut",)

    def begin(self, scene: Scene) -> dict[str, Any]:
        scene.acts()
        return {"means": scene.world.network.cut(scene.worker.name, self.how)}

    def end(self, scene: Scene) -> dict[str, Any]:
        scene.world.network.heal(scene.worker.name)
        return {}


class PartitionToStore(_Partition):
    """Nothing from one worker reaches Redis."""

    name, how = "partition-to-store", Cut.TO_STORE


class PartitionFromStore(_Partition):
    """Nothing from Redis reaches one worker: what it orders is done, and it never hears so."""

    name, how = "partition-from-store", Cut.FROM_STORE


class PartitionBoth(_Partition):
    """Nothing passes between one worker and Redis, while it speaks."""

    name, how = "partition-both", Cut.BOTH
    effects = ("cut", "stale")

    def begin(self, scene: Scene) -> dict[str, Any]:
        job = scene.catch_speaking(near_the_end=True)
        return {"job": job, **super().begin(scene)}


class PartitionRefused(_Partition):
    """Every packet between one worker and Redis is answered with RST."""

    name, how = "partition-refused", Cut.REFUSED


class HalfOpen(Fault):
    """A worker's connections fall silent, both ways, and stay open; new ones pass."""

    name, hold_s, effects = "half-open", (5.0, 7.0), ("connections-lost",)

    def begin(self, scene: Scene) -> dict[str, Any]:
        return {"means": scene.world.network.half_open(scene.worker.name)}

    def end(self, scene: Scene) -> dict[str, Any]:
        scene.world.network.heal(scene.worker.name)
        return {}


class Reset(Fault):
    """CLIENT KILL of every connection that a worker has."""

    name, hold_s, effects = "reset", (1.5, 2.0), ("connections-lost",)

    def begin(self, scene: Scene) -> dict[str, Any]:
        network, name = scene.world.network, scene.worker.name
        ids = [c["id"] for c in scene.redis.client_list() if network.owns(name, c["addr"])]
        for client_id in ids:
            scene.redis.client_kill_filter(_id=client_id)
        return {"connections": len(ids)}


class PauseStore(Fault):
    """Redis is stopped for longer than the lease lives, and goes on."""

    name, hold_s, of_store, effects = "redis-paused", LONG_S, True, ("store-away",)

    def begin(self, scene: Scene) -> dict[str, Any]:
        scene.world.signal_store(signal.SIGSTOP)
        return {}

    def end(self, scene: Scene) -> dict[str, Any]:
        scene.world.signal_store(signal.SIGCONT)
        return {}


class KillStore(Fault):
    """Redis is killed with -9 and started again on its append-only file."""

    name, hold_s, of_store, effects = "redis-killed", (0.5, 4.0), True, ("store-away",)

    def begin(self, scene: Scene) -> dict[str, Any]:
        scene.world.signal_store(signal.SIGKILL)
        return {}

    def end(self, scene: Scene) -> dict[str, Any]:
        scene.world.restart_store()
        return {}


class _ClockStep(Fault):
    """Redis's clock steps.

    A Redis cannot be given a clock of its own here (libfaketime breaks it): instead the time to
    live of every key of the coordination is moved, which is all that its clock decides for us.
    """

    of_store = True
    step_ms: ClassVar[int]  #: what is added to each time to live

    def begin(self, scene: Scene) -> dict[str, Any]:
        patterns = ("tts:*:lease", "tts:*:successor", "tts:worker:*")
        found = [key for pattern in patterns for key in scene.redis.scan_iter(pattern)]
        moved = 0
        for key in found:
            if (left_ms := scene.redis.pttl(key)) > 0:
                moved += scene.redis.pexpire(key, max(1, left_ms + self.step_ms))
        return {"means": f"PEXPIRE by {self.step_ms:+d} ms", "keys": moved}


class ClockForward(_ClockStep):
    """Redis's clock jumps 20 s forward: leases end at once."""

    name, hold_s, step_ms, effects = "clock-forward", (2.0, 3.0), -_CLOCK_STEP_MS, ("ttl-moved",)


class ClockBack(_ClockStep):
    """Redis's clock jumps an hour back, and the primary dies: its lease would live for an hour."""

    name, hold_s, step_ms = "clock-back", (1.0, 2.0), _HOUR_MS
    effects = ("ttl-moved", "killed-parent", "killed-child")

    def begin(self, scene: Scene) -> dict[str, Any]:
        scene.victim = scene.world.primary()
        if scene.victim is None:
            raise NotNowError("there is no primary")
        scene.victim.signal(signal.SIGSTOP, parent=True, child=False)  # it renews no more
        try:
            told = super().begin(scene)
        except redis.RedisError:
            scene.victim.signal(signal.SIGCONT, parent=True, child=False)
            raise
        scene.victim.doomed = True
        scene.victim.kill_group()
        scene.world.note_end(scene.victim, f"SIGKILL by {self.name}")
        return told

    def end(self, scene: Scene) -> dict[str, Any]:
        scene.world.start_worker(scene.worker.name)
        return {}


class DiskFull(Fault):
    """No write to the storage succeeds."""

    name, hold_s, of_store, effects = "disk-full", (1.5, 3.0), True, ("disk-full",)

    def begin(self, scene: Scene) -> dict[str, Any]:
        scene.world.room.fill()
        scene.load.submit_burst()  # or nobody might have anything to publish just then
        return {"means": scene.world.room.means}

    def end(self, scene: Scene) -> dict[str, Any]:
        scene.world.room.free()
        return {}
