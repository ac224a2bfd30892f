"""`celery -A tts_tasks worker`, started plainly: names, devices, refusals, the parent's memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.e2e.cluster import Worker
from tests.waiting import eventually
from tts_tasks import app, client, synthesize
from tts_tasks.cluster import cluster_status
from tts_tasks.routing import route_of
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.e2e

COMMAND = [sys.executable, "-m", "celery", "-A", "tts_tasks", "worker"]
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
#: Parts of the names of shared objects that an engine, or the making of audio, brings with it.
ENGINES = ("espeak", "torch", "cuda", "onnxruntime")
AUDIO = ("sndfile", "soxr", "_multiarray_umath")

#: A host with two GPUs, and an engine that would use one.
NVIDIA_SMI = """#!/bin/sh
echo "0, GPU-aaaa1111-0000, Test GPU A, 24564, 1024"
echo "1, GPU-bbbb2222-0000, Test GPU B, 24564, 24000"
"""
GPU_ENGINE = """
from tts_workers.engines.espeak import EspeakEngine

class GpuVoice(EspeakEngine):
    name = "gpuvoice"

    def load(self, device):
        assert device == "cuda", device
        super().load("cpu")
"""


def start(cluster: Cluster, *options: str, **environment: str) -> Worker:
    """Start a worker as a newcomer would, without a name; the cluster ends it."""
    log = cluster.directory / f"plain{len(cluster.workers)}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*COMMAND, *options],
            env={**os.environ, **NO_GPU, **environment},
            cwd=cluster.directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    worker = Worker(log.stem, process, log)
    cluster.workers.append(worker)
    return worker


def record_of(worker: Worker, *, ready: bool = True) -> dict[str, Any]:
    """Wait until the worker has joined, ready or not, and return what the registry says of it."""

    def joined() -> dict[str, Any] | None:
        if worker.process.poll() is not None:
            raise AssertionError(f"the worker ended: {worker.tail()}")
        record = worker.record
        return record if record and record["ready"] is ready else None

    return dict(eventually(joined, what=f"{worker.name} has joined, ready={ready}"))


def refused(tmp_path: Path, *options: str, **environment: str) -> str:
    """Run a worker that must not start; return the one line that says why."""
    done = subprocess.run(
        [*COMMAND, *options],
        env={**os.environ, **NO_GPU, **environment},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1, done.stderr
    assert done.stderr.rstrip().endswith(errors[0]), "the error is not one line, or not the last"
    return errors[0]


def mapped_objects(pid: int) -> set[str]:
    """Return the names of the shared objects that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    names = {Path(line.split(maxsplit=5)[5]).name for line in lines if "/" in line}
    return {name for name in names if ".so" in name}


def holds(objects: set[str], parts: tuple[str, ...]) -> set[str]:
    """Return the objects whose name has one of these parts."""
    return {name for name in objects if any(part in name.lower() for part in parts)}


def visible_devices(worker: Worker) -> str:
    """Return what CUDA may see in the worker's child, as of its birth."""
    return str(psutil.Process(worker.child_pid).environ()["CUDA_VISIBLE_DEVICES"])


@pytest.fixture
def two_gpus(tmp_path: Path) -> dict[str, str]:
    """Environment of a host with two GPUs on which the engine `gpuvoice` is installed."""
    site = tmp_path / "site"
    package = site / "gpuvoice-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: gpuvoice\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[tts_tasks.engines]\ngpuvoice = gpuvoice:GpuVoice\n")
    (site / "gpuvoice.py").write_text(GPU_ENGINE)
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    return {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "TTS_GPU_LOCK_DIR": str(tmp_path / "locks"),
    }


def test_two_plain_workers_of_a_host_are_two(cluster: Cluster) -> None:
    """Without -n two workers have distinct names and ids, and without a GPU they use the CPU."""
    started = [start(cluster), start(cluster)]

    records = [record_of(worker) for worker in started]

    assert len({record["id"] for record in records}) == 2
    assert {record["device"] for record in records} == {"cpu"}
    nodes = {record["id"].split("/")[0] for record in records}
    assert eventually(lambda: set(app.control.inspect(timeout=0.5).ping() or {}) >= nodes)
    roles = eventually(
        lambda: (
            (r := sorted(w["role"] for w in cluster_status()["workers"])) != ["standby"] * 2 and r
        )
    )
    assert roles == ["primary", "standby"]


def test_a_gpu_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    """`--gpu 0` without a GPU ends with 2 and says what to do instead."""
    error = refused(tmp_path, "--gpu", "0")
    assert "--gpu 0: no NVIDIA GPU" in error
    assert "--gpu cpu" in error


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        (("--gpu", "banana"), {}, ("--gpu banana", "auto", "cpu")),
        (("--concurrency", "2"), {}, ("--concurrency 1", "more workers")),
        (("--pool", "threads"), {}, ("prefork",)),
        (("--autoscale", "2,1"), {}, ("--concurrency 1",)),
        ((), {"TTS_ENGINE": "nonsense"}, ("TTS_ENGINE", "'nonsense'", "espeak", "paced")),
        ((), {"TTS_HEARTBEAT_S": "-1"}, ("TTS_HEARTBEAT_S", "greater than 0")),
        ((), {"TTS_RENEW_DEADLINE_S": "9"}, ("renew_deadline_s (9)", "lease_ttl_s (3)")),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    tmp_path: Path, options: tuple[str, ...], environment: dict[str, str], words: tuple[str, ...]
) -> None:
    """A wrong option or setting ends with 2, a line that names it, and no traceback."""
    error = refused(tmp_path, *options, **environment)
    for word in words:
        assert word in error


def test_the_parent_never_maps_an_engine(cluster: Cluster) -> None:
    """Engine and audio libraries are in the child and its helper; the parent coordinates."""
    worker = start(cluster, "--gpu", "cpu")
    assert record_of(worker)["device"] == "cpu"
    assert synthesize.delay("你好。").get(timeout=60)["attempt"] == 1

    parent, child = mapped_objects(worker.process.pid), mapped_objects(worker.child_pid)

    assert not holds(parent, ENGINES + AUDIO)
    # the same question finds them where they are, so the answer above means something
    assert holds(child, AUDIO)
    assert not holds(child, ENGINES)
    helpers = psutil.Process(worker.child_pid).children()
    assert any("espeak_helper" in " ".join(helper.cmdline()) for helper in helpers)


def test_the_device_is_pinned_before_the_child_starts(cluster: Cluster) -> None:
    """The child is born with CUDA_VISIBLE_DEVICES, so nothing it imports sees another device."""
    worker = start(cluster, "--gpu", "cpu")
    record_of(worker)

    assert visible_devices(worker) == "-1"


def test_workers_never_share_a_gpu_by_accident(cluster: Cluster, two_gpus: dict[str, str]) -> None:
    """`auto`, the default, gives each worker a GPU of its own; what is taken is refused by name."""
    started = [start(cluster, **two_gpus, TTS_ENGINE="gpuvoice") for _ in range(2)]
    records = [record_of(worker) for worker in started]

    pinned = [visible_devices(worker) for worker in started]
    third = refused(cluster.directory, **two_gpus, TTS_ENGINE="gpuvoice")
    named = refused(cluster.directory, "--gpu", "1", **two_gpus)

    assert sorted(pinned) == ["GPU-aaaa1111-0000", "GPU-bbbb2222-0000"]
    for record, uuid in zip(records, pinned, strict=True):
        assert uuid in record["device"]
        assert record["id"] in third
    assert "no free GPU" in third
    assert records[pinned.index("GPU-bbbb2222-0000")]["id"] in named


def test_an_engine_without_a_gpu_leaves_the_gpus_to_others(
    cluster: Cluster, two_gpus: dict[str, str]
) -> None:
    """`auto` takes no lease for espeak; an index given by hand is obeyed."""
    by_default, by_hand = start(cluster, **two_gpus), start(cluster, "--gpu", "0", **two_gpus)

    assert record_of(by_default)["device"] == "cpu"
    assert "GPU-aaaa1111-0000" in record_of(by_hand)["device"]
    assert [visible_devices(by_default), visible_devices(by_hand)] == ["-1", "GPU-aaaa1111-0000"]


class Planted:
    """Makes a folder in whatever process unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickled_message_is_refused_and_harms_nothing(
    cluster: Cluster, tmp_path: Path, redis_client: redis.Redis
) -> None:
    """What is not JSON is thrown away unread; the next job of the same queue is spoken."""
    worker = start(cluster, "--gpu", "cpu")
    before = record_of(worker)
    queue = route_of(get_settings()).online_queue
    harm = tmp_path / "harm"

    app.send_task("tts_tasks.synthesize", args=[Planted(harm)], serializer="pickle", queue=queue)
    record = synthesize.delay("下一位。").get(timeout=60)

    assert record["attempt"] == 1
    assert record_of(worker)["id"] == before["id"]
    assert not harm.exists()
    assert "pickle" in worker.tail()
    assert redis_client.llen(queue) == 0
    eventually(lambda: not redis_client.keys("*unacked*"), what="the message is off the books")


def test_a_worker_whose_engine_does_not_load_gets_no_job(cluster: Cluster) -> None:
    """Jobs of both queues wait while the only worker loads, and go to one that has spoken."""
    loading = start(cluster, TTS_ENGINE="paced", TTS_PACED_LOAD_S="600")
    node = record_of(loading, ready=False)["id"].split("/")[0]
    eventually(lambda: app.control.inspect([node], timeout=0.5).ping(), what="its consumer is up")
    online = synthesize.delay("请稍候。")
    client.submit_batch([{"text": f"{n}号。", "output_name": f"n{n}"} for n in range(3)], id="wait")
    status = cluster_status()
    assert [(w["role"], w["ready"]) for w in status["workers"]] == [("loading", False)]
    assert status["lanes"][0]["primary"] is None
    assert set(status["queues"].values()) == {1, 3}

    ready = record_of(start(cluster))

    record = online.get(timeout=60)
    results = list(client.follow("wait", timeout_s=60))
    assert record["worker"] == ready["id"]
    assert {(r.worker, r.attempt, r.state) for r in results} == {(ready["id"], 1, "succeeded")}
    assert (loading.record or {})["ready"] is False
