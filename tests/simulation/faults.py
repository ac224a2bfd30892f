"""What goes wrong, when, and to whom: drawn from the seed.

Two kinds: single requests that meet a fate (`fate_of_request`), and events in the life of a
process, the store or the operator (`_strike`). After `STOP_S` nothing more goes wrong, and what
can be healed is healed: then everything that was submitted must come to its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.runtime import Process
    from tests.simulation.worker import Worker
    from tests.simulation.world import World

FIRST_S, STOP_S = 2.0, 16.0
_MEAN_GAP_S = 1.6

_LOSSES = ("request lost", "reply lost", "late")
_FATES = ("paused before", "paused after", "killed before", "killed after", *2 * _LOSSES)
_EVENTS = (
    *3 * ("pause_parent", "pause_child", "pause_worker", "kill_child", "kill_worker"),
    *2 * ("cut", "cut_requests", "cut_replies", "reset", "stop_store", "restart_store"),
    *("clock_forward", "clock_back", "lose_message", "double_message"),
    *("drain", "switchover", "stop_worker"),
)
#: In a forgetful run: counters are lost while an old primary's child still believes in its lease.
_AMNESIA = ("restart_store", "pause_parent", "pause_parent", "cut", "kill_worker")


class Faults:
    """The one source of trouble of a run."""

    def __init__(
        self, world: World, *, calm: bool, forgetful: bool = False, only: tuple[str, ...] = ()
    ) -> None:
        """``only``: these events and no others, and more of them."""
        rng = world.runtime.rng
        self._world = world
        self._runtime = world.runtime
        self._rate = 0.0 if calm else rng.choice((0.0, 0.004, 0.012))
        self._forgets = 0.6 if not calm and rng.random() < 0.25 else 0.0
        self._clock_jumps = not calm and rng.random() < 0.4
        self._gap_s = _MEAN_GAP_S * rng.choice((0.5, 1.0, 2.0))
        self._events = _EVENTS
        if forgetful:
            self._events, self._forgets, self._gap_s = _AMNESIA, 1.0, _MEAN_GAP_S / 2
        if only:
            self._events, self._gap_s = only, _MEAN_GAP_S / 2
        self.active = False
        self.count = 0
        if not calm:
            self._runtime.spawn(self._runtime.world, self._run, name="faults")

    # -- what others ask ------------------------------------------------------------------------

    @property
    def hinders_requests(self) -> bool:
        """Whether single requests meet a fate in this run."""
        return self.active and self._rate > 0

    def fate_of_request(self, process: Process) -> str:
        """Return what happens to a request; mostly nothing. A client does not die of it."""
        rng = self._runtime.rng
        if rng.random() >= self._rate:
            return ""
        self.count += 1
        return rng.choice(_LOSSES if process.name == "client" else _FATES)

    def loses_a_ring(self) -> bool:
        """Whether the ring of somebody who submits a batch is lost."""
        lost = self.active and self._runtime.rng.random() < 0.3
        self.count += lost
        return lost

    def fate_of_speech(self, text: str) -> str:
        """Return what the engine does on a segment: some texts kill it, whoever tries."""
        if "poison" in text:
            return "kills"
        if not self.active or self._runtime.rng.random() > 0.02:
            return ""
        self.count += 1
        return self._runtime.rng.choice(("kills", "fails", "hangs"))

    def pause(self, process: Process, seconds: float | None = None) -> None:
        """Pause a process for a while."""
        if not process.alive:
            return
        if seconds is None:
            rng = self._runtime.rng
            seconds = rng.choice((rng.uniform(0.05, 1.0), rng.uniform(1.0, 4.0), rng.uniform(3, 9)))
        self._world.checker.disturbed(process)
        process.pause()
        self._world.later(seconds, process.resume)

    # -- events ---------------------------------------------------------------------------------

    def _run(self) -> None:
        rng, runtime = self._runtime.rng, self._runtime
        runtime.sleep(FIRST_S)
        self.active = True
        while True:
            gap_s = rng.expovariate(1 / self._gap_s)
            if runtime.now_s + gap_s >= self._world.started_s + STOP_S:
                break
            runtime.sleep(gap_s)
            name = rng.choice(self._events)
            if name.startswith("clock") and not self._clock_jumps:
                continue
            self.count += 1
            runtime.log("faults", name)
            getattr(self, f"_{name}")()
        runtime.sleep(max(0.0, self._world.started_s + STOP_S - runtime.now_s))
        self._heal()

    def _heal(self) -> None:
        self.active = False
        self._runtime.log("faults", "end")
        for worker in self._world.workers:
            worker.reach.requests = worker.reach.replies = True
        self._world.undrain_all()
        self._world.fill_up()

    def _worker(self) -> Worker | None:
        alive = [worker for worker in self._world.workers if worker.process.alive]
        if not alive:
            return None
        primary = self._world.primary()
        if primary is not None and self._runtime.rng.random() < 0.6:
            return primary
        return self._runtime.rng.choice(alive)

    def _pause_parent(self) -> None:
        if worker := self._worker():
            self.pause(worker.process)

    def _pause_child(self) -> None:
        if (worker := self._worker()) and worker.child:
            self.pause(worker.child.process)

    def _pause_worker(self) -> None:
        if worker := self._worker():
            seconds = self._runtime.rng.uniform(0.2, 8.0)
            self.pause(worker.process, seconds)
            if worker.child:
                self.pause(worker.child.process, seconds)

    def _kill_child(self) -> None:
        if (worker := self._worker()) and worker.child:
            worker.child.process.kill()

    def _kill_worker(self) -> None:
        if worker := self._worker():
            worker.process.kill()
            self._world.start_again(worker)

    def _stop_worker(self) -> None:
        if (worker := self._worker()) and not worker.leaving:
            worker.stop()
            self._world.start_again(worker, after_s=3.0)

    def _cut(self) -> None:
        self._cut_off(requests=False, replies=False)

    def _cut_requests(self) -> None:
        self._cut_off(requests=False, replies=True)

    def _cut_replies(self) -> None:
        self._cut_off(requests=True, replies=False)

    def _cut_off(self, *, requests: bool, replies: bool) -> None:
        if worker := self._worker():
            reach = worker.reach
            reach.requests, reach.replies = requests, replies
            self._world.checker.disturbed(worker.process)

            def heal() -> None:
                reach.requests = reach.replies = True
                self._world.checker.disturbed(worker.process)

            self._world.later(self._runtime.rng.uniform(0.1, 7.0), heal)

    def _reset(self) -> None:
        if worker := self._worker():
            self._world.checker.disturbed(worker.process)
            self._world.connection_of_process_closed(worker.process)

    def _stop_store(self) -> None:
        until_s = self._runtime.now_s + self._runtime.rng.uniform(0.05, 5.0)
        self._world.checker.disturbed(None)
        self._world.store_paused_until_s = until_s

    def _restart_store(self) -> None:
        rng = self._runtime.rng
        self._world.stop_store(down_s=rng.uniform(0.05, 4.0), lose=rng.random() < self._forgets)

    def _clock_forward(self) -> None:
        self._world.jump_clock(self._runtime.rng.choice((1.5, 3.5, 70.0)))

    def _clock_back(self) -> None:
        self._world.jump_clock(-self._runtime.rng.uniform(0.5, 6.0))

    def _lose_message(self) -> None:
        queue = self._runtime.rng.choice(self._world.queues)
        waiting = self._world.store.queues[queue]
        if waiting:
            del waiting[self._runtime.rng.randrange(len(waiting))]

    def _double_message(self) -> None:
        queue = self._runtime.rng.choice(self._world.queues)
        waiting = self._world.store.queues[queue]
        if waiting:
            waiting.append(self._runtime.rng.choice(waiting))
            self._world.queue_changed()

    def _drain(self) -> None:
        if worker := self._worker():
            self._world.operator("drain", worker)
            self._world.later(3.0, lambda: self._world.operator("undrain", worker))

    def _switchover(self) -> None:
        if worker := self._worker():
            self._world.operator("reserve", worker)
