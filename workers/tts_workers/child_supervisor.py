"""Keeps the engine's process in order, from its parent: hears it, ends it, tells of its end.

It performs no I/O, so that an engine is ended whatever the store does; what takes longer, such as
giving back what a dead one held, is left to the `Chores`. Proved by
``tests/unit/test_child_supervisor.py``.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any

from tts_workers.child_watch import ChildWatch
from tts_workers.evidence import Witness

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.clock import Clock
    from tts_tasks.events import EventLog
    from tts_tasks.ledger.records import Evidence
    from tts_workers.child_watch import Stuck
    from tts_workers.chores import Chores


class ChildSupervisor:
    """What a worker's agent knows and does of its child: all of it under the agent's mutex."""

    def __init__(
        self,
        worker_id: str,
        chores: Chores,
        events: EventLog,
        *,
        clock: Clock,
        pulse_limit_s: float,
        max_step_s: float,
        traces: Callable[[int], Evidence],
        look: Callable[[], None],
        kill: Callable[[int, int], None],
    ) -> None:
        """``look``: has what the child shows by now told to whoever calls `heard`.

        ``pulse_limit_s`` and ``max_step_s`` are those of `ChildWatch`, ``traces`` of `Witness`.
        """
        self._worker_id = worker_id
        self._watch = ChildWatch(clock, pulse_limit_s=pulse_limit_s, max_step_s=max_step_s)
        self._witness = Witness(traces)
        self._chores = chores
        self._events = events
        self._look = look
        self._kill = kill
        self._has_spoken = False

    @property
    def pid(self) -> int:
        """The child's; 0 while there is none."""
        return self._watch.pid

    @property
    def has_spoken(self) -> bool:
        """Whether its engine has, since it was loaded (rule 7)."""
        return self._has_spoken

    @property
    def left_s(self) -> float | None:
        """For how long the child may still be silent; None: it is not watched."""
        return self._watch.left_s

    def heard(self, pid: int, message: dict[str, Any]) -> bool:
        """Take in what a child says; False if it is for evidence alone."""
        if self._witness.heard(pid, message):
            return False
        self._watch.heard(pid, message)
        if message.get("event") == "ready":
            self._has_spoken = True
        return True

    def look(self) -> None:
        """Take in what the child shows."""
        self._look()

    def lost(self, pid: int, *, leaving: bool) -> bool:
        """Learn that a process is gone; False if nothing follows from it.

        Nothing does where it was given up before, or where its worker is ``leaving``, and gives
        back all that it has.
        """
        self._look()  # what it had in hand when it died
        watched = self._watch.lost(pid)
        evidence = self._witness.of_dead(pid)
        if not watched or leaving:
            return False
        self._give_up(pid, evidence)
        return True

    def end_if_stuck(self) -> bool:
        """End a child that has made no progress for longer than it may; True: it was."""
        self._look()
        stuck = self._watch.look()
        if stuck is None:
            return False
        self._tell_of(stuck)
        # not waiting for its end: a process that hangs in a driver may not die for a long time
        self._end(stuck.pid, self._witness.of_stuck(stuck))
        return True

    def end_on_broken_device(self, fault: str) -> None:
        """End the child: what its device computes is not to be trusted."""
        self._end(self.pid, self._witness.of_broken_device(self.pid, fault))

    def _tell_of(self, stuck: Stuck) -> None:
        self._events.note(
            "worker.stuck",
            worker=self._worker_id,
            job=stuck.job,
            silent_s=round(stuck.silent_s, 3),
            budget_s=round(stuck.budget_s, 3),
        )

    def _end(self, pid: int, evidence: Callable[[], Evidence]) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._kill(pid, signal.SIGKILL)
        self._give_up(pid, evidence)

    def _give_up(self, pid: int, evidence: Callable[[], Evidence]) -> None:
        self._chores.child_died(pid, evidence)
        self._has_spoken = False
