"""What one round of the benchmark measures, and what was promised of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What is done to the worker that leads (or, where nobody leads, to the one that is busy)."""

    KILL = "kill"  #: SIGKILL of the worker's parent process
    CHILD = "child"  #: SIGKILL of the process that holds the engine
    TERM = "term"  #: SIGTERM of the parent: a clean stop
    SWITCHOVER = "switchover"  #: an operator moves the primary
    STOP = "stop"  #: SIGSTOP of parent and child
    HANG = "hang"  #: the engine does not return
    PARTITION = "partition"  #: bytes to and from Redis (or the front door) stop; nothing is closed


@dataclass(frozen=True, slots=True)
class Target:
    """The most that fault to first job begun may take, in seconds."""

    p50_s: float
    p99_s: float


#: Deaths that somebody is told of, and those that only silence tells.
_KNOWN = (Fault.KILL, Fault.CHILD, Fault.TERM, Fault.SWITCHOVER)


def target_of(fault: Fault, *, silence_s: float) -> Target:
    """Return what is promised; ``silence_s``: heartbeat × missed heartbeats."""
    return Target(0.3, 1.0) if fault in _KNOWN else Target(silence_s + 0.3, silence_s + 1.0)


@dataclass(frozen=True, slots=True)
class Round:
    """One fault and what came of it. Times in seconds from the fault on; None: not seen.

    A time that was not seen within ``watched_s`` is longer than that.
    """

    system: str
    fault: Fault
    watched_s: float
    detected_s: float | None  #: it is known: the lease is gone, the health check has given up
    leased_s: float | None  #: another worker holds the lease, or is where requests go
    begun_s: float | None  #: another worker has begun a job
    finished_s: float | None  #: another worker has finished a job that it began after the fault
    in_hand_s: float | None  #: the job that was in hand is done, by whomever
    jobs: int
    lost: int  #: jobs that nobody did and nobody will
    waiting: int  #: jobs that were not done when the round ended; the queue still has them
    doubled: int  #: jobs whose sound was written more than once
    redone: int  #: attempts beyond the first of each job
    lacks: tuple[str, ...] = ()  #: times that this system does not have (`figures.TIMES`)
    note: str = ""
