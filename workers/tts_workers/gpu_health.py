"""Whether a GPU is well: what is read of it goes in, a verdict comes out. Pure but for the clock.

A device that is *broken* is used no more: its worker is not ready, and its engine is ended, since
what it computes cannot be trusted. One that is *hot* still computes right, only slowly: its worker
steps back while another one of the pool is ready. Either ends when nothing was found for a while.
Proved by ``tests/unit/test_gpu_health.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tts_tasks.errors import EngineLoadError, TTSError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Errors of an application, after which the GPU is as good as before. All others count, as they do
#: for NVIDIA's own device plugin (`NVIDIA/k8s-device-plugin`, ``internal/rm/health.go``), which
#: takes this list from https://docs.nvidia.com/deploy/xid-errors.
APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})
#: A driver that has not answered for so long hangs, in seconds.
SILENT_S: Final = 30.0

_GIB: Final = 1024**3


class GpuSettings(BaseSettings):
    """When a GPU is well, from the environment variables ``TTS_GPU_*``."""

    model_config = SettingsConfigDict(env_prefix="TTS_GPU_", frozen=True, extra="ignore")

    memory_bytes: Annotated[int, Field(ge=0)] = 0  #: that must be free before the engine loads
    hot_s: Annotated[float, Field(gt=0)] = 30.0  #: so long it may be slowed down by its heat
    well_s: Annotated[float, Field(ge=0)] = 60.0  #: so long nothing must be found after a fault
    readings: str = ""  #: a file that is read instead of asking the driver, see `FileMonitor`


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A GPU at one moment; None where the driver does not tell."""

    temperature_c: int | None = None
    slowdown_c: int | None = None  #: at which the hardware slows down
    power_w: float | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    throttled: tuple[str, ...] = ()  #: of ``hw_thermal, sw_thermal, power_brake, hw_slowdown``
    ecc_uncorrected: int | None = None  #: since the driver was loaded
    remapping_failed: bool = False  #: a row of its memory is bad, and could not be replaced
    xids: tuple[int, ...] = ()  #: errors that the driver has reported since the reading before

    def shown(self) -> dict[str, Any]:
        """Return what is worth telling with each heartbeat."""
        fields = {
            "temperature_c": self.temperature_c,
            "power_w": self.power_w,
            "memory_total_bytes": self.memory_total_bytes,
            "memory_free_bytes": self.memory_free_bytes,
            "throttled": list(self.throttled),
            "ecc_uncorrected": self.ecc_uncorrected,
        }
        return {name: value for name, value in fields.items() if value not in (None, [])}


@dataclass(frozen=True, slots=True)
class GpuUser:
    """A process that has memory of a GPU."""

    pid: int
    name: str
    memory_bytes: int | None = None

    def __str__(self) -> str:
        size = "" if self.memory_bytes is None else f", {self.memory_bytes / _GIB:.1f} GiB"
        return f"{self.name} (pid {self.pid}{size})"


class GpuLostError(TTSError):
    """The GPU cannot be reached any more, or the driver wants it reset."""


class GpuMonitor(Protocol):
    """Reads one GPU. Any call may take long, or forever: a driver may hang."""

    def read(self) -> GpuReading:
        """Return how it is now; raises `GpuLostError`."""
        ...

    def users(self) -> Sequence[GpuUser]:
        """Return who has memory of it, as far as the driver tells."""
        ...

    def close(self) -> None:
        """Let go of the driver."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a GPU; empty: nothing."""

    broken: str = ""
    hot: str = ""
    faults: int = 0  #: that were found so far: an engine that has seen one of them is ended


class GpuHealth:
    """Judges a GPU by its readings. Times are on one clock, in seconds."""

    def __init__(self, settings: GpuSettings, now_s: float) -> None:
        self._settings = settings
        self._read_s = now_s
        self._ecc: int | None = None
        self._broken = ""
        self._broken_s = 0.0  #: when that was found last
        self._faults = 0
        self._cool_s = now_s  #: when it was not slowed down by its heat last
        self._hot = ""
        self._hot_s = 0.0

    def read(self, reading: GpuReading, now_s: float) -> None:
        """Take a reading in."""
        self._read_s = now_s
        if found := self._event_of(reading):
            self._found(found, now_s, again=True)
        elif reading.remapping_failed:
            found = "a bad row of its memory could not be remapped: it is to be replaced"
            self._found(found, now_s)
        self._ecc = reading.ecc_uncorrected
        heat = _heat_of(reading)
        if not heat:
            self._cool_s = now_s
        elif self._hot or now_s - self._cool_s >= self._settings.hot_s:
            self._hot, self._hot_s = heat, now_s

    def lost(self, reason: str, now_s: float) -> None:
        """Learn that it could not be read."""
        self._read_s = now_s
        self._found(reason, now_s)

    def verdict(self, now_s: float) -> Verdict:
        """Return what is wrong with it."""
        if now_s - self._read_s >= SILENT_S:
            self._found(f"its driver has not answered for {SILENT_S:.0f} s", now_s)
        if self._broken and now_s - self._broken_s >= self._settings.well_s:
            self._broken = ""
        if self._hot and now_s - self._hot_s >= self._settings.well_s:
            self._hot = ""
        return Verdict(self._broken, self._hot, self._faults)

    def _found(self, fault: str, now_s: float, *, again: bool = False) -> None:
        """Note a fault; ``again``: it is an event, and not a state that lasts."""
        self._faults += again or not self._broken
        self._broken, self._broken_s = fault, now_s

    def _event_of(self, reading: GpuReading) -> str:
        fatal = [xid for xid in reading.xids if xid not in APPLICATION_XIDS]
        if fatal:
            return f"the driver has reported Xid {', '.join(map(str, fatal))}"
        ecc, before = reading.ecc_uncorrected, self._ecc
        if ecc is not None and before is not None and ecc > before:
            return f"its memory has had {ecc - before} more errors that ECC could not correct"
        return ""


def _heat_of(reading: GpuReading) -> str:
    thermal = [reason for reason in reading.throttled if reason.endswith("_thermal")]
    temperature_c, slowdown_c = reading.temperature_c, reading.slowdown_c
    at = "" if temperature_c is None else f" at {temperature_c} °C"
    if thermal:
        return f"it is slowed down by its heat{at} ({', '.join(thermal)})"
    if temperature_c is not None and slowdown_c is not None and temperature_c >= slowdown_c:
        return f"it is too hot{at}, and slows down from {slowdown_c} °C on"
    return ""


def check_memory(monitor: GpuMonitor, wanted_bytes: int) -> None:
    """Refuse to load an engine where too little memory is free; raises `EngineLoadError`."""
    try:
        reading = monitor.read()
    except GpuLostError as error:
        raise EngineLoadError(f"the GPU cannot be used: {error}") from error
    free_bytes = reading.memory_free_bytes
    if free_bytes is None or free_bytes >= wanted_bytes:
        return
    total_bytes = reading.memory_total_bytes
    of_total = "" if total_bytes is None else f" of {total_bytes / _GIB:.1f}"
    users = "; ".join(map(str, monitor.users())) or "nobody that the driver tells of"
    raise EngineLoadError(
        f"the GPU has {free_bytes / _GIB:.1f}{of_total} GiB free, and the engine needs "
        f"{wanted_bytes / _GIB:.1f} (TTS_GPU_MEMORY_BYTES). In use by {users}: end that, give "
        "this worker another GPU, or correct the setting"
    )
