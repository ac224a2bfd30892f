"""Rounds on the three-strikes script: two speech servers, nginx, and a loop around ``/health``.

Every ten seconds it asks the primary's health page; after three failures in a row it writes the
other server into nginx's upstream and reloads nginx. There is no queue: a caller whose request
fails or is not answered has lost it, unless he tries again himself.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from benchmarks.failover.clocks import need, until, wall_to_boottime
from benchmarks.failover.faults import HANG
from benchmarks.failover.front_door import FrontDoor, open_front_door
from benchmarks.failover.journal import Journal
from benchmarks.failover.load import COST, IN_HAND, SHORT, Stream
from benchmarks.failover.rounds import Fault, Round
from tests.tcp_proxy import TcpProxy
from tts_tasks.clock import boottime_s
from ttsctl.supervisor.redis_server import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.failover.trials import Trial

#: The engine is a part of the server's process, and nobody but the script moves requests.
FAULTS = (Fault.KILL, Fault.TERM, Fault.STOP, Fault.HANG, Fault.PARTITION)
CHECK_EVERY_S = 10.0
STRIKES = 3
CHECK_TIMEOUT_S = 5.0
#: nginx's own default for an answer from upstream.
CALL_TIMEOUT_S = 60.0
#: Requests come at most so often: those that are not answered hold a connection each.
_EVERY_S = 0.25
_READY_S = 60.0
_AFTERMATH_S = 2.0


class ThreeStrikes(threading.Thread):
    """The script's loop."""

    def __init__(self, checked_port: int, door: FrontDoor, standby_port: int) -> None:
        super().__init__(name="three-strikes", daemon=True)
        self._checked_port = checked_port
        self._door = door
        self._standby_port = standby_port
        self._stopping = threading.Event()
        self.detected_s: float | None = None
        self.switched_s: float | None = None

    def run(self) -> None:
        """Check until the primary has failed three times in a row, then switch."""
        strikes, next_s = 0, boottime_s()
        while strikes < STRIKES:
            next_s += CHECK_EVERY_S
            if self._stopping.wait(max(0.0, next_s - boottime_s())):
                return
            strikes = 0 if self._healthy() else strikes + 1
        self.detected_s = boottime_s()
        self._door.switch(self._standby_port)
        self.switched_s = boottime_s()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        self.join()

    def _healthy(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self._checked_port, timeout=CHECK_TIMEOUT_S)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


@dataclass
class _Room:
    """What one round consists of."""

    directory: Path
    journal: Journal
    door: FrontDoor
    servers: dict[str, subprocess.Popen[bytes]]
    proxy: TcpProxy  #: before the primary: nginx and the health check both go through it
    hang_mark: Path
    callers: ThreadPoolExecutor
    calls: list[Future[bool]] = field(default_factory=list)

    def give(self, text: str) -> str:
        """Let a caller ask for one job; returns its name."""
        job = f"j{len(self.calls)}"
        self.calls.append(self.callers.submit(self._call, job, text))
        return job

    def _call(self, job: str, text: str) -> bool:
        connection = HTTPConnection("127.0.0.1", self.door.port, timeout=CALL_TIMEOUT_S)
        try:
            connection.request("POST", f"/speak/{job}", text.encode())
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


def measure(trial: Trial, directory: Path) -> Round:
    """Do one fault to the primary server and watch requests arrive at the other, up to the cap."""
    rng = random.Random(trial.seed)  # noqa: S311 - to be repeated, not to be secret
    with ExitStack() as stack:
        room, script = _open(stack, directory)
        time.sleep(rng.uniform(0, CHECK_EVERY_S))
        with Stream(lambda _: room.give(SHORT), every_s=max(trial.every_s, _EVERY_S)) as stream:
            need(lambda: len(stream.ids) >= 3, _READY_S, "the stream runs")
            fault_s = _hit(room, trial.fault, rng)
            until(
                lambda: room.journal.finished_by_others("s1", fault_s),
                trial.cap_s,
                every_s=0.1,
            )
        watched_s = boottime_s() - fault_s
        script.stop()
        _heal(room, trial.fault)
        time.sleep(_AFTERMATH_S)  # in which it may finish what it had in hand
        answered = sum(call.done() and call.result() for call in room.calls)
        return Round(
            system=trial.system,
            fault=trial.fault,
            watched_s=watched_s,
            detected_s=_after(script.detected_s, fault_s),
            leased_s=_after(script.switched_s, fault_s),
            begun_s=room.journal.begun_by_others("s1", fault_s),
            finished_s=room.journal.finished_by_others("s1", fault_s),
            in_hand_s=None,
            jobs=len(room.calls),
            lost=len(room.calls) - answered,
            waiting=0,
            doubled=room.journal.repeated("done"),
            redone=room.journal.repeated("begun"),
            lacks=("in_hand",),
            note=f"behind {room.door.name}; a request that failed is lost: no queue, no retry",
        )


def _after(at_s: float | None, fault_s: float) -> float | None:
    return None if at_s is None else at_s - fault_s


def _open(stack: ExitStack, directory: Path) -> tuple[_Room, ThreeStrikes]:
    (directory / "sounds").mkdir()
    journal = Journal(directory / "journal")
    mark = directory / "hung"
    mark.touch()
    servers, ports = {}, {}
    for name in ("s1", "s2"):
        ports[name] = free_port()
        servers[name] = _start(name, directory, ports[name], mark)
        stack.callback(_end, servers[name])
    need(lambda: len(journal.happened("ready")) == 2, _READY_S, "two speech servers are ready")
    proxy = stack.enter_context(TcpProxy("127.0.0.1", ports["s1"]))
    door = open_front_door(directory / "door", proxy.port)
    callers = ThreadPoolExecutor(1024)
    stack.callback(callers.shutdown, wait=False, cancel_futures=True)
    stack.callback(door.close)
    room = _Room(directory, journal, door, servers, proxy, mark, callers)
    need(lambda: room._call("warm-up", SHORT), _READY_S, "the front door answers")  # noqa: SLF001
    script = ThreeStrikes(proxy.port, door, ports["s2"])
    script.start()
    stack.callback(script.stop)
    return room, script


def _start(name: str, directory: Path, port: int, mark: Path) -> subprocess.Popen[bytes]:
    paced = {"TTS_PACED_COST": COST, "TTS_PACED_FAULTS": f"hang@text:{HANG}&once:{mark}"}
    with (directory / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.failover.speech_server"),
                *(name, str(directory), str(port)),
            ],
            env={**os.environ, **paced},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _end(server: subprocess.Popen[bytes]) -> None:
    server.kill()
    server.wait()


def _hit(room: _Room, fault: Fault, rng: random.Random) -> float:
    """Do the fault while the primary has the long job in hand; returns when."""
    if fault is Fault.HANG:
        room.hang_mark.unlink()
    in_hand = room.give(f"{HANG} {IN_HAND}" if fault is Fault.HANG else IN_HAND)
    need(lambda: room.journal.happened("begun", in_hand), _READY_S, "the long job is in hand")
    if fault is Fault.HANG:
        need(room.hang_mark.exists, _READY_S, "the engine hangs")
        return wall_to_boottime()(room.hang_mark.stat().st_mtime)
    time.sleep(rng.uniform(0, 0.1))
    fault_s = boottime_s()
    match fault:
        case Fault.KILL | Fault.TERM | Fault.STOP:
            number = {Fault.KILL: signal.SIGKILL, Fault.TERM: signal.SIGTERM}
            room.servers["s1"].send_signal(number.get(fault, signal.SIGSTOP))
        case Fault.PARTITION:
            room.proxy.stall()
        case _:
            raise ValueError(f"{fault} cannot be done to a speech server")
    return fault_s


def _heal(room: _Room, fault: Fault) -> None:
    if fault is Fault.STOP:
        room.servers["s1"].send_signal(signal.SIGCONT)
    elif fault is Fault.PARTITION:
        room.proxy.forward()
