"""What becomes of workers when their connections die, in rounds, with figures.

    python -m tests.e2e.connection_rounds --rounds 20 --outage-s 60
    python -m tests.e2e.connection_rounds outage killed-connections --rounds 3 --outage-s 6

Each scenario has a Redis of its own (AOF on), real workers and, where bytes must vanish, a proxy
in between. It prints one line of figures and returns them; ``tests/e2e/test_connections.py`` runs
the short forms.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.e2e.bench import PATIENCE_S, Bench, Figures, bench, family, is_of, spread
from tests.waiting import eventually
from tts_tasks.ledger import JobLedger

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.cluster import Worker

# -- scenarios ------------------------------------------------------------------------------------


def outage(rounds: int, outage_s: float) -> Figures:
    """Redis is killed under load and comes back after a while, with its data."""
    return _without_redis(outage_s, Bench.kill_redis, Bench.restart_redis)


def silence(rounds: int, outage_s: float) -> Figures:
    """Redis is stopped under load (SIGSTOP: it accepts and says nothing) and goes on later."""

    def stop(bench: Bench) -> None:
        psutil.Process(bench.server.pid).suspend()

    def resume(bench: Bench) -> float:
        psutil.Process(bench.server.pid).resume()
        return time.time()

    return _without_redis(outage_s, stop, resume)


def _without_redis(
    outage_s: float, end: Callable[[Bench], None], begin: Callable[[Bench], float]
) -> Figures:
    with bench() as b:
        b.start("w1", "w2")
        b.load(16)
        primary = b.primary()
        in_hand, waiting = b.call(4), b.call(1)
        ledger = JobLedger(b.server.url)
        eventually(lambda: ledger.get(in_hand.job).state == "running")  # type: ignore[union-attr]
        time.sleep(1.2)  # its AOF is written each second
        end(b)
        ended_s = time.time()
        time.sleep(outage_s)
        alive = sum(worker.process.poll() is None for worker in b.cluster.workers)
        back_s = begin(b)
        begun = {worker.name: b.next_claim_s(back_s, worker) for worker in b.cluster.workers}
        figures = b.outcome()
        led_s = [at_s - ended_s for at_s in times_of(primary, "no longer primary")]
        answered = [round(call.answered_s - back_s, 2) for call in (in_hand, waiting)]
        return {
            "outage_s": outage_s,
            "alive": alive,
            "led_on_s": round(led_s[0], 2) if led_s else None,
            "first_job_begun_s": round(min(begun.values()), 2),
            "last_worker_begun_s": round(max(begun.values()), 2),
            "first_job_finished_s": round(
                min(
                    record.finished_ms / 1000 - back_s
                    for record in b.records()
                    if record.finished_ms and record.finished_ms / 1000 > back_s
                ),
                2,
            ),
            "callers_answered_s": answered,
            "caller_errors": [call.error for call in b.online if call.error],
            **figures,
        }


def times_of(worker: Worker, words: str) -> list[float]:
    """When a worker logged something (wall-clock seconds)."""
    lines = worker.log.read_text(errors="replace").splitlines()
    stamps = [line[1:24] for line in lines if words in line and line.startswith("[")]
    return [
        time.mktime(time.strptime(stamp[:19], "%Y-%m-%d %H:%M:%S")) + int(stamp[20:]) / 1000
        for stamp in stamps
    ]


def restarts(rounds: int, outage_s: float) -> Figures:
    """Redis is killed and started again at once, under idle and under busy workers in turn."""
    idle_s: list[float] = []
    busy_s: list[float] = []
    with bench() as b:
        b.start("w1", "w2")
        b.primary()
        for number in range(rounds):
            busy = number % 2 == 1
            if busy:
                b.load(8)
                b.busy(b.cluster.workers[0])
            b.kill_redis()
            back_s = b.restart_redis()
            if not busy:
                b.load(2)
            (busy_s if busy else idle_s).append(b.next_claim_s(back_s))
            if busy:
                for worker in b.cluster.workers:
                    b.top_up(4)
                    busy_s.append(b.next_claim_s(back_s, worker))
            eventually(lambda: all(record.ended for record in b.records()), within_s=PATIENCE_S)
        return {
            "idle_begun_s": spread(idle_s),
            **({"busy_begun_s": spread(busy_s)} if busy_s else {}),
            **b.outcome(),
        }


def killed_connections(rounds: int, outage_s: float) -> Figures:
    """All connections of a busy worker are closed by CLIENT KILL."""
    again_s = []
    with bench() as b:
        b.start("w1", "w2")
        b.primary()
        for number in range(rounds):
            b.top_up(6)
            victim = b.cluster.workers[number % 2]
            b.busy(victim)
            now_s = time.time()
            assert b.kill_connections(victim) >= 3
            again_s.append(_begun_by(b, victim, now_s))
        return {"begun_again_s": spread(again_s), **b.outcome()}


def _begun_by(b: Bench, victim: Worker, since_s: float, *, waiting: int = 6) -> float:
    """Keep jobs waiting until one worker begins one; returns how long it took."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        b.top_up(waiting)
        for record in b.records():
            if is_of(record, victim) and record.claimed_ms / 1000 > since_s:
                return record.claimed_ms / 1000 - since_s
        time.sleep(0.05)
    raise AssertionError(f"{victim.name} began no job for {PATIENCE_S:g} s: {victim.tail()}")


def half_open(rounds: int, outage_s: float) -> Figures:
    """A worker's connections lose their other end without a word, idle and busy in turn."""
    idle_s: list[float] = []
    busy_s: list[float] = []
    with bench() as b:
        (worker,) = b.start("w1", proxied=True)
        b.primary()
        for number in range(rounds):
            busy = number % 2 == 1
            if busy:
                b.load(3)
                b.busy(worker)
            cut_s = time.time()
            assert b.proxy.half_open() >= 3
            if not busy:
                b.load(2)
            (busy_s if busy else idle_s).append(_begun_by(b, worker, cut_s, waiting=2))
            eventually(lambda: all(record.ended for record in b.records()), within_s=PATIENCE_S)
        return {
            "idle_begun_s": spread(idle_s),
            **({"busy_begun_s": spread(busy_s)} if busy_s else {}),
            **b.outcome(),
        }


def partition(rounds: int, outage_s: float) -> Figures:
    """Nothing passes between one worker and Redis for a while; the connections stay open."""
    again_s = []
    with bench() as b:
        (cut,) = b.start("w1", proxied=True)
        b.start("w2")
        for _ in range(rounds):
            b.top_up(12)
            b.busy(cut)
            b.proxy.stall()
            time.sleep(outage_s)
            now_s = time.time()
            b.proxy.forward()
            again_s.append(_begun_by(b, cut, now_s))
        return {"cut_s": outage_s, "begun_again_s": spread(again_s), **b.outcome()}


def stopped_then_killed(rounds: int, outage_s: float) -> Figures:
    """An idle primary is stopped, a job is sent, the primary is killed."""
    answered_s = []
    with bench() as b:
        b.start("w0", "w1")
        for number in range(rounds):
            victim = b.primary()
            psutil.Process(victim.process.pid).suspend()
            call = b.call()
            killed_s = time.time()
            victim.kill()
            victim.process.wait(30)
            eventually(call.done, within_s=PATIENCE_S, what="the caller has an answer")
            answered_s.append(call.answered_s - killed_s)
            b.cluster.workers.remove(victim)
            b.start(f"w{number + 2}")
        return {"answered_s": spread(answered_s), **b.outcome()}


def paused(rounds: int, outage_s: float) -> Figures:
    """All processes of a busy worker are stopped for longer than three heartbeats, then go on."""
    again_s, roles = [], []
    with bench() as b:
        b.start("w1", "w2")
        for _ in range(rounds):
            b.top_up(12)
            victim = b.primary()
            b.busy(victim)
            processes = family(victim)
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            eventually(lambda v=victim: b.cluster.primary() not in (None, v))
            time.sleep(1)
            now_s = time.time()
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()
            again_s.append(_begun_by(b, victim, now_s))
            roles.append((victim.record or {}).get("role"))
        return {"begun_again_s": spread(again_s), "roles": sorted(set(roles)), **b.outcome()}


def dead_child(rounds: int, outage_s: float) -> Figures:
    """The engine's process is killed under a job; the worker itself takes the job up again."""
    again_s = []
    with bench() as b:
        (worker,) = b.start("w1")
        for _ in range(rounds):
            b.load(3)
            b.busy(worker)
            killed_s = time.time()
            os.kill(worker.child_pid, signal.SIGKILL)
            again_s.append(_begun_by(b, worker, killed_s, waiting=2))
            eventually(lambda: all(record.ended for record in b.records()), within_s=PATIENCE_S)
        return {"begun_again_s": spread(again_s), **b.outcome()}


def deaf_client(rounds: int, outage_s: float) -> Figures:
    """The connections of a client that waits for its job lose their other end without a word."""
    late_s = []
    with bench(client_proxied=True) as b:
        b.start("w1")
        b.primary()
        ledger = JobLedger(b.server.url)
        for _ in range(rounds):
            call = b.call(2)
            eventually(lambda c=call: ledger.get(c.job).state == "running")
            assert b.proxy.half_open() >= 1
            eventually(call.done, within_s=PATIENCE_S, what="the caller has an answer")
            finished_ms = ledger.get(call.job).finished_ms  # type: ignore[union-attr]
            late_s.append(call.answered_s - (finished_ms or 0) / 1000)
        errors = [call.error for call in b.online if call.error]
        return {"answered_late_s": spread(late_s), "caller_errors": errors, **b.outcome()}


SCENARIOS: dict[str, Callable[[int, float], Figures]] = {
    "outage": outage,
    "silence": silence,
    "restarts": restarts,
    "killed-connections": killed_connections,
    "half-open": half_open,
    "partition": partition,
    "stopped-then-killed": stopped_then_killed,
    "paused": paused,
    "dead-child": dead_child,
    "deaf-client": deaf_client,
}


def main() -> None:
    """Run scenarios and print their figures, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], metavar="SCENARIO")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--outage-s", type=float, default=60.0)
    options = parser.parse_args()
    names = options.scenario or list(SCENARIOS)
    if len(names) > 1:
        # one process each: Celery's app keeps connections to the Redis that it first saw
        figures = ["--rounds", str(options.rounds), "--outage-s", str(options.outage_s)]
        failed = [
            subprocess.run([sys.executable, "-m", __spec__.name, name, *figures], check=False)
            for name in names
        ]
        sys.exit(any(done.returncode for done in failed))
    sys.exit(not run(names[0], options.rounds, options.outage_s))


def run(name: str, rounds: int, outage_s: float) -> bool:
    """Run one scenario and print its figures; returns whether it came to its end."""
    began_s = time.monotonic()
    figures: Figures = {"scenario": name, "rounds": rounds}
    try:
        figures |= SCENARIOS[name](rounds, outage_s)
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - it is the finding
        figures["error"] = f"{type(error).__name__}: {error}"[-1500:]
    figures["took_s"] = round(time.monotonic() - began_s, 1)
    print(json.dumps(figures), flush=True)  # noqa: T201 - what the program is for
    return "error" not in figures


if __name__ == "__main__":
    main()
