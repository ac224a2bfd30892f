"""Where readings of GPUs come from: NVIDIA's library, or a file."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tts_tasks.errors import ConfigurationError
from tts_workers.gpu_health import GpuLostError, GpuReading, GpuUser

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tts_workers.gpu_health import GpuMonitor, GpuSettings

logger = logging.getLogger(__name__)

#: Events of a GPU that are taken in at one reading.
_EVENTS_AT_ONCE: Final = 64


class NvmlMonitor:
    """`GpuMonitor` by NVIDIA's management library (extra ``gpu``: nvidia-ml-py).

    It opens no CUDA context, so it may live in the worker's parent process. Of a MIG instance,
    memory and processes are its own, and all else is that of the GPU which it is a part of.
    """

    def __init__(self, uuid: str) -> None:
        """Raise `ConfigurationError` where the library, or the GPU, is not there."""
        try:
            import pynvml
        except ImportError:
            raise ConfigurationError(
                "nvidia-ml-py is not installed: pip install 'tts-tasks[gpu]'"
            ) from None
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._device = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self._gpu = self._device
            if uuid.startswith("MIG-"):
                self._gpu = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self._device)
            self._events = self._registered()
        except pynvml.NVMLError as error:
            raise ConfigurationError(f"NVML cannot watch the GPU {uuid}: {error}") from error
        self._throttles = {
            pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hw_thermal",
            pynvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal",
            pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power_brake",
            pynvml.nvmlClocksEventReasonHwSlowdown: "hw_slowdown",
        }

    def _registered(self) -> Any:
        nvml = self._nvml
        events = nvml.nvmlEventSetCreate()
        try:
            nvml.nvmlDeviceRegisterEvents(self._gpu, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError_NotSupported:
            nvml.nvmlEventSetFree(events)
            return None
        return events

    def read(self) -> GpuReading:
        """Ask the driver; what it does not know of this GPU is left out."""
        nvml, gpu = self._nvml, self._gpu
        try:
            memory = self._told(lambda: nvml.nvmlDeviceGetMemoryInfo(self._device))
            power_mw = self._told(lambda: nvml.nvmlDeviceGetPowerUsage(gpu))
            clocks = self._told(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)) or 0
            remapped = self._told(lambda: nvml.nvmlDeviceGetRemappedRows(gpu))
            return GpuReading(
                temperature_c=self._told(
                    lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)
                ),
                slowdown_c=self._told(
                    lambda: nvml.nvmlDeviceGetTemperatureThreshold(
                        gpu, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
                    )
                ),
                power_w=None if power_mw is None else power_mw / 1000,
                memory_total_bytes=memory.total if memory else None,
                memory_free_bytes=memory.free if memory else None,
                throttled=tuple(name for bit, name in self._throttles.items() if clocks & bit),
                ecc_uncorrected=self._told(
                    lambda: nvml.nvmlDeviceGetTotalEccErrors(
                        gpu, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                    )
                ),
                remapping_failed=bool(remapped and remapped[3]),
                xids=self._xids(),
            )
        except (nvml.NVMLError_GpuIsLost, nvml.NVMLError_ResetRequired) as error:
            raise GpuLostError(f"it is lost, or is to be reset ({error})") from error
        except nvml.NVMLError as error:
            raise GpuLostError(f"the driver answers with an error: {error}") from error

    def _told(self, ask: Callable[[], Any]) -> Any:
        nvml = self._nvml
        with suppress(nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            return ask()
        return None

    def _xids(self) -> tuple[int, ...]:
        nvml = self._nvml
        found: list[int] = []
        while self._events is not None and len(found) < _EVENTS_AT_ONCE:
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError_Timeout:
                break
            if event.eventType == nvml.nvmlEventTypeXidCriticalError:
                found.append(int(event.eventData))
        return tuple(found)

    def users(self) -> Sequence[GpuUser]:
        """Return the processes that compute on it; those of other containers have no name."""
        nvml = self._nvml
        try:
            running = nvml.nvmlDeviceGetComputeRunningProcesses(self._device)
        except nvml.NVMLError as error:
            logger.debug("the users of the GPU are not told: %s", error)
            return []
        return [GpuUser(one.pid, self._name(one.pid), one.usedGpuMemory) for one in running]

    def _name(self, pid: int) -> str:
        try:
            name = self._nvml.nvmlSystemGetProcessName(pid)
        except self._nvml.NVMLError:
            return "a process"
        text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        return "".join(char for char in text if char.isprintable())[:100]

    def close(self) -> None:
        """Free the events and the library."""
        with suppress(self._nvml.NVMLError):
            if self._events is not None:
                self._nvml.nvmlEventSetFree(self._events)
            self._nvml.nvmlShutdown()


class FileMonitor:
    """`GpuMonitor` that reads a JSON object from a file: the fields of `GpuReading`.

    ``xids`` are all that there were so far, and ``lost`` is a text. So tests, and devices that
    NVML does not know, take part in what is done for GPUs. A file that is not there tells nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._xids = 0

    def read(self) -> GpuReading:
        """Read the file; raises `GpuLostError` for one that is no reading."""
        try:
            fields = json.loads(self._path.read_bytes() or b"{}")
            lost = fields.pop("lost", "")
            xids = tuple(map(int, fields.pop("xids", ())))
            throttled = tuple(map(str, fields.pop("throttled", ())))
            reading = GpuReading(xids=xids[self._xids :], throttled=throttled, **fields)
        except FileNotFoundError:
            return GpuReading()
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise GpuLostError(f"{self._path} is no reading: {error}") from error
        self._xids = len(xids)
        if lost:
            raise GpuLostError(str(lost))
        return reading

    def users(self) -> Sequence[GpuUser]:
        """Return nobody: a file does not tell."""
        return []

    def close(self) -> None:
        """Do nothing."""


def monitor_of(settings: GpuSettings, uuid: str | None) -> GpuMonitor | None:
    """Return what reads a device; None where there is nothing to read, or no way to.

    ``uuid``: of a GPU; None: the device is the CPU.
    """
    if settings.readings:
        return FileMonitor(Path(settings.readings))
    if uuid is None:
        return None
    try:
        return NvmlMonitor(uuid)
    except ConfigurationError as error:
        logger.warning("the health of the GPU is not watched: %s", error)
        return None
