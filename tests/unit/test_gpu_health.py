"""When a GPU is well, and who says so: readings go in, verdicts and errors come out."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import eventually
from tts_tasks.errors import ConfigurationError, EngineLoadError
from tts_tasks.testing import FakeClock
from tts_workers.gpu_health import (
    APPLICATION_XIDS,
    GpuHealth,
    GpuLostError,
    GpuReading,
    GpuSettings,
    GpuUser,
    Verdict,
    check_memory,
)
from tts_workers.gpu_monitors import FileMonitor, NvmlMonitor, monitor_of
from tts_workers.gpu_watch import GpuWatch

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = GpuSettings(hot_s=30, well_s=60)
WELL = GpuReading(temperature_c=60, slowdown_c=90, ecc_uncorrected=2)
GIB = 1024**3


@pytest.fixture
def health() -> GpuHealth:
    found = GpuHealth(SETTINGS, 0.0)
    found.read(WELL, 1.0)
    assert found.verdict(1.0) == Verdict()
    return found


# -- the verdict ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (replace(WELL, xids=(79,)), "Xid 79"),
        (replace(WELL, xids=(13, 48, 95)), "Xid 48, 95"),
        (replace(WELL, ecc_uncorrected=3), "1 more errors that ECC could not correct"),
        (replace(WELL, remapping_failed=True), "could not be remapped"),
    ],
)
def test_a_broken_gpu_is_well_when_nothing_was_found_for_a_while(
    health: GpuHealth, reading: GpuReading, words: str
) -> None:
    """The time counts from the last finding."""
    health.read(reading, 2.0)
    assert words in health.verdict(2.0).broken
    for now_s in (3.0, 30.0, 59.0):
        health.read(replace(reading, xids=(), remapping_failed=False), now_s)
    assert health.verdict(61.9).broken
    assert not health.verdict(62.0).broken


def test_errors_of_applications_are_not_the_gpus(health: GpuHealth) -> None:
    """As NVIDIA's device plugin has it; nor are errors from before the worker came."""
    health.read(replace(WELL, xids=tuple(APPLICATION_XIDS)), 2.0)
    assert health.verdict(2.0) == Verdict()
    assert GpuHealth(SETTINGS, 0.0).verdict(1.0) == Verdict()


def test_a_gpu_that_is_lost_stays_broken_while_it_is(health: GpuHealth) -> None:
    """It counts as one fault; an event is one each time."""
    for now_s in (2.0, 100.0):
        health.lost("it is lost", now_s)
        assert health.verdict(now_s) == Verdict(broken="it is lost", faults=1)
    health.read(replace(WELL, xids=(79,)), 101.0)
    health.read(replace(WELL, xids=(79,)), 102.0)
    assert health.verdict(102.0).faults == 3


def test_a_driver_that_does_not_answer_is_a_fault(health: GpuHealth) -> None:
    """It may hang for good; nobody is to wait for it."""
    assert health.verdict(30.9) == Verdict()
    assert "has not answered for 30 s" in health.verdict(31.0).broken
    health.read(WELL, 40.0)
    assert health.verdict(60.0).broken
    health.read(WELL, 89.0)
    health.read(WELL, 91.0)
    assert not health.verdict(91.1).broken


@pytest.mark.parametrize(
    "hot",
    [
        replace(WELL, temperature_c=90),
        replace(WELL, throttled=("hw_thermal", "hw_slowdown")),
        replace(WELL, throttled=("sw_thermal",), temperature_c=None),
    ],
)
def test_heat_counts_when_it_lasts(health: GpuHealth, hot: GpuReading) -> None:
    """A moment of it is no matter; it is over when it was cool for a while."""
    health.read(hot, 20.0)
    health.read(WELL, 25.0)
    health.read(hot, 54.0)
    assert health.verdict(54.0) == Verdict()
    health.read(hot, 55.0)
    assert health.verdict(55.0).hot
    assert not health.verdict(55.0).broken
    health.read(WELL, 100.0)
    assert health.verdict(114.0).hot
    health.read(WELL, 114.0)
    assert health.verdict(115.0) == Verdict()


def test_slowed_down_for_its_power_is_not_hot(health: GpuHealth) -> None:
    """That is how a GPU is run at its limit."""
    for now_s in (2.0, 20.0, 40.0):
        health.read(replace(WELL, throttled=("power_brake", "hw_slowdown")), now_s)
    assert health.verdict(40.0) == Verdict()


# -- memory ---------------------------------------------------------------------------------------


class Monitor:
    """A GPU of which a test says how it is."""

    def __init__(self) -> None:
        self.reading = WELL
        self.lost = ""
        self.taken: list[GpuUser] = []
        self.answers = threading.Event()
        self.answers.set()
        self.closed = False

    def read(self) -> GpuReading:
        self.answers.wait()
        if self.lost:
            raise GpuLostError(self.lost)
        return self.reading

    def users(self) -> list[GpuUser]:
        return self.taken

    def close(self) -> None:
        self.closed = True


def test_an_engine_does_not_load_where_its_memory_is_taken() -> None:
    """Who has it is named, as far as the driver tells."""
    monitor = Monitor()
    check_memory(monitor, 9 * GIB)  # it is not known
    monitor.reading = GpuReading(memory_total_bytes=24 * GIB, memory_free_bytes=9 * GIB)
    check_memory(monitor, 9 * GIB)
    monitor.taken = [GpuUser(4711, "/usr/bin/other", 15 * GIB), GpuUser(1, "a process")]
    with pytest.raises(EngineLoadError) as caught:
        check_memory(monitor, 10 * GIB)
    for words in ("9.0 of 24.0 GiB free", "needs 10.0", "/usr/bin/other (pid 4711, 15.0 GiB)"):
        assert words in str(caught.value)
    monitor.lost = "it is lost"
    with pytest.raises(EngineLoadError, match="it is lost"):
        check_memory(monitor, 1)


# -- where readings come from ---------------------------------------------------------------------


def test_a_file_stands_in_for_a_driver(tmp_path: Path) -> None:
    """Errors are told once; what cannot be read is a fault, and no file is no news."""
    path = tmp_path / "gpu.json"
    monitor = FileMonitor(path)
    assert monitor.read() == GpuReading()
    path.write_text(json.dumps({"temperature_c": 60, "throttled": ["sw_thermal"], "xids": [31]}))
    assert monitor.read() == GpuReading(60, throttled=("sw_thermal",), xids=(31,))
    path.write_text(json.dumps({"xids": [31, 79]}))
    assert monitor.read().xids == (79,)
    assert monitor.read().xids == ()
    for bad in ("no json", "[]", '{"unknown": 1}', '{"xids": ["a"]}', '{"lost": "gone"}'):
        path.write_text(bad)
        with pytest.raises(GpuLostError):
            monitor.read()


class _NvmlError(Exception):
    pass


def fake_nvml(**answers: Any) -> ModuleType:
    """Return a module that answers as NVIDIA's binding does; an exception is raised."""
    module: Any = ModuleType("pynvml")
    module.NVMLError = _NvmlError
    for name in ("NotSupported", "FunctionNotFound", "Timeout", "GpuIsLost", "ResetRequired"):
        setattr(module, f"NVMLError_{name}", type(name, (_NvmlError,), {}))
    for place, name in enumerate(("HwThermal", "SwThermal", "HwPowerBrake", "Hw")):
        setattr(module, f"nvmlClocksEventReason{name}Slowdown", 1 << place)
    for name in ("TEMPERATURE_GPU", "TEMPERATURE_THRESHOLD_SLOWDOWN", "VOLATILE_ECC"):
        setattr(module, f"NVML_{name}", name)
    module.NVML_MEMORY_ERROR_TYPE_UNCORRECTED = "UNCORRECTED"
    module.nvmlEventTypeXidCriticalError = 8
    memory = SimpleNamespace(total=24 * GIB, free=20 * GIB)
    known = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetHandleByUUID": "device",
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": "whole",
        "nvmlEventSetCreate": "events",
        "nvmlEventSetFree": None,
        "nvmlDeviceRegisterEvents": None,
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetPowerUsage": 251_300,
        "nvmlDeviceGetCurrentClocksEventReasons": 0b1001,
        "nvmlDeviceGetRemappedRows": (0, 1, 0, 0),
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetTemperatureThreshold": 95,
        "nvmlDeviceGetTotalEccErrors": 4,
        "nvmlEventSetWait_v2": module.NVMLError_Timeout(),
        "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=7, usedGpuMemory=GIB)],
        "nvmlSystemGetProcessName": "/usr/bin/python\n",
    }
    module.calls = []
    for name, answer in (known | answers).items():
        setattr(module, name, _answering(module, name, answer))
    return module


def _answering(module: Any, name: str, answer: Any) -> Any:
    def ask(*arguments: Any) -> Any:
        module.calls.append((name, arguments))
        found = answer.pop(0) if isinstance(answer, list) and name.endswith("_v2") else answer
        if isinstance(found, str) and found.startswith("NVMLError_"):
            found = getattr(module, found)(found)
        if isinstance(found, Exception):
            raise found
        return found

    return ask


def nvml(monkeypatch: pytest.MonkeyPatch, uuid: str = "GPU-1", **answers: Any) -> NvmlMonitor:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(**answers))
    return NvmlMonitor(uuid)


def test_what_nvml_says_is_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units are ours; each error is taken in once."""
    xid = SimpleNamespace(eventType=8, eventData=79)
    other = SimpleNamespace(eventType=1, eventData=1)
    waits = [xid, other, "NVMLError_Timeout"]
    monitor = nvml(monkeypatch, nvmlEventSetWait_v2=waits)
    assert monitor.read() == GpuReading(
        temperature_c=61,
        slowdown_c=95,
        power_w=251.3,
        memory_total_bytes=24 * GIB,
        memory_free_bytes=20 * GIB,
        throttled=("hw_thermal", "hw_slowdown"),
        ecc_uncorrected=4,
        xids=(79,),
    )
    assert list(monitor.users()) == [GpuUser(7, "/usr/bin/python", GIB)]
    monitor.close()


def test_what_a_gpu_does_not_know_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer card has no ECC, no remapping, and perhaps no events."""
    missing = "NVMLError_NotSupported"
    monitor = nvml(
        monkeypatch,
        nvmlDeviceGetTotalEccErrors=missing,
        nvmlDeviceGetRemappedRows=missing,
        nvmlDeviceGetPowerUsage="NVMLError_FunctionNotFound",
        nvmlDeviceGetMemoryInfo=missing,
        nvmlDeviceRegisterEvents=missing,
        nvmlDeviceGetComputeRunningProcesses=missing,
    )
    reading = monitor.read()
    assert (reading.ecc_uncorrected, reading.power_w, reading.memory_free_bytes) == (None,) * 3
    assert (reading.remapping_failed, reading.xids) == (False, ())
    assert list(monitor.users()) == []


@pytest.mark.parametrize("error", ["NVMLError_GpuIsLost", "NVMLError_ResetRequired", "NVMLError_"])
def test_a_driver_that_answers_with_an_error_has_lost_the_gpu(
    monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """Whatever it is: the GPU cannot be relied upon."""
    failing: Any = _NvmlError("unknown") if error == "NVMLError_" else error
    with pytest.raises(GpuLostError):
        nvml(monkeypatch, nvmlDeviceGetMemoryInfo=failing).read()


def test_an_instance_of_a_gpu_is_watched_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is its own; heat and errors are the whole GPU's."""
    monitor = nvml(monkeypatch, "MIG-1")
    monitor.read()
    asked = dict(sys.modules["pynvml"].calls)
    assert asked["nvmlDeviceGetMemoryInfo"] == ("device",)
    assert asked["nvmlDeviceGetTemperature"][0] == "whole"
    assert asked["nvmlDeviceRegisterEvents"][0] == "whole"


def test_without_a_gpu_or_its_library_nothing_is_watched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker starts all the same, and says so."""
    assert monitor_of(SETTINGS, None) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert monitor_of(SETTINGS, "GPU-1") is None
    with pytest.raises(ConfigurationError, match=r"tts-tasks\[gpu\]"):
        NvmlMonitor("GPU-1")
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(nvmlInit=_NvmlError("no driver")))
    with pytest.raises(ConfigurationError, match="no driver"):
        NvmlMonitor("GPU-1")
    file = GpuSettings(readings=str(tmp_path / "gpu.json"))
    assert isinstance(monitor_of(file, None), FileMonitor)


# -- the watch ------------------------------------------------------------------------------------


class Listener:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Verdict, dict[str, Any]]] = []

    def device_said(self, verdict: Verdict, shown: dict[str, Any]) -> None:
        self.heard.append((verdict, shown))


def test_the_watch_tells_what_it_reads() -> None:
    """Figures that are known, and the verdict."""
    monitor, listener = Monitor(), Listener()
    watch = GpuWatch(monitor, listener, SETTINGS, every_s=0.01, clock=FakeClock())
    watch.start()
    eventually(lambda: listener.heard and listener.heard[-1][1], what="it was read")
    assert listener.heard[-1] == (Verdict(), {"temperature_c": 60, "ecc_uncorrected": 2})
    monitor.lost = "it is lost"
    eventually(lambda: listener.heard[-1][0].broken == "it is lost", what="it is told")
    watch.close()
    assert monitor.closed


def test_a_driver_that_hangs_is_told_of_and_holds_up_nobody() -> None:
    """The thread that judges does not ask it."""
    monitor, listener, clock = Monitor(), Listener(), FakeClock()
    watch = GpuWatch(monitor, listener, SETTINGS, every_s=0.01, clock=clock)
    monitor.answers.clear()
    watch.start()
    clock.advance(31)
    eventually(lambda: listener.heard and listener.heard[-1][0].broken, what="it is told")
    assert "has not answered" in listener.heard[-1][0].broken
    monitor.answers.set()
    watch.close()
