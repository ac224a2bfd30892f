"""What is done to a worker of ours, and how it is made good afterwards."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.failover.rounds import Fault
from tts_tasks.client import switchover

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.failover.processes import WorkerProcess
    from tests.tcp_proxy import TcpProxy


@dataclass
class Member:
    """A worker, with the way it reaches Redis."""

    worker: WorkerProcess
    proxy: TcpProxy | None
    hang_mark: Path  #: while it is not there, a job whose text holds `HANG` hangs


#: The word in a text that makes an engine hang, once the mark was removed.
HANG = "HANG"
#: Faults of which the worker itself says that it gives up; the others are found by somebody else.
TOLD_BY_ITSELF = (Fault.CHILD, Fault.TERM, Fault.SWITCHOVER, Fault.HANG)


def inject(fault: Fault, victim: Member) -> None:
    """Do it now. `Fault.HANG` is done by a text: see `HANG`."""
    worker = victim.worker
    match fault:
        case Fault.KILL:
            worker.kill()
        case Fault.CHILD:
            os.kill(worker.child_pid(), signal.SIGKILL)
        case Fault.TERM:
            worker.terminate()
        case Fault.SWITCHOVER:
            switchover(reason="benchmark")
        case Fault.STOP:
            worker.pause()
        case Fault.PARTITION if victim.proxy is not None:
            victim.proxy.stall()
        case _:
            raise ValueError(f"{fault} cannot be done to {worker.name}")


def heal(fault: Fault, victim: Member) -> None:
    """Undo what can be undone; who is dead is started again when the cluster settles."""
    match fault:
        case Fault.TERM:
            victim.worker.end()
        case Fault.STOP:
            victim.worker.resume()
        case Fault.PARTITION if victim.proxy is not None:
            victim.proxy.forward()
        case _:
            pass
