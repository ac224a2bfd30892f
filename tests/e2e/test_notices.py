"""Operators are told: by a webhook and a command, from real workers that die for real."""

from __future__ import annotations

import base64
import hmac
import json
import os
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.receiver import Call, Receiver, receiver
from tests.waiting import eventually
from tts_tasks import synthesize
from tts_tasks.client import cluster_status, drain, events, switchover, undrain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.cluster import Cluster, Worker

pytestmark = pytest.mark.e2e

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
def operator() -> Iterator[Receiver]:
    """The operators' endpoint."""
    with receiver() as state:
        yield state


def told_by_url(operator: Receiver) -> dict[str, str]:
    return {"TTS_NOTIFY_URL": f"{operator.url}/hook", "TTS_NOTIFY_SECRET": SECRET}


def is_well_signed(call: Call) -> bool:
    signed = f"{call.headers['webhook-id']}.{call.headers['webhook-timestamp']}.".encode()
    mac = hmac.digest(KEY, signed + call.body, "sha256")
    return call.headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()


def id_of(worker: Worker) -> str:
    return str(eventually(lambda: (worker.record or {}).get("id")))


def seen(event: str) -> list[dict[str, Any]]:
    return [e for e in events() if e["event"] == event]


def test_a_killed_primary_is_told_once_under_the_new_epoch(
    cluster: Cluster, operator: Receiver, tmp_path: Path
) -> None:
    """Kill -9: endpoint and command each get one notice, of the one who has taken over."""
    written = tmp_path / "notice.json"
    command = {"TTS_NOTIFY_COMMAND": shlex.join(["tee", "-a", str(written)])}
    operator.answers = [503]
    cluster.start("w1", "w2", **told_by_url(operator), **command)
    old = eventually(cluster.primary, what="there is a primary")
    old_id = id_of(old)
    old.kill()
    eventually(lambda: len(seen("notice.sent")) == 2, what="both have taken the notice")
    eventually(lambda: seen("worker.dead"), what="the dead worker was recovered")
    assert synthesize.delay("一切照常").get(timeout=60)["attempt"] == 1
    (lane,) = cluster_status()["lanes"]
    refused, taken = operator.calls
    assert refused.body == taken.body
    assert refused.headers["webhook-id"] == taken.headers["webhook-id"]
    assert is_well_signed(refused)
    assert is_well_signed(taken)
    assert taken.headers["webhook-id"] == f"default:0-{lane['epoch']}"
    assert taken.content["type"] == "lane.failover"
    told = taken.content["data"]
    assert (told["old_holder"], told["new_holder"]) == (old_id, lane["primary"])
    assert (told["lane"], told["epoch"]) == ("default.0", lane["epoch"])
    assert told["reason"].startswith("its connection was closed")
    assert json.loads(written.read_text()) == taken.content
    tries = {e["to"].split()[0]: e["tries"] for e in seen("notice.sent")}
    assert tries == {operator.url: 2, "command": 1}
    assert not seen("notice.failed")


def test_a_lane_that_nobody_takes_is_told_and_then_that_somebody_did(
    cluster: Cluster, operator: Receiver
) -> None:
    """The standby is drained when the primary dies: it tells of the loss; later it leads."""
    cluster.start("w1", "w2", **told_by_url(operator))
    old = eventually(cluster.primary, what="there is a primary")
    (standby,) = [w for w in cluster.workers if w is not old]
    drain(standby.name, reason="dust")
    eventually(lambda: (standby.record or {}).get("draining"))
    old_id, epoch = id_of(old), cluster_status()["lanes"][0]["epoch"]
    old.kill()
    eventually(lambda: operator.calls, what="the loss is told")
    undrain(standby.name)
    eventually(lambda: len(operator.calls) == 2, what="the new primary is told")
    loss, failover = operator.calls
    assert all(map(is_well_signed, operator.calls))
    assert (loss.content["type"], loss.headers["webhook-id"]) == (
        "lane.no_primary",
        f"default:0-{epoch}-lost",
    )
    assert loss.content["data"]["old_holder"] == old_id
    assert loss.content["data"]["told_by"] == id_of(standby)
    assert (failover.content["type"], failover.headers["webhook-id"]) == (
        "lane.failover",
        f"default:0-{epoch + 1}",
    )
    assert failover.content["data"]["new_holder"] == id_of(standby)
    assert failover.content["data"]["gap_s"] > 6


def test_a_watchdog_tells_of_a_lane_whose_workers_all_died(
    cluster: Cluster, operator: Receiver, tmp_path: Path
) -> None:
    """`ttsctl watchdog`, the only one left: it deposes, recovers, tells, and ends by SIGTERM."""
    cluster.start("w1")
    old = eventually(cluster.primary, what="there is a primary")
    old_id = id_of(old)
    with (tmp_path / "watchdog.log").open("wb") as log:
        watchdog = subprocess.Popen(
            [sys.executable, "-m", "ttsctl", "watchdog"],
            env={**os.environ, **told_by_url(operator)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: b"watches" in (tmp_path / "watchdog.log").read_bytes())
        old.kill()
        eventually(lambda: operator.calls, what="the loss is told")
        (call,) = operator.calls
        told = call.content["data"]
        assert is_well_signed(call)
        assert (call.content["type"], told["old_holder"]) == ("lane.no_primary", old_id)
        assert told["told_by"].startswith(f"watchdog{watchdog.pid}@")
        assert {e["worker"] for e in seen("worker.dead")} == {old_id}
        watchdog.send_signal(signal.SIGTERM)
        assert watchdog.wait(30) == 0
    finally:
        watchdog.kill()
        watchdog.wait(30)


def test_a_clean_hand_over_is_told_with_its_reason(cluster: Cluster, operator: Receiver) -> None:
    """A switchover is a failover too, as far as operators are concerned; its reason is theirs."""
    cluster.start("w1", "w2", **told_by_url(operator))
    old = eventually(cluster.primary, what="there is a primary")
    old_id = id_of(old)
    answer = switchover(reason="new driver")
    eventually(lambda: operator.calls, what="the switchover is told")
    told = operator.calls[0].content["data"]
    assert (told["old_holder"], told["new_holder"]) == (old_id, answer["to"])
    assert told["reason"] == f"switchover to {answer['to']}: new driver"


def test_a_worker_whose_notices_cannot_work_does_not_start(cluster: Cluster) -> None:
    """A command that is not there is said at start, with the name of the variable."""
    with pytest.raises(AssertionError, match="TTS_NOTIFY_COMMAND: there is no program"):
        cluster.start("w1", TTS_NOTIFY_COMMAND="no-such-program")
