"""One run: control phase, faults, healing, the wait for every outcome, the last look."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis

from tests.chaos.artifacts import ArtifactWatch
from tests.chaos.faults import NotNowError, Scene
from tests.chaos.load import Load
from tests.chaos.outcomes import Outcomes
from tests.chaos.schedule import KINDS, steps
from tests.chaos.world import wait_for
from tts_tasks.errors import TTSError
from tts_tasks.redis_connection import connect
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.faults import Fault
    from tests.chaos.recorder import Recorder
    from tests.chaos.schedule import Step
    from tests.chaos.world import World

CONTROL_S = 20.0
_HEALTHY_WITHIN_S = 30.0
_LOAD_ENDS_WITHIN_S = 60.0
#: How often a fault of the first round that cannot be begun is tried.
_TRIES = 4
_POLL_S = 0.05
#: Settings that the checker reckons with.
_TIMES = (
    "heartbeat_s",
    "missed_heartbeats",
    "renew_deadline_s",
    "lease_ttl_s",
    "request_timeout_s",
)


@dataclass
class _Held:
    """A fault that has begun and not ended."""

    number: int
    fault: Fault
    scene: Scene
    until_s: float


class Campaign:
    """Carries a schedule out on a world. Runs in the main thread."""

    def __init__(self, world: World, recorder: Recorder, *, seed: int, minutes: float) -> None:
        self._world = world
        self._recorder = recorder
        self._seed = seed
        self._minutes = minutes
        self._rng = random.Random(f"{seed} victims")
        self._held: list[_Held] = []
        self._begun = 0
        self._load = Load(recorder, seed=seed)

    def run(self, kinds: Sequence[type[Fault]] = KINDS) -> None:
        """Run it all; the history is complete when this returns."""
        began_s = time.monotonic()
        self._world.start()
        settings = get_settings()
        times = {name: getattr(settings, name) for name in _TIMES}
        facts: dict[str, Any] = {"kinds": [kind.name for kind in kinds]}
        facts |= {"network": self._world.network.name, "storage": self._world.room.means}
        self._recorder.record("run", seed=self._seed, minutes=self._minutes, **facts, **times)
        artifacts = ArtifactWatch(self._world.room.storage)
        self._recorder.watch(self._world.store.url, settings.lane_key, artifacts)
        self._world.start_workers()
        self._lane_key = settings.lane_key
        self._redis = connect(self._world.store.url, timeout_s=2.0, retries=1)
        self._load.start()
        self._phase("control")
        self._pass(CONTROL_S)
        self._phase("faults")
        self._faults(kinds, until_s=began_s + self._minutes * 60)
        self._phase("healing")
        self._load.stop(within_s=_LOAD_ENDS_WITHIN_S)
        outcomes = Outcomes(self._recorder, self._world.store.url)
        # a worker that is paused no more and one that starts must be seen to be well again, too
        healthy = wait_for(self._supervised_health, within_s=_HEALTHY_WITHIN_S)
        self._recorder.record("health", healthy=bool(healthy))
        outcomes.wait(self._world.restart_the_ended)
        self._phase("end")
        self._recorder.stop()
        outcomes.write()
        for found in artifacts.look_at_all():
            self._recorder.record(**found)
        self._recorder.record("leftovers", temporary_files=artifacts.leftovers())

    def _phase(self, name: str) -> None:
        self._recorder.record("phase", phase=name)

    def _faults(self, kinds: Sequence[type[Fault]], *, until_s: float) -> None:
        """Carry the schedule out; the first round is completed, however long it takes."""
        for step in steps(self._seed, kinds):
            if step.round > 0 and time.monotonic() >= until_s:
                break
            tries = _TRIES if step.round == 0 else 1
            while tries and not self._try(step):
                tries -= 1
        while self._held:
            self._tend()

    def _try(self, step: Step) -> bool:
        if not step.may_overlap:
            while self._held:
                self._tend()
        self._pass(step.gap_s)
        if not step.may_overlap:
            wait_for(self._supervised_health, within_s=_HEALTHY_WITHIN_S)
        return self._begin(step)

    def _supervised_health(self) -> bool:
        self._tend(nap_s=0)
        return self._world.is_healthy()

    def _pass(self, duration_s: float) -> None:
        until_s = time.monotonic() + duration_s
        while time.monotonic() < until_s:
            self._tend()

    def _tend(self, nap_s: float = _POLL_S) -> None:
        """End the faults that are due, start workers that ended by themselves, wait a moment."""
        for held in [h for h in self._held if time.monotonic() >= h.until_s]:
            self._end(held)
        self._world.restart_the_ended()
        time.sleep(nap_s)

    def _begin(self, step: Step) -> bool:
        fault = step.kind()
        if fault.of_store and any(held.fault.of_store for held in self._held):
            return False
        scene = Scene(self._world, self._load, self._redis, self._lane_key)
        if not fault.of_store:
            scene.victim = self._victim(on_primary=step.on_primary)
        scene.acts()
        try:
            told = fault.begin(scene)
        except (NotNowError, redis.RedisError, TTSError) as error:
            self._recorder.record("not_now", fault=fault.name, why=str(error))
            return False
        self._begun += 1
        victim = scene.victim
        if victim is not None:
            victim.hurt = True
        self._recorder.record(
            "fault",
            at_s=scene.acted_s,
            phase="begin",
            number=self._begun,
            fault=fault.name,
            effects=list(fault.effects),
            node=victim.node if victim else None,
            **told,
        )
        until_s = time.monotonic() + step.hold_s
        self._held.append(_Held(self._begun, fault, scene, until_s))
        return True

    def _end(self, held: _Held) -> None:
        self._held.remove(held)
        told: dict[str, Any] = held.fault.end(held.scene)
        if held.scene.victim is not None:
            held.scene.victim.hurt = False
        self._recorder.record(
            "fault", phase="end", number=held.number, fault=held.fault.name, **told
        )

    def _victim(self, *, on_primary: bool) -> Any:
        """Return the primary or one of the others that no fault has in hand; None without one."""
        free = [w for w in self._world.workers.values() if w.alive and not w.hurt and not w.doomed]
        primary = self._world.primary()
        if on_primary and primary in free:
            return primary
        others = [worker for worker in free if worker is not primary] or free
        return self._rng.choice(others) if others else None
