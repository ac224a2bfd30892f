"""``ttsctl switchover``, ``drain``, ``undrain``, ``watchdog``: what is asked, waited for, said."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks.errors import ConflictError, NotFoundError, UnavailableError, WaitTimeoutError
from ttsctl.commands import operate

if TYPE_CHECKING:
    from collections.abc import Callable


class SteppedTime:
    """A clock that sleeping moves; what is due then is done."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.plan: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s = round(self.now_s + seconds, 3)
        assert self.now_s < 600, "it waits for ever"
        while self.plan and self.plan[0][0] <= self.now_s:
            self.plan.pop(0)[1]()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> SteppedTime:
    """Time that passes by waiting only."""
    stepped = SteppedTime()
    monkeypatch.setattr(operate, "time", stepped)
    return stepped


@pytest.fixture
def worker(cluster) -> dict[str, Any]:
    """The registry's entry of the worker that is drained: it has obeyed, and is idle."""
    entry: dict[str, Any] = cluster.cluster["workers"][0]
    entry |= {"draining": True, "job": ""}
    return entry


def test_a_switchover_says_who_leads_now(ttsctl, cluster):
    """Lane, both workers, the epoch and how long it took; as a table and as JSON."""
    words = ("switchover", "default.0", "--to", "b", "--reason", "new driver", "--timeout-s", "3")
    lines = [line.split(maxsplit=1) for line in ttsctl(*words).stdout.splitlines()]
    assert lines == [
        ["lane", "default.0"], ["from", "tts@a/1"], ["to", "tts@b/1"], ["epoch", "8"],
        ["took_s", "0.012"],
    ]  # fmt: skip
    given = {"lane": "default.0", "to": "b", "reason": "new driver", "timeout_s": 3}
    assert cluster.calls == [("switchover", given)]
    answer = json.loads(ttsctl(*words, "-o", "json").stdout)
    assert answer == {
        "lane": "default.0", "from": "tts@a/1", "to": "tts@b/1", "epoch": 8, "took_s": 0.012,
    }  # fmt: skip


def test_a_switchover_without_a_lane_is_one_of_the_configured_lane(ttsctl, cluster):
    """LANE and --to are left to the cluster."""
    ttsctl("switchover", "--reason", "r")
    given = {"lane": None, "to": None, "reason": "r", "timeout_s": 10}
    assert cluster.calls == [("switchover", given)]


@pytest.mark.parametrize("words", [("switchover",), ("drain", "w1")])
def test_who_changes_the_cluster_says_why(ttsctl, cluster, words):
    """Without --reason it is a usage error, and nothing is done."""
    result = ttsctl(*words)
    assert result.exit_code == 2
    assert "--reason" in result.stderr
    assert cluster.calls == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("there is no worker 'w9'"), 6),
        (ConflictError("w2 is not ready yet"), 5),
        (UnavailableError("no Redis at redis://:hunter2@h/0"), 8),
        (WaitTimeoutError("w2 has not taken lane default.0"), 7),
    ],
)
@pytest.mark.parametrize("name", ["switchover", "drain", "undrain"])
def test_what_goes_wrong_has_its_exit_code(ttsctl, cluster, name, error, code):
    """The table of exit codes; stdout stays empty, no password is shown."""
    cluster.trouble[name] = error
    words = {
        "switchover": ("--reason", "r"),
        "drain": ("w9", "--reason", "r"),
        "undrain": ("w9",),
    }[name]
    result = ttsctl(name, *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert str(error).split("hunter2")[0].split("redis")[0] in result.stderr
    assert "hunter2" not in result.stderr


def test_drain_returns_with_the_order(ttsctl, cluster):
    """Without --wait nobody is waited for."""
    result = ttsctl("drain", "w1", "--reason", "dust", "-o", "json")
    assert json.loads(result.stdout) == {"worker": "tts@a/1", "draining": True, "reason": "dust"}
    assert cluster.calls == [("drain", {"worker": "w1", "reason": "dust"})]


def test_undrain_puts_it_back(ttsctl, cluster):
    """The answer says so."""
    result = ttsctl("undrain", "w1", "-o", "json")
    assert json.loads(result.stdout) == {"worker": "tts@a/1", "draining": False, "reason": ""}
    assert cluster.calls == [("undrain", "w1")]


def test_drain_waits_for_the_job_in_hand(ttsctl, worker, time, told):
    """It returns two heartbeats after the job has ended, and has said what it waits for."""
    worker |= {"draining": False, "job": "b:1"}
    time.plan = [
        (1.0, lambda: worker.update(draining=True)),
        (5.0, lambda: worker.update(job="")),
    ]
    result = ttsctl("drain", "w1", "--reason", "r", "--wait", "-o", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["draining"] is True
    assert 7.0 <= time.now_s < 7.5
    (busy,) = told(result)
    assert (busy["event"], busy["worker"], busy["job"]) == ("worker.busy", "tts@a/1", "b:1")


def test_a_job_that_begins_after_the_order_is_waited_for_too(ttsctl, worker, time):
    """What was handed out a moment before shows in the next heartbeat only."""
    time.plan = [
        (1.0, lambda: worker.update(job="b:2")),
        (4.0, lambda: worker.update(job="")),
    ]
    assert ttsctl("drain", "w1", "--reason", "r", "--wait").exit_code == 0
    assert 6.0 <= time.now_s < 6.5


def test_a_drained_worker_that_ends_has_no_job(ttsctl, cluster, worker, time):
    """Whoever stops it meanwhile has what they wanted."""
    worker["job"] = "b:1"
    time.plan = [(1.0, lambda: cluster.cluster["workers"].pop(0))]
    assert ttsctl("drain", "w1", "--reason", "r", "--wait").exit_code == 0


def test_waiting_for_a_drain_ends_with_7(ttsctl, worker, time):
    """What it still does is said; the order stands."""
    worker["job"] = "b:1"
    result = ttsctl("drain", "w1", "--reason", "r", "--wait", "--timeout-s", "3")
    assert (result.exit_code, result.stdout) == (7, "")
    assert "still works on b:1; it stays drained" in result.stderr


def test_who_undrains_meanwhile_ends_the_waiting(ttsctl, worker, time):
    """A worker that is back in service will never be idle for long."""
    worker["job"] = "b:1"
    time.plan = [(1.0, lambda: worker.update(draining=False))]
    result = ttsctl("drain", "w1", "--reason", "r", "--wait")
    assert result.exit_code == 5
    assert "back into service" in result.stderr


def test_waiting_goes_on_through_a_short_outage_of_the_store(
    ttsctl, cluster, worker, time, told, no_redis
):
    """It is said once, without the password; a minute of it ends the waiting with 8."""
    cluster.trouble["cluster_status"] = no_redis
    time.plan = [(5.0, cluster.trouble.clear)]
    result = ttsctl("drain", "w1", "--reason", "r", "--wait")
    assert result.exit_code == 0
    assert [event["event"] for event in told(result)] == ["store.unreachable"]
    assert "hunter2" not in result.stderr
    cluster.trouble["cluster_status"] = no_redis
    assert ttsctl("drain", "w1", "--reason", "r", "--wait").exit_code == 8


def test_the_watchdog_takes_over_the_process(ttsctl, monkeypatch):
    """It is the workers' module, run by this Python; the options are in its environment."""
    run: list[Any] = []
    monkeypatch.setenv("TTS_REDIS_URL", "redis://before/0")
    monkeypatch.setattr(
        os, "execv", lambda path, argv: run.append((path, argv, os.environ["TTS_REDIS_URL"]))
    )
    imported = set(sys.modules)
    ttsctl("--redis-url", "redis://127.0.0.1:1/0", "watchdog")
    argv = [sys.executable, "-m", "tts_workers.watch"]
    assert run == [(sys.executable, argv, "redis://127.0.0.1:1/0")]
    assert not [name for name in set(sys.modules) - imported if name.startswith("tts_workers")]
