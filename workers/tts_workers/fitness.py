"""Whether a worker is fit to serve: its engine has spoken (rule 7), and its device is well.

Proved by ``tests/unit/test_fitness.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tts_workers.gpu_health import Verdict

if TYPE_CHECKING:
    from tts_workers.child_supervisor import ChildSupervisor
    from tts_workers.heartbeat import Heartbeat
    from tts_workers.observer import Observer


class Fitness:
    """Judges a worker by its child and its device: under the agent's mutex, without I/O."""

    def __init__(self, child: ChildSupervisor, heartbeat: Heartbeat, observer: Observer) -> None:
        self._child = child
        self._heartbeat = heartbeat
        self._observer = observer
        self._verdict = Verdict()

    def judge(self, verdict: Verdict, shown: dict[str, Any]) -> bool:
        """Take in how the device is, and what is shown of it; True if it has broken anew."""
        before, self._verdict = self._verdict, verdict
        hot = {"hot": True} if verdict.hot else {}
        self._heartbeat.note(gpu=shown | hot)
        return bool(verdict.broken) and verdict.faults > before.faults

    @property
    def fault(self) -> str:
        """Why the device is not to be used; a hot one is, where no cooler one is ready."""
        me = self._heartbeat.record
        relieved = self._observer.others_ready(me.pool, me.id, cool=True)
        return self._verdict.broken or (self._verdict.hot if relieved else "")

    def news(self) -> dict[str, Any]:
        """Return what the record is to say of ``ready`` and ``fault``; empty: what it does say."""
        me = self._heartbeat.record
        if not self._verdict.broken and not self._verdict.hot and not me.fault:
            return {}
        fault = self.fault
        ready = self._child.has_spoken and not fault
        return {} if (ready, fault) == (me.ready, me.fault) else {"ready": ready, "fault": fault}
