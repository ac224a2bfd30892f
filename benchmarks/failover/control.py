"""Nothing fails, and nobody may fail over: ``python -m benchmarks.failover.control``.

A primary and a standby under steady load, online and batch, while busy loops of normal priority
take all cores; or, with ``--resets``, while all connections of one worker are closed each second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import redis

from benchmarks.failover.clocks import until
from benchmarks.failover.load import SHORT, Stream
from benchmarks.failover.ours import Cluster, give, use
from tts_tasks.client import batch_status, events, submit_batch
from tts_tasks.clock import boottime_s
from ttsctl.supervisor.redis_server import EmbeddedRedis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.failover.processes import WorkerProcess

#: Each of these in a run without a death is a failover that should not have been.
FAILOVERS = ("lease.demoted", "lease.deposed", "lease.released", "worker.dead", "worker.stuck")
_BATCH = 200
_DRAINED_S = 300.0


class Batches:
    """Sees to it that there is always a batch to work on."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def top_up(self) -> None:
        """Submit another batch once the last one is nearly done."""
        if self.ids:
            status = batch_status(self.ids[-1])
            if status.total - status.ended > _BATCH // 4:
                return
        name = f"control-{len(self.ids)}"
        submit_batch([{"id": f"n{n}", "text": SHORT} for n in range(_BATCH)], id=name)
        self.ids.append(name)

    def open(self) -> int:
        """Return how many of their jobs have no end yet."""
        return sum(s.total - s.ended for s in map(batch_status, self.ids))

    def failed(self) -> int:
        """Return how many of their jobs have failed."""
        return sum(batch_status(name).failed for name in self.ids)


def kill_connections(worker: WorkerProcess, client: redis.Redis, port: int) -> int:
    """CLIENT KILL every connection to Redis of a worker and its children; returns how many."""
    parent = psutil.Process(worker.pid)
    ports: set[int] = set()
    for process in (parent, *parent.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # espeak's helpers come and go
            ports |= {
                connection.laddr.port
                for connection in process.net_connections("tcp4")
                if connection.raddr and connection.raddr.port == port
            }
    pipe = client.pipeline(transaction=False)
    for own in ports:
        pipe.client_kill_filter(addr=f"127.0.0.1:{own}")
    return sum(map(int, pipe.execute()))


def run(minutes: float, *, busy: int, resets: bool, every_s: float) -> tuple[str, bool]:
    """Load a cluster and look on; returns a line of figures, and whether all was well."""
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="tts-control-", ignore_cleanup_errors=True)
            )
        )
        server = stack.enter_context(EmbeddedRedis(directory / "redis", appendonly=False))
        use(server, directory / "home")
        client = stack.enter_context(redis.Redis.from_url(server.url))
        port = int(client.connection_pool.connection_kwargs["port"])
        rng = random.Random()  # noqa: S311 - nothing is drawn here
        cluster = stack.enter_context(Cluster(directory, server.url, rng, every_s))
        primary, _ = cluster.settle()
        holder = cluster.worker_id(primary)
        for _ in range(busy):
            loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(loop.wait)
            stack.callback(loop.kill)
        began_s, rounds, closed, batches = boottime_s(), 0, 0, Batches()
        with Stream(lambda _: give(SHORT), every_s=every_s) as stream:
            while boottime_s() < began_s + 60 * minutes:
                batches.top_up()
                if resets:
                    victim = cluster.members[rounds % len(cluster.members)].worker
                    closed += kill_connections(victim, client, port)
                    rounds += 1
                time.sleep(1.0)
        watched = f"{(boottime_s() - began_s) / 60:.1f} min, {busy} busy loops on {os.cpu_count()}"
        watched += f" cores, all connections of a worker closed {rounds} times ({closed})"
        return _verdict(cluster, batches, stream.ids, holder, began_s, watched)


def _verdict(  # noqa: PLR0917 - all of it was seen in one run
    cluster: Cluster, batches: Batches, ids: list[str], holder: str, began_s: float, watched: str
) -> tuple[str, bool]:
    """Read what happened, wait for the rest of the jobs, and put it in a line."""
    seen = [event["event"] for event in events() if event.get("at_s", 0.0) >= began_s]
    failovers = [event for event in seen if event in FAILOVERS]
    takeovers = seen.count("lease.acquired")
    until(
        lambda: not batches.open() and all(r.ended for r in cluster.records(ids)),
        _DRAINED_S,
        every_s=0.5,
    )
    records = cluster.records(ids)
    waits_ms = sorted((r.finished_ms or r.claimed_ms) - r.accepted_ms for r in records)
    lost = len(ids) - sum(r.state == "succeeded" for r in records)
    lost += batches.open() + batches.failed()
    line = (
        f"control: {watched}, {len(ids) + len(batches.ids) * _BATCH} jobs, "
        f"online p50 {waits_ms[len(waits_ms) // 2]} ms max {waits_ms[-1]} ms, lost {lost}, "
        f"failovers {len(failovers)}, takeovers {takeovers}, "
        f"the same primary: {'yes' if cluster.standing_primary() == holder else 'no'}"
    )
    for name in sorted(set(failovers)):
        line += f"; {name} {failovers.count(name)}"
    return line, not failovers and not takeovers and not lost


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns 0 if there was no failover and nothing was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.failover.control", description=__doc__
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--resets", action="store_true", help="close connections instead")
    parser.add_argument("--busy", type=int, default=None, help="busy loops; default: one a core")
    parser.add_argument("--every-ms", type=float, default=200.0, help="an online job so often")
    options = parser.parse_args(arguments)
    busy = options.busy
    if busy is None:
        busy = 0 if options.resets else os.cpu_count() or 1
    line, good = run(
        options.minutes, busy=busy, resets=options.resets, every_s=options.every_ms / 1000
    )
    print(line)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
