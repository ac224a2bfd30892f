"""Watches the device of a worker from its parent process.

Two threads: one asks the driver, which may hang; the other judges what was read, and that nothing
was. Neither is one of the agent's: a driver delays no renewal.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Protocol

from tts_workers.gpu_health import GpuHealth, GpuLostError

if TYPE_CHECKING:
    from tts_tasks.clock import Clock
    from tts_workers.gpu_health import GpuMonitor, GpuReading, GpuSettings, Verdict

logger = logging.getLogger(__name__)


class DeviceListener(Protocol):
    """What hears of the device: the agent."""

    def device_said(self, verdict: Verdict, shown: dict[str, Any]) -> None:
        """Learn how the device is."""
        ...


class GpuWatch:
    """Tells a listener, every ``every_s``, how a device is."""

    def __init__(
        self,
        monitor: GpuMonitor,
        listener: DeviceListener,
        settings: GpuSettings,
        *,
        every_s: float,
        clock: Clock,
    ) -> None:
        self._monitor = monitor
        self._listener = listener
        self._every_s = every_s
        self._clock = clock
        self._health = GpuHealth(settings, clock())
        self._mutex = threading.Lock()
        self._shown: dict[str, Any] = {}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=body, name=name, daemon=True)
            for name, body in (("gpu-read", self._read), ("gpu-judge", self._judge))
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop; a thread that waits for a driver that hangs is left behind."""
        self._stopping.set()
        self._threads[0].join(1.0)
        if not self._threads[0].is_alive():
            self._monitor.close()

    def read_once(self) -> None:
        """Read the device, and keep what was found."""
        reading: GpuReading | None = None
        lost = ""
        try:
            reading = self._monitor.read()
        except GpuLostError as error:
            lost = str(error)
        now_s = self._clock()
        with self._mutex:
            if reading is None:
                self._health.lost(lost, now_s)
            else:
                self._health.read(reading, now_s)
                self._shown = reading.shown()

    def judge_once(self) -> None:
        """Tell the listener how it is by what is known now."""
        with self._mutex:
            verdict, shown = self._health.verdict(self._clock()), self._shown
        self._listener.device_said(verdict, shown)

    def _read(self) -> None:
        while not self._stopping.is_set():
            try:
                self.read_once()
            except Exception:
                # whatever a driver's binding raises: judged as silence, and tried again
                logger.exception("the device could not be read")
            self._stopping.wait(self._every_s)

    def _judge(self) -> None:
        while not self._stopping.wait(self._every_s):
            self.judge_once()
