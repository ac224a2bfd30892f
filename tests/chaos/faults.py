"""Faults of processes. What a fault does to the world is recorded as ``effects``.

A fault begins, is held for a while, and ends. `begin` returns what is recorded with it; a fault
that cannot be begun now raises `NotNowError`. What each effect excuses is said in
`tests.chaos.beliefs`.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tests.chaos.load import UNKNOWN
from tests.chaos.world import wait_for
from tts_tasks import keys

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.load import Load
    from tests.chaos.world import WorkerProcess, World
    from tts_tasks.redis_connection import RedisClient

#: SIGSTOP for less than, and for more than three heartbeats of 1 s.
SHORT_S = (1.0, 1.8)
LONG_S = (4.5, 6.0)
_CATCH_WITHIN_S = 12.0


def changed_ns(folder: Path) -> int:
    """Return when something was created in a folder; 0 before it exists."""
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


class NotNowError(Exception):
    """The fault cannot be begun in this moment."""


@dataclass
class Scene:
    """Where a fault happens."""

    world: World
    load: Load
    redis: RedisClient  #: straight to Redis, past the workers' paths
    lane_key: str
    victim: WorkerProcess | None = None  #: None for faults of the store
    acted_s: float = 0.0  #: when the fault began, after it was prepared

    def acts(self) -> None:
        """Note that the fault is about to begin: what comes before was its preparation."""
        self.acted_s = self.world.now_s

    @property
    def worker(self) -> WorkerProcess:
        """The victim of a fault of a worker."""
        if self.victim is None:
            raise NotNowError("there is no worker to hurt")
        return self.victim

    def catch_speaking(self, *, near_the_end: bool = False) -> str:
        """Give the primary a long job and wait until it speaks; it becomes the victim.

        ``near_the_end``: with one or two segments to go, so that it would end the job before a
        successor could. Returns the job's id.
        """
        try:
            job = self.load.submit_long()
        except UNKNOWN as error:
            raise NotNowError(f"the long job was not accepted: {error}") from error
        holder = wait_for(lambda: self._speaker(job), within_s=_CATCH_WITHIN_S)
        speaker = self.world.by_id(holder) if holder else None
        if speaker is None or speaker.hurt:
            raise NotNowError(f"nobody speaks {job}, or somebody who is hurt already")
        self.victim = speaker
        if near_the_end:
            wait_for(lambda: self._is_near_the_end(job), within_s=_CATCH_WITHIN_S, every_s=0.01)
        return job

    def catch_publishing(self, *, reserved: bool) -> str:
        """Wait, after `catch_speaking`, for the moment of publishing.

        ``reserved``: when the artifact's name has just been reserved, else when the artifact has
        just appeared. What follows each takes a millisecond, and is not always caught.
        """
        job = self.catch_speaking(near_the_end=True)
        room = self.world.room
        folders = [room.reservations] if reserved else [room.reservations, room.storage]
        until_s = self.world.now_s + _CATCH_WITHIN_S
        for folder in folders:
            before_ns = changed_ns(folder)
            while changed_ns(folder) == before_ns:
                if self.world.now_s > until_s:
                    raise NotNowError(f"{job} is not published")
        return job

    def _is_near_the_end(self, job: str) -> bool:
        state, done, all_ = self.redis.hmget(keys.job(job), "state", "segments_done", "segments")
        return state != "running" or int(done or 0) >= int(all_ or 99) - 2

    def _speaker(self, job: str) -> str | None:
        state, worker = self.redis.hmget(keys.job(job), "state", "worker")
        return worker if state == "running" else None


class Fault:
    """One kind of fault; one object an occurrence.

    `begin` and `end` may take their time; what `begin` prepares, it does before `Scene.acts`.
    """

    name: ClassVar[str]
    hold_s: ClassVar[tuple[float, float]] = (0.0, 0.0)
    of_store: ClassVar[bool] = False  #: hurts Redis or the storage, not one worker
    effects: ClassVar[tuple[str, ...]] = ()

    def begin(self, scene: Scene) -> dict[str, Any]:
        """Do it; returns what is recorded."""
        raise NotImplementedError

    def end(self, scene: Scene) -> dict[str, Any]:
        """Undo it; returns what is recorded."""
        return {}


class _Kill(Fault):
    hold_s = (0.5, 2.0)
    effects = ("killed-parent", "killed-child")

    def kill(self, worker: WorkerProcess) -> None:
        """Kill what this fault kills."""
        raise NotImplementedError

    def begin(self, scene: Scene) -> dict[str, Any]:
        worker = scene.worker
        worker.doomed = True
        self.kill(worker)
        scene.world.note_end(worker, f"SIGKILL by {self.name}")
        return {}

    def end(self, scene: Scene) -> dict[str, Any]:
        scene.world.start_worker(scene.worker.name)
        return {}


class KillParent(_Kill):
    """Kill -9 of the parent; Celery ends the child with it."""

    name = "kill-parent"

    def kill(self, worker: WorkerProcess) -> None:
        worker.signal(signal.SIGKILL, parent=True, child=False)


class KillGroup(_Kill):
    """Kill -9 of all of a worker's processes at once."""

    name = "kill-group"

    def kill(self, worker: WorkerProcess) -> None:
        worker.kill_group()


class KillChild(Fault):
    """Kill -9 of the process that speaks; Celery starts another."""

    name = "kill-child"
    hold_s = (0.5, 1.0)
    effects = ("killed-child",)

    def begin(self, scene: Scene) -> dict[str, Any]:
        if not scene.worker.signal(signal.SIGKILL, parent=False, child=True):
            raise NotNowError("it has no child")
        return {}


class Terminate(Fault):
    """SIGTERM, and a restart when it has ended."""

    name = "terminate"
    hold_s = (2.0, 3.0)
    effects = ("terminated",)

    def begin(self, scene: Scene) -> dict[str, Any]:
        scene.worker.doomed = True
        scene.worker.signal(signal.SIGTERM, parent=True, child=False)
        return {}

    def end(self, scene: Scene) -> dict[str, Any]:
        scene.world.note_end(scene.worker, "SIGTERM")
        scene.world.start_worker(scene.worker.name)
        return {}


class KillAtPublish(_Kill):
    """Kill -9 of all of a worker's processes when an artifact of theirs has just appeared."""

    name = "kill-at-publish"

    def begin(self, scene: Scene) -> dict[str, Any]:
        job = scene.catch_publishing(reserved=False)
        scene.acts()
        return {"job": job, **super().begin(scene)}

    def kill(self, worker: WorkerProcess) -> None:
        worker.kill_group()


class _Pause(Fault):
    parent: ClassVar[bool] = True
    child: ClassVar[bool] = True

    def catch(self, scene: Scene) -> dict[str, Any]:
        """Wait for the right moment; returns what is recorded."""
        return {}

    def begin(self, scene: Scene) -> dict[str, Any]:
        told = self.catch(scene)
        scene.acts()
        told["pids"] = scene.worker.signal(signal.SIGSTOP, parent=self.parent, child=self.child)
        if not told["pids"]:
            raise NotNowError("nothing to pause")
        return told

    def end(self, scene: Scene) -> dict[str, Any]:
        pids = scene.worker.signal(signal.SIGCONT, parent=self.parent, child=self.child)
        return {"pids": pids}


class PauseParentShortly(_Pause):
    """SIGSTOP of the parent for less than three beats."""

    name, hold_s, effects, child = "pause-parent-short", SHORT_S, ("parent-paused",), False


class PauseChildShortly(_Pause):
    """SIGSTOP of the child for less than three beats."""

    name, hold_s, effects, parent = "pause-child-short", SHORT_S, ("child-paused",), False


class PauseBothShortly(_Pause):
    """SIGSTOP of parent and child for less than three beats."""

    name, hold_s, effects = "pause-both-short", SHORT_S, ("parent-paused", "child-paused")


class PauseParentLong(_Pause):
    """SIGSTOP of the parent for more than three beats, while its child speaks on."""

    name, hold_s, effects, child = "pause-parent-long", LONG_S, ("parent-paused", "stale"), False

    def catch(self, scene: Scene) -> dict[str, Any]:
        return {"job": scene.catch_speaking()}


class PauseChildLong(_Pause):
    """SIGSTOP of the child for more than three beats, while it speaks; the parent beats on."""

    name, hold_s, effects, parent = "pause-child-long", LONG_S, ("child-paused",), False

    def catch(self, scene: Scene) -> dict[str, Any]:
        return {"job": scene.catch_speaking()}


class PauseBothLong(_Pause):
    """SIGSTOP of parent and child for more than three beats, near the end of a long job.

    When they wake, they could end it before the successor does.
    """

    name, hold_s = "pause-both-long", LONG_S
    effects = ("parent-paused", "child-paused", "stale")

    def catch(self, scene: Scene) -> dict[str, Any]:
        return {"job": scene.catch_speaking(near_the_end=True)}


class PauseAtPublish(PauseBothLong):
    """The same when the name of an artifact of theirs has just been reserved."""

    name = "pause-at-publish"

    def catch(self, scene: Scene) -> dict[str, Any]:
        return {"job": scene.catch_publishing(reserved=True)}


class Hang(Fault):
    """An engine that never returns from a segment."""

    name, hold_s, effects = "hang", (5.0, 8.0), ("child-hung",)

    def begin(self, scene: Scene) -> dict[str, Any]:
        scene.world.hang_marker.unlink(missing_ok=True)
        try:
            job = scene.load.submit_hang()
        except UNKNOWN as error:
            raise NotNowError(f"the job was not accepted: {error}") from error
        wait_for(scene.world.hang_marker.exists, within_s=_CATCH_WITHIN_S)
        scene.acts()
        return {"job": job, "hung": scene.world.hang_marker.exists()}

    def end(self, scene: Scene) -> dict[str, Any]:
        scene.world.hang_marker.touch()
        return {}
