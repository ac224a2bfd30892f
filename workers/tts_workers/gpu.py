"""Which device a worker speaks on: found, leased on this host, pinned before torch is imported.

The parent process of the worker does all three at its start and keeps the lease for its life::

    device = choose_device(spec, NvidiaSmiInventory(), GpuLocks(worker_name))
    pin(device)
"""

from __future__ import annotations

import csv
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

from tts_tasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from tts_workers.gpu_locks import GpuLock, GpuLocks

log = logging.getLogger(__name__)

_MIB: Final = 1024 * 1024
_QUERY: Final = "index,uuid,name,memory.total,memory.free"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as this process may use it; memory is None where the driver does not tell."""

    index: int  #: among the visible ones: what ``--gpu N`` means
    uuid: str
    name: str
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None


class GpuInventory(Protocol):
    """Knows the GPUs this process may use."""

    def gpus(self) -> Sequence[Gpu]:
        """Return the visible GPUs by index; raises `ConfigurationError` if that cannot be told."""
        ...


class NvidiaSmiInventory:
    """The GPUs that ``nvidia-smi`` lists, narrowed by ``CUDA_VISIBLE_DEVICES`` where it is set.

    Without the program there are no GPUs. A program that is there and fails is an error: a worker
    must not fall back to the CPU because a driver broke.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        program: str = "nvidia-smi",
        timeout_s: float = 5.0,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._program = program
        self._timeout_s = timeout_s

    def gpus(self) -> Sequence[Gpu]:
        """Ask nvidia-smi once; takes up to the time-out."""
        return visible_gpus(self._host_gpus(), self._environ.get("CUDA_VISIBLE_DEVICES"))

    def _host_gpus(self) -> list[Gpu]:
        command = [self._program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
        way_out = "repair the NVIDIA driver, or start the worker with --gpu cpu"
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=self._timeout_s,
                check=False,
                encoding="utf-8",
                errors="replace",
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            return []
        except subprocess.TimeoutExpired:
            raise ConfigurationError(
                f"{self._program} gave no answer in {self._timeout_s:g} s: {way_out}"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"cannot run {self._program}: {error}: {way_out}") from error
        if "No devices were found" in done.stdout:
            return []
        if done.returncode != 0:
            said = " ".join((done.stdout + done.stderr).split())[:300]
            raise ConfigurationError(
                f"{self._program} failed with exit status {done.returncode}: {said}: {way_out}"
            )
        return parse_nvidia_smi(done.stdout)


def parse_nvidia_smi(text: str) -> list[Gpu]:
    """Read the lines of ``nvidia-smi --query-gpu=… --format=csv,noheader,nounits`` (MiB)."""
    gpus = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if not row:
            continue
        if len(row) != _QUERY.count(",") + 1 or not row[0].isdigit():
            raise ConfigurationError(
                f"nvidia-smi answered {','.join(row)!r} where {_QUERY} was asked: "
                "start the worker with --gpu cpu, or look at `nvidia-smi -L`"
            )
        index, uuid, name, total, free = (value.strip() for value in row)
        gpus.append(Gpu(int(index), uuid, name, _mib_to_bytes(total), _mib_to_bytes(free)))
    return gpus


def _mib_to_bytes(value: str) -> int | None:
    # GPUs that share the host's memory answer "[N/A]".
    return int(value) * _MIB if value.isdigit() else None


def visible_gpus(host_gpus: Sequence[Gpu], cuda_visible_devices: str | None) -> list[Gpu]:
    """Narrow the host's GPUs to those CUDA_VISIBLE_DEVICES names, and number them from 0.

    Entries are indices in PCI order, UUIDs or their unique beginnings, or MIG instances. As in
    CUDA, an empty value or ``-1`` hides what follows. An entry that fits nothing would hide every
    GPU behind it without a word: here it is a `ConfigurationError`.
    """
    if cuda_visible_devices is None:
        return list(host_gpus)
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in cuda_visible_devices.split(",")):
        if entry in {"", "-1", "none", "void", "NoDevFiles"}:
            break
        gpu = _named(entry, host_gpus)
        if any(other.uuid == gpu.uuid for other in chosen):
            raise ConfigurationError(
                f"CUDA_VISIBLE_DEVICES={cuda_visible_devices}: names {gpu.uuid} twice"
            )
        chosen.append(
            Gpu(len(chosen), gpu.uuid, gpu.name, gpu.memory_total_bytes, gpu.memory_free_bytes)
        )
    return chosen


def _named(entry: str, host_gpus: Sequence[Gpu]) -> Gpu:
    if entry.startswith("MIG-"):
        # nvidia-smi's query lists whole GPUs only; the UUID is all that pinning needs.
        return Gpu(0, entry, "MIG instance")
    if entry.isascii() and entry.isdigit():
        found = [gpu for gpu in host_gpus if gpu.index == int(entry)]
    else:
        found = [gpu for gpu in host_gpus if gpu.uuid.lower().startswith(entry.lower())]
    if len(found) != 1:
        raise ConfigurationError(
            f"CUDA_VISIBLE_DEVICES: {entry!r} fits {len(found)} of this host's GPUs "
            f"({_list(host_gpus)}): correct or unset it"
        )
    return found[0]


def _list(gpus: Sequence[Gpu]) -> str:
    return "; ".join(f"{gpu.index}: {gpu.name} {gpu.uuid}" for gpu in gpus) or "there is none"


@dataclass(frozen=True, slots=True)
class Device:
    """Where a worker speaks. ``index`` is the one asked for; once pinned, CUDA calls it 0."""

    kind: Literal["cuda", "cpu"]
    index: int | None = None
    uuid: str | None = None
    name: str = "CPU"
    lock: GpuLock | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index} {self.name} {self.uuid}"


def choose_device(spec: str, inventory: GpuInventory, locks: GpuLocks) -> Device:
    """Choose and lease what ``--gpu`` asks for; raises `ConfigurationError` with the way out.

    ``cpu`` asks nobody. ``N`` is the N-th visible GPU, which must exist and be free. ``auto`` takes
    the free GPU with the most free memory; without any GPU it is the CPU, with GPUs that are all
    leased it is an error: a second worker on the CPU would look like a standby and not be one.
    """
    wanted = spec.strip().lower()
    if wanted == "cpu":
        return Device("cpu")
    if wanted == "auto":
        return _free_device(inventory.gpus(), locks)
    if not (wanted.isascii() and wanted.isdigit()):
        raise ConfigurationError(f"--gpu {spec}: must be a GPU's number, auto or cpu")
    gpus = inventory.gpus()
    gpu = next((gpu for gpu in gpus if gpu.index == int(wanted)), None)
    if gpu is None and not gpus:
        raise ConfigurationError(
            f"--gpu {wanted}: no NVIDIA GPU is visible to this process. Start the worker with "
            "--gpu cpu, or look at `nvidia-smi -L` and at CUDA_VISIBLE_DEVICES"
        )
    if gpu is None:
        raise ConfigurationError(f"--gpu {wanted}: there is no such GPU. Visible are {_list(gpus)}")
    lock = locks.acquire(gpu.uuid)
    if lock is None:
        raise ConfigurationError(
            f"--gpu {wanted}: {gpu.name} is taken by {locks.holder(gpu.uuid)}. Choose another GPU, "
            "stop that worker, or set TTS_GPU_SHARED=1 for both to share it"
        )
    return _device(gpu, lock)


def _free_device(gpus: Sequence[Gpu], locks: GpuLocks) -> Device:
    if not gpus:
        log.warning("--gpu auto: no NVIDIA GPU is visible to this process, using the CPU")
        return Device("cpu")
    for gpu in sorted(gpus, key=lambda gpu: (-(gpu.memory_free_bytes or 0), gpu.index)):
        lock = locks.acquire(gpu.uuid)
        if lock is not None:
            return _device(gpu, lock)
    taken = "; ".join(f"{gpu.index} ({gpu.name}) by {locks.holder(gpu.uuid)}" for gpu in gpus)
    raise ConfigurationError(
        f"--gpu auto: no free GPU, taken are {taken}. Stop one of these workers, start this one "
        "with --gpu cpu, or set TTS_GPU_SHARED=1 for all to share"
    )


def _device(gpu: Gpu, lock: GpuLock) -> Device:
    return Device("cuda", gpu.index, gpu.uuid, gpu.name, lock)


def pin(device: Device, environ: MutableMapping[str, str] | None = None) -> None:
    """Make ``device`` the only one CUDA will see in this process and its children.

    Must run before torch is imported, which reads the variables once; raises `ConfigurationError`
    if it is too late.
    """
    if "torch" in sys.modules:
        raise ConfigurationError(
            "torch was imported before the device was pinned: it may already hold another GPU. "
            "Nothing in the worker's parent process may import torch"
        )
    env = os.environ if environ is None else environ
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    # "-1" and not "": an empty variable is taken for an unset one by some launchers.
    env["CUDA_VISIBLE_DEVICES"] = device.uuid if device.uuid is not None else "-1"
