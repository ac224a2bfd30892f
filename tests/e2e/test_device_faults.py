"""A GPU goes bad under a worker: somebody else serves, and it comes back when it is well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.waiting import eventually
from tts_tasks import client, synthesize
from tts_tasks.cluster import events

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.drill]

PACED = {"TTS_ENGINE": "paced", "TTS_PACED_COST": "0.1", "TTS_GPU_WELL_S": "5"}
WELL = {"temperature_c": 61, "slowdown_c": 90, "memory_free_bytes": 8 * 1024**3}


def say(path: Path, **fields: object) -> None:
    """Have a device be so from now on."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(WELL | fields))
    fresh.replace(path)


def test_a_broken_device_is_left_and_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    """The job in hand is spoken elsewhere; the worker is ready again with another engine process.

    The device is a file here: what reads a real one is shown with a double of NVIDIA's library.
    """
    files = {name: tmp_path / f"{name}.json" for name in ("w1", "w2")}
    for name, path in files.items():
        say(path)
        cluster.start(name, **PACED, TTS_GPU_READINGS=str(path))
    old = eventually(cluster.primary, what="there is a primary")
    record = old.record
    child = old.child_pid
    assert record is not None
    eventually(lambda: (old.record or {})["gpu"].get("temperature_c") == 61, what="it is told")
    # it takes far longer than it takes to notice the fault, also on a busy machine
    waiting = synthesize.delay("这是一段比较长的通知，请大家注意听。" * 16)
    eventually(lambda: (old.record or {})["job"], what="it has the job in hand")
    say(files[old.name], xids=[31, 79])
    faulty = eventually(lambda: (r := old.record) and r["fault"] and r, what="it is told")
    assert (faulty["role"], faulty["ready"]) == ("faulty", False)
    assert faulty["fault"] == "the driver has reported Xid 79"
    done = waiting.get(timeout=60)
    assert (done["attempt"], done["worker"] != record["id"]) == (2, True)
    eventually(lambda: (old.record or {}).get("ready"), what="it is well again")
    assert old.child_pid not in (0, child)
    assert (old.record or {})["role"] == "standby"
    told = [e for e in events() if e["event"].startswith("worker.device_")]
    assert [e["event"] for e in told] == ["worker.device_fault", "worker.device_well"]


def test_an_engine_waits_for_its_memory(cluster: Cluster, tmp_path: Path) -> None:
    """It says why it does not load, and loads when there is enough."""
    path = tmp_path / "gpu.json"
    say(path, memory_free_bytes=1024**3, memory_total_bytes=24 * 1024**3)
    environment = PACED | {
        "TTS_GPU_READINGS": str(path),
        "TTS_GPU_MEMORY_BYTES": str(9 * 1024**3),
    }
    cluster._spawn("w1", environment)

    def refused() -> list[str]:
        return [e["reason"] for e in events() if e["event"] == "engine.load_failed"]

    (reason, *_) = eventually(refused, what="it says why")
    assert "1.0 of 24.0 GiB free, and the engine needs 9.0 (TTS_GPU_MEMORY_BYTES)" in reason
    assert not (cluster.workers[0].record or {})["ready"]
    say(path, memory_free_bytes=20 * 1024**3)
    eventually(lambda: (cluster.workers[0].record or {}).get("ready"), what="it has loaded")
    assert client.cluster_status()["workers"][0]["fault"] == ""
