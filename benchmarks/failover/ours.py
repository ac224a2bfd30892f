"""Rounds on this project's own cluster: a primary, a standby, online jobs."""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks.failover.clocks import need, until, wall_to_boottime
from benchmarks.failover.faults import HANG, TOLD_BY_ITSELF, Member, heal, inject
from benchmarks.failover.load import COST, IN_HAND, SHORT, Stream
from benchmarks.failover.processes import WorkerProcess
from benchmarks.failover.rounds import Fault, Round
from tests.tcp_proxy import TcpProxy
from tts_tasks.app import app
from tts_tasks.celeryconfig import celery_configuration
from tts_tasks.client import cluster_status, events
from tts_tasks.clock import boottime_s
from tts_tasks.ledger import JobLedger, JobRecord
from tts_tasks.settings import get_settings
from tts_tasks.tasks import synthesize
from ttsctl.supervisor.redis_server import EmbeddedRedis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

NAME = "ours"
_SETTLE_S = 90.0
#: A round that takes longer than this is one in which nobody took over.
_WATCH_S = 30.0
#: For so long after that the fault lasts, if the job that was in hand is not done before.
_IN_HAND_S = 15.0


@dataclass
class Cluster:
    """Two workers on a Redis of their own, which this process uses too.

    ``proxied``: they reach Redis through one `TcpProxy` each, which can stop forwarding. The
    others do not pay for it.
    """

    directory: Path
    redis_url: str
    rng: random.Random
    every_s: float
    proxied: bool = False
    members: list[Member] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self._ledger = JobLedger(self.redis_url)
        for name in ("w1", "w2"):
            proxy = self._stack.enter_context(TcpProxy.to(self.redis_url)) if self.proxied else None
            mark = self.directory / f"{name}.hung"
            mark.touch()
            environment = {
                "TTS_REDIS_URL": proxy.url(self.redis_url) if proxy else self.redis_url,
                "TTS_ENGINE": "paced",
                "TTS_PACED_COST": COST,
                "TTS_PACED_FAULTS": f"hang@text:{HANG}&once:{mark}",
                "TTS_FIRST_STEP_S": "3",  # a hang may be the first thing that a new child does
            }
            worker = WorkerProcess(name, "tts_tasks", self.directory, environment)
            self._stack.callback(worker.end)
            self.members.append(Member(worker, proxy, mark))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    # -- looking ------------------------------------------------------------------------------

    def standing(self) -> tuple[Member, Member] | None:
        """Return primary and standby, if both are ready and nothing waits."""
        status = cluster_status()
        by_pid = {entry["pid"]: entry for entry in status["workers"]}
        if len(by_pid) != len(self.members) or any(status["queues"].values()):
            return None
        roles = {}
        for member in self.members:
            entry = by_pid.get(member.worker.pid)
            if entry is None or not entry["ready"] or entry["job"]:
                return None
            roles[entry["role"]] = member
        return (roles["primary"], roles["standby"]) if len(roles) == 2 else None

    def settle(self) -> tuple[Member, Member]:
        """Start who is gone; return primary and standby when both are ready and idle."""
        for member in self.members:
            if not member.worker.alive:
                member.worker.start()
        found: list[tuple[Member, Member]] = []

        def stands() -> bool:
            found.extend(filter(None, [self.standing()]))
            return bool(found)

        need(stands, _SETTLE_S, "a ready primary and a ready standby, both idle")
        return found[0]

    def standing_primary(self) -> str | None:
        """Return the id of the worker that leads now."""
        holder = cluster_status()["lanes"][0]["primary"]
        return None if holder is None else str(holder)

    def worker_id(self, member: Member) -> str:
        """Return the id under which a member is registered."""
        workers = cluster_status()["workers"]
        return next(str(w["id"]) for w in workers if w["pid"] == member.worker.pid)

    def records(self, ids: list[str]) -> list[JobRecord]:
        """Return what the ledger says of jobs; a job that it does not know is left out."""
        return [record for record in self._ledger.get_many(ids) if record is not None]

    def sounds(self) -> set[str]:
        """Return the names of all artifacts in the storage."""
        root = Path(get_settings().storage_url.removeprefix("file://"))
        return {path.name for path in root.glob("*.wav")}

    # -- one round ----------------------------------------------------------------------------

    def round(self, fault: Fault) -> Round:
        """Do one fault to a settled cluster and measure what comes of it."""
        victim, _ = self.settle()
        victim_id = self.worker_id(victim)
        sounds_before = len(self.sounds())
        time.sleep(self.rng.uniform(0, get_settings().heartbeat_s))
        with Stream(lambda _: give(SHORT), every_s=self.every_s) as stream:
            need(lambda: len(stream.ids) >= 3, _SETTLE_S, "the stream runs")
            in_hand, fault_s = self._hit(fault, victim)
            taken = until(
                lambda: self._successor_finished(stream.ids[-500:], victim_id, fault_s),
                _WATCH_S,
                every_s=0.05,
            )
        # the stopped and the cut off stay so until their job was done by somebody else
        until(lambda: self.records([in_hand])[0].ended, _IN_HAND_S, every_s=0.05)
        watched_s = boottime_s() - fault_s
        heal(fault, victim)
        ids = [*stream.ids, in_hand]
        ended = until(lambda: all(r.ended for r in self.records(ids)), _SETTLE_S, every_s=0.1)
        measured = self._measured(fault, ids, victim_id, fault_s, watched_s)
        note = "" if taken and ended else "jobs did not end" if taken else "nobody took over"
        doubled = max(0, len(self.sounds()) - sounds_before - len(ids))
        return replace(measured, doubled=doubled, note=note)

    def _measured(
        self, fault: Fault, ids: list[str], victim_id: str, fault_s: float, watched_s: float
    ) -> Round:
        """Read from ledger, events and storage what came of a fault; the last id was in hand."""
        records = self.records(ids)
        boottime = wall_to_boottime()
        begun = [
            (boottime(r.claimed_ms / 1000) - fault_s, boottime(r.finished_ms / 1000) - fault_s)
            for r in records
            if r.finished_ms and r.worker != victim_id and boottime(r.claimed_ms / 1000) > fault_s
        ]
        done_s = [
            boottime(r.finished_ms / 1000) - fault_s
            for r in records
            if r.id == ids[-1] and r.finished_ms
        ]
        happened = list(_since(fault_s))
        leased_s = _first(happened, fault_s, lambda e: _takes(e, victim_id))
        detected_s = _first(happened, fault_s, lambda e: _detects(e, fault, victim_id))
        sounds = self.sounds()
        whole = sum(r.state == "succeeded" and r.meta.name in sounds for r in records)
        return Round(
            system=NAME,
            fault=fault,
            watched_s=watched_s,
            # a lease that lapsed was removed by nobody: then the taking is the noticing
            detected_s=min(filter(None, (detected_s, leased_s)), default=None),
            leased_s=leased_s,
            begun_s=min((times[0] for times in begun), default=None),
            finished_s=min((times[1] for times in begun), default=None),
            in_hand_s=min(done_s, default=None),
            jobs=len(ids),
            lost=sum(r.ended for r in records) - whole,
            waiting=len(ids) - sum(r.ended for r in records),
            doubled=0,
            redone=sum(max(0, record.attempt - 1) for record in records),
        )

    def _hit(self, fault: Fault, victim: Member) -> tuple[str, float]:
        """See to it that a long job is in hand, and do the fault; returns its id, and when."""
        if fault is Fault.HANG:
            victim.hang_mark.unlink()
            in_hand = give(f"{HANG} {IN_HAND}")
            need(victim.hang_mark.exists, _SETTLE_S, "the engine hangs")
            return in_hand, wall_to_boottime()(victim.hang_mark.stat().st_mtime)
        in_hand = give(IN_HAND)
        need(lambda: self.records([in_hand])[0].attempt, _SETTLE_S, "the long job is in hand")
        time.sleep(self.rng.uniform(0, 0.1))
        fault_s = boottime_s()
        inject(fault, victim)
        return in_hand, fault_s

    def _successor_finished(self, ids: list[str], victim_id: str, fault_s: float) -> bool:
        boottime = wall_to_boottime()
        return any(
            record.finished_ms
            and record.worker != victim_id
            and boottime(record.claimed_ms / 1000) > fault_s
            for record in self.records(ids)
        )


def silence_s() -> float:
    """Return after how much silence a worker counts as dead, at the defaults."""
    return get_settings().silence_s


def give(text: str) -> str:
    """Give one online job; returns its id."""
    return str(synthesize.apply_async((text,), ignore_result=True).id)


def use(server: EmbeddedRedis, home: Path) -> None:
    """Make a Redis the one that `tts_tasks` in this process, and workers started by it, use."""
    for name in [name for name in os.environ if name.startswith("TTS_")]:
        del os.environ[name]
    os.environ["TTS_HOME"] = str(home)
    os.environ["TTS_REDIS_URL"] = server.url
    get_settings.cache_clear()
    app.conf.update(celery_configuration(get_settings()))


def _since(fault_s: float) -> Iterator[dict[str, Any]]:
    ago_s = boottime_s() - fault_s + 1.0
    return (event for event in events(since_s=ago_s) if event.get("at_s", 0.0) >= fault_s)


def _first(
    happened: list[dict[str, Any]], fault_s: float, wanted: Callable[[dict[str, Any]], bool]
) -> float | None:
    return min((event["at_s"] - fault_s for event in happened if wanted(event)), default=None)


def _detects(event: dict[str, Any], fault: Fault, victim_id: str) -> bool:
    """Whether an event says that the victim leads no longer, by who finds a fault of this kind."""
    name, about = event["event"], event.get("holder") or event.get("worker")
    if about != victim_id:
        return False
    return name == "lease.deposed" or (
        fault in TOLD_BY_ITSELF and name in ("lease.demoted", "worker.stuck")
    )


def _takes(event: dict[str, Any], victim_id: str) -> bool:
    return bool(event["event"] == "lease.acquired" and event["holder"] != victim_id)


def measure(
    faults: list[Fault],
    rounds: int,
    *,
    directory: Path,
    seed: int,
    every_s: float,
    tell: Callable[[Round], None],
) -> list[Round]:
    """Do every fault ``rounds`` times, in an order drawn from ``seed``."""
    rng = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    measured: list[Round] = []
    with EmbeddedRedis(directory / "redis", appendonly=False) as server:
        use(server, directory / "home")
        for proxied in (False, True):
            group = [fault for fault in faults if (fault is Fault.PARTITION) == proxied]
            if not group:
                continue
            with Cluster(directory, server.url, rng, every_s, proxied=proxied) as cluster:
                for _ in range(rounds):
                    for fault in rng.sample(group, len(group)):
                        measured.append(cluster.round(fault))
                        tell(measured[-1])
    return measured
