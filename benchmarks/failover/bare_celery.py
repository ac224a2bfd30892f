"""Rounds on bare Celery: two workers that serve one queue, each round from nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis
from celery import Celery

from benchmarks.failover.celery_app import TASK
from benchmarks.failover.clocks import need, until, wall_to_boottime
from benchmarks.failover.faults import HANG
from benchmarks.failover.journal import Journal
from benchmarks.failover.load import COST, IN_HAND, SHORT, Stream
from benchmarks.failover.processes import WorkerProcess
from benchmarks.failover.rounds import Fault, Round
from tests.tcp_proxy import TcpProxy
from tts_tasks.clock import boottime_s
from ttsctl.supervisor.redis_server import EmbeddedRedis

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.failover.trials import Trial

#: Bare Celery has no primary that could be moved.
FAULTS = (Fault.KILL, Fault.CHILD, Fault.TERM, Fault.STOP, Fault.HANG, Fault.PARTITION)
_READY_S = 90.0
#: For so long after the fault jobs keep coming.
_STREAM_S = 3.0
#: For so long after the fault was undone a worker may finish what it had in hand.
_AFTERMATH_S = 3.0


@dataclass
class _Room:
    """What one round consists of."""

    directory: Path
    journal: Journal
    client: redis.Redis
    app: Celery
    workers: dict[str, WorkerProcess]
    proxies: dict[str, TcpProxy]
    hang_mark: Path
    given: int = 0

    def give(self, text: str) -> str:
        """Send one job; returns its name."""
        self.given += 1
        job = f"j{self.given}"
        self.app.send_task(TASK, (job, text), ignore_result=True)
        return job

    def is_ready(self) -> bool:
        """Whether both workers have started and have an engine."""
        return all(
            {line["worker"] for line in self.journal.happened(event)} == set(self.workers)
            for event in ("ready", "loaded")
        )

    def undone(self) -> int:
        """Return how many jobs have no sound."""
        return self.given - len({line["job"] for line in self.journal.happened("done")})

    def is_over(self) -> bool:
        """Whether all jobs are done and no message is left that could do one again."""
        return not self.undone() and not self.held_by_the_broker()

    def held_by_the_broker(self) -> int:
        """Return how many messages wait or are out with a worker."""
        queued, unacked = self.client.llen("celery"), self.client.hlen("unacked")
        return int(queued) + int(unacked)


def measure(trial: Trial, directory: Path, visibility_timeout_s: float | None) -> Round:
    """Do one fault to two fresh workers and watch the job that was in hand, up to the cap."""
    rng = random.Random(trial.seed)  # noqa: S311 - to be repeated, not to be secret
    with ExitStack() as stack:
        room = _open(stack, trial, directory, visibility_timeout_s)
        need(room.is_ready, _READY_S, "two workers of bare Celery are ready")
        time.sleep(rng.uniform(0, 1))
        with Stream(lambda _: room.give(SHORT), every_s=trial.every_s) as stream:
            need(lambda: len(stream.ids) >= 3, _READY_S, "the stream runs")
            in_hand, victim, fault_s = _hit(room, trial.fault, rng)
            until(lambda: boottime_s() > fault_s + _STREAM_S, 2 * _STREAM_S)
        # until the cap also where the job in hand was done, but its message is still out with the
        # victim: it comes back, and the job is done again
        until(room.is_over, fault_s + trial.cap_s - boottime_s(), every_s=0.1)
        watched_s = boottime_s() - fault_s
        undone, held = room.undone(), room.held_by_the_broker()
        _heal(room, trial.fault, victim)
        until(lambda: not room.held_by_the_broker(), _AFTERMATH_S)
        done_s = [line["at_s"] - fault_s for line in room.journal.happened("done", in_hand)]
        return Round(
            system=trial.system,
            fault=trial.fault,
            watched_s=watched_s,
            detected_s=None,
            leased_s=None,
            begun_s=room.journal.begun_by_others(victim, fault_s),
            finished_s=room.journal.finished_by_others(victim, fault_s),
            in_hand_s=min((s for s in done_s if s <= watched_s), default=None),
            jobs=room.given,
            lost=max(0, undone - held),
            waiting=min(undone, held),
            doubled=room.journal.repeated("done"),
            redone=room.journal.repeated("begun"),
            lacks=("detection", "takeover"),
        )


def _open(
    stack: ExitStack, trial: Trial, directory: Path, visibility_timeout_s: float | None
) -> _Room:
    (directory / "sounds").mkdir(parents=True)
    server = stack.enter_context(EmbeddedRedis(directory / "redis", appendonly=False))
    client = stack.enter_context(redis.Redis.from_url(server.url))
    app = Celery("bench-client", broker=server.url, set_as_current=False)
    stack.callback(app.close)
    mark = directory / "hung"
    mark.touch()
    workers, proxies = {}, {}
    for name in ("c1", "c2"):
        url = server.url
        if trial.fault is Fault.PARTITION:
            proxies[name] = stack.enter_context(TcpProxy.to(server.url))
            url = proxies[name].url(server.url)
        environment = {
            "BENCH_REDIS_URL": url,
            "BENCH_DIRECTORY": str(directory),
            "BENCH_WORKER": name,
            "TTS_PACED_COST": COST,
            "TTS_PACED_FAULTS": f"hang@text:{HANG}&once:{mark}",
        }
        if visibility_timeout_s is not None:
            environment["BENCH_VISIBILITY_TIMEOUT_S"] = str(visibility_timeout_s)
        worker = WorkerProcess(name, "benchmarks.failover.celery_app", directory, environment)
        stack.callback(worker.end, 5.0)
        worker.start()
        workers[name] = worker
    return _Room(directory, Journal(directory / "journal"), client, app, workers, proxies, mark)


def _hit(room: _Room, fault: Fault, rng: random.Random) -> tuple[str, str, float]:
    """Do the fault to the worker that has the long job in hand; returns job, worker, and when."""
    if fault is Fault.HANG:
        room.hang_mark.unlink()
    in_hand = room.give(f"{HANG} {IN_HAND}" if fault is Fault.HANG else IN_HAND)
    need(lambda: room.journal.happened("begun", in_hand), _READY_S, "the long job is in hand")
    victim = str(room.journal.happened("begun", in_hand)[0]["worker"])
    worker = room.workers[victim]
    if fault is Fault.HANG:
        need(room.hang_mark.exists, _READY_S, "the engine hangs")
        return in_hand, victim, wall_to_boottime()(room.hang_mark.stat().st_mtime)
    time.sleep(rng.uniform(0, 0.1))
    fault_s = boottime_s()
    match fault:
        case Fault.KILL:
            worker.kill()
        case Fault.CHILD:
            os.kill(worker.child_pid(), signal.SIGKILL)
        case Fault.TERM:
            worker.terminate()
        case Fault.STOP:
            worker.pause()
        case Fault.PARTITION:
            room.proxies[victim].stall()
        case _:
            raise ValueError(f"{fault} cannot be done to bare Celery")
    return in_hand, victim, fault_s


def _heal(room: _Room, fault: Fault, victim: str) -> None:
    if fault is Fault.STOP:
        room.workers[victim].resume()
    elif fault is Fault.PARTITION:
        room.proxies[victim].forward()
