"""What is known of how an attempt ended: its job keeps the newest, and a failed one reports it.

Evidence is plain JSON: ``reason`` for people, ``worker``, and as far as they are known ``signal``
or ``exit_status`` of the child, ``segment`` and ``segments`` (it was at the k-th of n), ``log``
(its last lines of level WARNING and above), ``stderr`` (what its process wrote there itself, such
as the message of an abort in C++), ``silent_s`` and ``budget_s`` of one that was stuck. Proved by
``tests/unit/test_evidence.py`` and ``tests/e2e/test_poison.py``.
"""

from __future__ import annotations

import logging
import signal
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.ledger.records import Evidence
    from tts_workers.child_watch import Stuck

LINES_KEPT = 20
LINE_CHARS = 500


def cut(line: str) -> str:
    """Return a line that is no longer than one that is kept."""
    return line if len(line) <= LINE_CHARS else f"{line[: LINE_CHARS - 1]}…"


# -- the child -----------------------------------------------------------------------------------


class LogForwarder(logging.Handler):
    """Tells the parent what the child logs, level WARNING and above; of a traceback the last line.

    ``say`` is `ChildLink.say`. What a dying process has told has left it.
    """

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one record."""
        try:
            message = f"{record.levelname} {record.name}: {record.getMessage()}"
        except Exception:  # noqa: BLE001 - a wrong format string of anybody's
            self.handleError(record)
            return
        lines = message.splitlines()[:LINES_KEPT]
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            lines.append(f"{type(error).__name__}: {error}".splitlines()[0])
        self._say({"event": "log", "lines": [cut(line) for line in lines]})


# -- its parent ----------------------------------------------------------------------------------


@dataclass(slots=True)
class LastWords:
    """What one child has said that is told of it when it has died."""

    job: str = ""
    segment: int = 0  #: that it has begun, from 1; 0: none yet
    segments: int = 0
    log: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))

    def as_evidence(self) -> Evidence:
        """Return what is known."""
        words: Evidence = {}
        if self.job:
            words["job"] = self.job
        if self.segment:
            words |= {"segment": self.segment, "segments": self.segments}
        if self.log:
            words["log"] = list(self.log)
        return words


class Witness:
    """Keeps the last words of each child, and gives evidence once it is dead.

    ``traces`` finds what a dead process has left beside them (`ChildTraces.of`); as that may take a
    moment, evidence is given as a function, for a thread that may wait.
    """

    def __init__(self, traces: Callable[[int], Evidence]) -> None:
        self._traces = traces
        self._children: dict[int, LastWords] = {}

    def heard(self, pid: int, message: dict[str, Any]) -> bool:
        """Take in what a child says; True if it is for evidence alone, and no sign of progress."""
        words = self._children.setdefault(pid, LastWords())
        match message.get("event"):
            case "job":
                words.job, words.segment, words.segments = str(message["job"]), 0, 0
            case "segment":
                words.segment, words.segments = int(message["segment"]), int(message["segments"])
            case "log":
                words.log.extend(cut(str(line)) for line in message["lines"])
                return True
        return False

    def of_dead(self, pid: int) -> Callable[[], Evidence]:
        """Give evidence of a child that died, and forget it."""
        words = self._children.pop(pid, LastWords()).as_evidence()

        def evidence() -> Evidence:
            traces = self._traces(pid)
            reason = f"the engine's process {_how_it_ended(traces)}{_where(words)}"
            return {"reason": reason, **words, **traces}

        return evidence

    def of_stuck(self, stuck: Stuck) -> Callable[[], Evidence]:
        """Give evidence of a child that is killed because it makes no progress."""
        words = self._children.get(stuck.pid, LastWords()).as_evidence()
        words |= {"silent_s": round(stuck.silent_s, 3), "budget_s": round(stuck.budget_s, 3)}

        def evidence() -> Evidence:
            traces = self._traces(stuck.pid)
            reason = (
                f"the engine made no progress for {stuck.silent_s:.1f} s, where it may take "
                f"{stuck.budget_s:.1f} s, and was killed{_where(words)}"
            )
            return {"reason": reason, **words, "stderr": traces.get("stderr", [])}

        return evidence

    def of_broken_device(self, pid: int, fault: str) -> Callable[[], Evidence]:
        """Give evidence of a child that is killed because its device is broken."""
        words = self._children.get(pid, LastWords()).as_evidence()
        reason = f"its device is broken: {fault}; the engine was killed{_where(words)}"
        return lambda: {"reason": reason, **words}


def of_lost_worker(silent_s: float) -> Evidence:
    """Give evidence of a worker that is dead as a whole: it cannot be asked."""
    return {"reason": f"worker lost, silent {silent_s:.1f} s", "silent_s": round(silent_s, 3)}


def exit_fields(exit_code: int) -> Evidence:
    """Return an exit code, negative for a signal, as a field of evidence."""
    if exit_code >= 0:
        return {"exit_status": exit_code}
    try:
        return {"signal": signal.Signals(-exit_code).name}
    except ValueError:
        return {"signal": f"signal {-exit_code}"}  # a real-time one


def _how_it_ended(traces: Evidence) -> str:
    if "signal" in traces:
        return f"was killed by {traces['signal']}"
    if "exit_status" in traces:
        return f"exited with status {traces['exit_status']}"
    return "is gone"


def _where(words: Evidence) -> str:
    return f" at segment {words['segment']} of {words['segments']}" if "segment" in words else ""
