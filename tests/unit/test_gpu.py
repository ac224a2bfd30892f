"""Device pinning: what ``--gpu`` chooses, and that two workers never get one GPU by accident."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tts_tasks.errors import ConfigurationError
from tts_workers.gpu import (
    Device,
    Gpu,
    NvidiaSmiInventory,
    choose_device,
    parse_nvidia_smi,
    pin,
    visible_gpus,
)
from tts_workers.gpu_locks import GpuLocks, default_lock_dir, sharing_allowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
GIB = 1024**3
BUSY = Gpu(0, "GPU-aaaa1111-0000", "Test GPU A", 24 * GIB, 2 * GIB)
IDLE = Gpu(1, "GPU-bbbb2222-0000", "Test GPU B", 24 * GIB, 23 * GIB)


@dataclass(frozen=True, slots=True)
class FixedInventory:
    """An inventory given by hand."""

    devices: tuple[Gpu, ...] = ()

    def gpus(self) -> Sequence[Gpu]:
        """Return the devices given."""
        return self.devices


TWO_GPUS = FixedInventory((BUSY, IDLE))
NO_GPU = FixedInventory()

HOLD = """
import sys
from pathlib import Path
from tts_workers.gpu_locks import GpuLocks
lock = GpuLocks("other-worker", Path(sys.argv[1]), shared=False).acquire(sys.argv[2])
print("held" if lock else "refused", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def locks(tmp_path: Path) -> GpuLocks:
    """Lock files of a test's own host."""
    return GpuLocks("this-worker", tmp_path, shared=False)


@pytest.fixture
def other_worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process of this host that has leased the idle GPU."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "workers")))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), IDLE.uuid],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def fake_nvidia_smi(tmp_path: Path, body: str) -> str:
    """Write a program that answers like nvidia-smi; returns its path."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return str(program)


# -- choosing ------------------------------------------------------------------------------------


def test_cpu_asks_nobody(locks: GpuLocks) -> None:
    """``--gpu cpu`` works on a host whose GPUs cannot even be listed."""

    class Broken:
        def gpus(self) -> list[Gpu]:
            raise ConfigurationError("broken driver")

    assert choose_device(" CPU ", Broken(), locks) == Device("cpu")


def test_a_number_is_that_gpu(locks: GpuLocks) -> None:
    """``--gpu 1`` is the second visible GPU, leased."""
    device = choose_device("1", TWO_GPUS, locks)

    assert (device.kind, device.index, device.uuid) == ("cuda", 1, IDLE.uuid)
    assert device.lock is not None
    assert locks.acquire(IDLE.uuid) is None


def test_a_number_without_any_gpu_is_a_clear_error(locks: GpuLocks) -> None:
    """``--gpu 0`` on a machine without a GPU says so and names the way out."""
    with pytest.raises(ConfigurationError, match=r"--gpu 0: no NVIDIA GPU.*--gpu cpu"):
        choose_device("0", NO_GPU, locks)


def test_a_number_too_high_lists_what_there_is(locks: GpuLocks) -> None:
    """``--gpu 7`` with two GPUs lists both."""
    with pytest.raises(ConfigurationError, match=r"no such GPU.*0: Test GPU A.*1: Test GPU B"):
        choose_device("7", TWO_GPUS, locks)


@pytest.mark.parametrize("spec", ["", "gpu", "-1", "0,1", "1.0", "٣"])
def test_nonsense_is_refused(spec: str, locks: GpuLocks) -> None:
    """Anything but a number, auto and cpu is refused before a device is looked for."""
    with pytest.raises(ConfigurationError, match="must be a GPU's number, auto or cpu"):
        choose_device(spec, TWO_GPUS, locks)


def test_auto_prefers_the_gpu_with_more_free_memory(locks: GpuLocks) -> None:
    """``auto`` stays off a GPU that other programs fill, then takes what is left."""
    first = choose_device("auto", TWO_GPUS, locks)
    second = choose_device("auto", TWO_GPUS, locks)

    assert [first.index, second.index] == [1, 0]


def test_auto_without_gpus_is_the_cpu(locks: GpuLocks, caplog: pytest.LogCaptureFixture) -> None:
    """``auto`` on a machine without a GPU is the CPU, and says so."""
    assert choose_device("auto", NO_GPU, locks) == Device("cpu")
    assert "using the CPU" in caplog.text


def test_auto_with_every_gpu_taken_names_the_takers(
    locks: GpuLocks, other_worker: subprocess.Popen[str]
) -> None:
    """When no GPU is free, ``auto`` names the worker and the pid behind each, and uses no CPU."""
    choose_device("0", TWO_GPUS, locks)

    with pytest.raises(ConfigurationError) as refused:
        choose_device("auto", TWO_GPUS, locks)

    assert f"worker this-worker (pid {os.getpid()} on " in str(refused.value)
    assert f"worker other-worker (pid {other_worker.pid} on " in str(refused.value)


# -- the lease -----------------------------------------------------------------------------------


def test_a_taken_gpu_is_refused(locks: GpuLocks, other_worker: subprocess.Popen[str]) -> None:
    """``--gpu N`` fails clearly while another process has that GPU; ``auto`` takes the other."""
    with pytest.raises(ConfigurationError, match=rf"taken by .*pid {other_worker.pid} .*SHARED"):
        choose_device("1", TWO_GPUS, locks)

    assert choose_device("auto", TWO_GPUS, locks).index == 0


def test_kill_frees_the_gpu(locks: GpuLocks, other_worker: subprocess.Popen[str]) -> None:
    """SIGKILL of the holder frees its GPU at once, whatever its file still says."""
    other_worker.send_signal(signal.SIGKILL)
    other_worker.wait(timeout=30)

    assert choose_device("1", TWO_GPUS, locks).uuid == IDLE.uuid
    assert f"pid {os.getpid()} " in locks.holder(IDLE.uuid)


def test_release_frees_the_gpu(locks: GpuLocks) -> None:
    """A released lease can be taken again, and releasing twice harms nobody."""
    first = locks.acquire(IDLE.uuid)
    assert first is not None
    first.release()
    second = locks.acquire(IDLE.uuid)
    first.release()

    assert second is not None
    assert locks.acquire(IDLE.uuid) is None


def test_a_child_inherits_no_lease(locks: GpuLocks) -> None:
    """Neither exec nor fork hands the lease on: released by the parent, it is free."""
    lock = locks.acquire(IDLE.uuid)
    assert lock is not None
    with subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
        text=True,
    ) as executed:
        assert executed.stdout is not None
        executed.stdout.readline()
        up_reader, up_writer = os.pipe()
        forked = os.fork()
        if forked == 0:
            os.write(up_writer, b"up")
            signal.pause()
            os._exit(0)
        os.read(up_reader, 2)
        lock.release()

        again = locks.acquire(IDLE.uuid)

        os.kill(forked, signal.SIGKILL)
        os.waitpid(forked, 0)
        os.close(up_reader)
        os.close(up_writer)
        executed.kill()
    assert again is not None


def test_sharing_needs_the_consent_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TTS_GPU_SHARED lets workers share a GPU, but not with one that did not ask for it."""
    monkeypatch.setenv("TTS_GPU_LOCK_DIR", str(tmp_path))
    monkeypatch.setenv("TTS_GPU_SHARED", "1")
    sharing = GpuLocks("sharing")
    alone = GpuLocks("alone", tmp_path, shared=False)

    shared = [choose_device("0", TWO_GPUS, sharing) for _ in range(2)]

    assert [device.uuid for device in shared] == [BUSY.uuid, BUSY.uuid]
    assert alone.acquire(BUSY.uuid) is None
    assert alone.acquire(IDLE.uuid) is not None
    with pytest.raises(ConfigurationError, match="taken by worker alone"):
        choose_device("1", TWO_GPUS, sharing)


def test_a_removed_lock_file_is_not_trusted(
    locks: GpuLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock file removed between open and lock is opened anew: it would exclude no one."""
    opened: list[int] = []
    true_open = GpuLocks._open

    def open_then_remove(self: GpuLocks, path: Path) -> int:
        opened.append(true_open(self, path))
        if len(opened) == 1:
            path.unlink()
        return opened[-1]

    monkeypatch.setattr(GpuLocks, "_open", open_then_remove)

    assert locks.acquire(IDLE.uuid) is not None
    assert len(opened) == 2
    assert locks.acquire(IDLE.uuid) is None


def test_a_planted_symlink_is_not_followed(locks: GpuLocks, tmp_path: Path) -> None:
    """A symbolic link in the place of a lock file is refused and its target left untouched."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    locks.path(IDLE.uuid).symlink_to(victim)

    with pytest.raises(ConfigurationError, match="symbolic link"):
        locks.acquire(IDLE.uuid)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("kind", ["fifo", "hard link", "large file"])
def test_what_is_no_lock_file_is_refused(kind: str, locks: GpuLocks, tmp_path: Path) -> None:
    """A FIFO, a hard link or a large file under the lock's name is refused and not truncated."""
    victim = tmp_path / "victim"
    victim.write_text("precious" * (1 if kind == "hard link" else 1000))
    path = locks.path(IDLE.uuid)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "hard link":
        path.hardlink_to(victim)
    else:
        victim.rename(path)

    with pytest.raises(ConfigurationError, match="not a lock file"):
        locks.acquire(IDLE.uuid)
    if kind != "fifo":
        assert path.read_text().startswith("precious")


def test_a_hostile_uuid_stays_in_the_directory(locks: GpuLocks, tmp_path: Path) -> None:
    """A UUID from the environment cannot name a file outside of the lock directory."""
    assert locks.path("MIG-GPU-1/../../etc/passwd").parent == tmp_path
    assert locks.acquire("MIG-GPU-1/../../etc/passwd") is not None


@pytest.mark.parametrize("record", [b"", b"\xff\xfe", b"[]", b"{}", b"[" * 1000, b'{"pid": "x"}'])
def test_a_broken_record_is_only_a_poorer_message(record: bytes, locks: GpuLocks) -> None:
    """The holder's record comes from outside: whatever it holds, the message still comes."""
    lock = locks.acquire(IDLE.uuid)
    assert lock is not None
    lock.path.write_bytes(record)

    with pytest.raises(ConfigurationError, match="taken by an unknown process"):
        choose_device("1", TWO_GPUS, locks)


def test_a_record_cannot_forge_the_terminal(locks: GpuLocks) -> None:
    """Control characters in a record do not reach the message."""
    lock = locks.acquire(IDLE.uuid)
    assert lock is not None
    lock.path.write_text(json.dumps({"worker": "a\x1b[2Jb", "pid": 1, "host": "h\n"}))

    assert locks.holder(IDLE.uuid) == "worker a?[2Jb (pid 1 on h?)"


def test_every_user_can_take_the_lock_file(locks: GpuLocks) -> None:
    """The lock file may be opened by any user of the host, whatever this process's umask."""
    mask = os.umask(0o077)
    try:
        lock = locks.acquire(IDLE.uuid)
    finally:
        os.umask(mask)

    assert lock is not None
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o666


def test_the_lock_directory_does_not_follow_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users with a TMPDIR of their own still meet in one directory; a setting overrides it."""
    monkeypatch.setenv("TMPDIR", "/somewhere/private")

    assert default_lock_dir({}) in {Path("/run/lock"), Path("/tmp")}  # noqa: S108
    assert default_lock_dir({"TTS_GPU_LOCK_DIR": "/run/tts"}) == Path("/run/tts")


def test_a_wrong_shared_setting_is_refused() -> None:
    """TTS_GPU_SHARED=maybe is an error, not a silent no."""
    with pytest.raises(ConfigurationError, match="TTS_GPU_SHARED"):
        sharing_allowed({"TTS_GPU_SHARED": "maybe"})


# -- what there is -------------------------------------------------------------------------------

SMI_OUTPUT = """\
0, GPU-aaaa1111-0000, Test GPU A, 24576, 2048
1, GPU-bbbb2222-0000, "Test GPU, B", 24576, [N/A]
"""


def test_nvidia_smi_is_read() -> None:
    """Index, UUID, name and memory in bytes come out; memory may be unknown."""
    first, second = parse_nvidia_smi(SMI_OUTPUT)

    assert first == BUSY
    assert (second.name, second.memory_free_bytes) == ("Test GPU, B", None)


def test_nvidia_smi_is_asked_for_what_is_read(tmp_path: Path) -> None:
    """The program gets the query whose columns the parser expects."""
    body = f"""case "$*" in
      "--query-gpu=index,uuid,name,memory.total,memory.free --format=csv,noheader,nounits")
        cat <<'END'\n{SMI_OUTPUT}END
        ;;
      *) exit 2 ;;
    esac"""
    inventory = NvidiaSmiInventory({}, program=fake_nvidia_smi(tmp_path, body))

    assert [gpu.uuid for gpu in inventory.gpus()] == [BUSY.uuid, IDLE.uuid]


@pytest.mark.parametrize("body", ["echo 'No devices were found'; exit 6", None])
def test_no_program_and_no_device_are_no_gpu(body: str | None, tmp_path: Path) -> None:
    """A host without nvidia-smi, or without a device behind it, has no GPU."""
    program = fake_nvidia_smi(tmp_path, body) if body else str(tmp_path / "absent")

    assert NvidiaSmiInventory({}, program=program).gpus() == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo 'Failed to communicate with the driver' >&2; exit 9", "exit status 9: Failed"),
        ("exec sleep 60", "no answer in 0.2 s"),
        ("echo surprise", "surprise"),
    ],
)
def test_a_broken_driver_is_an_error_and_no_fallback(
    body: str, said: str, tmp_path: Path, locks: GpuLocks
) -> None:
    """``auto`` does not fall back to the CPU when nvidia-smi is there and fails."""
    inventory = NvidiaSmiInventory({}, program=fake_nvidia_smi(tmp_path, body), timeout_s=0.2)

    with pytest.raises(ConfigurationError, match=rf"{said}.*--gpu cpu"):
        choose_device("auto", inventory, locks)


@pytest.mark.parametrize(
    ("value", "uuids"),
    [
        (None, [BUSY.uuid, IDLE.uuid]),
        ("1", [IDLE.uuid]),
        (" 1 , 0 ", [IDLE.uuid, BUSY.uuid]),
        ("GPU-bbbb", [IDLE.uuid]),
        ("0,-1,1", [BUSY.uuid]),
        ("-1", []),
        ("", []),
        ("MIG-1234", ["MIG-1234"]),
    ],
)
def test_cuda_visible_devices_narrows_and_renumbers(value: str | None, uuids: list[str]) -> None:
    """What the user or the container already restricted is all that ``--gpu`` can mean."""
    visible = visible_gpus(TWO_GPUS.gpus(), value)

    assert [gpu.uuid for gpu in visible] == uuids
    assert [gpu.index for gpu in visible] == list(range(len(uuids)))


@pytest.mark.parametrize("value", ["5", "GPU-cccc", "GPU-", "0,0", "0;1"])
def test_cuda_visible_devices_that_fits_nothing_is_an_error(value: str) -> None:
    """An entry CUDA would silently stop at is reported."""
    with pytest.raises(ConfigurationError, match="CUDA_VISIBLE_DEVICES"):
        visible_gpus(TWO_GPUS.gpus(), value)


# -- pinning -------------------------------------------------------------------------------------


def test_pin_shows_cuda_one_gpu_by_uuid() -> None:
    """A pinned GPU is the only visible one, named in a way no ordering can change."""
    environ = {"CUDA_VISIBLE_DEVICES": "0,1"}

    pin(Device("cuda", 1, IDLE.uuid, IDLE.name), environ)

    assert environ == {
        "CUDA_VISIBLE_DEVICES": IDLE.uuid,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert visible_gpus(TWO_GPUS.gpus(), environ["CUDA_VISIBLE_DEVICES"])[0].uuid == IDLE.uuid


def test_pin_to_the_cpu_hides_every_gpu() -> None:
    """On the CPU no library can find a GPU."""
    environ: dict[str, str] = {}

    pin(Device("cpu"), environ)

    assert environ["CUDA_VISIBLE_DEVICES"] == "-1"


def test_pin_after_torch_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning after torch was imported is refused: it would have no effect."""
    monkeypatch.setitem(sys.modules, "torch", None)
    environ: dict[str, str] = {}

    with pytest.raises(ConfigurationError, match="torch was imported before"):
        pin(Device("cpu"), environ)
    assert environ == {}
