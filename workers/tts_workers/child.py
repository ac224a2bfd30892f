"""What the worker's child process is made of: engine host, link, job runner."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from celery import signals

from tts_tasks.settings import get_settings
from tts_tasks.tasks import install_runners
from tts_workers.batch_runner import BatchRunner
from tts_workers.child_traces import relay_stderr, stderr_address, write_stacks_later
from tts_workers.engine_host import EngineHost
from tts_workers.evidence import LogForwarder
from tts_workers.gpu_health import GpuSettings, check_memory
from tts_workers.gpu_monitors import monitor_of
from tts_workers.job_runner import JobRunner
from tts_workers.leadership import BelievedLease
from tts_workers.link import ENVIRONMENT_VARIABLE, ChildLink
from tts_workers.pace import Pace
from tts_workers.step_budgets import StepBudgets
from tts_workers.workbench import Workbench

if TYPE_CHECKING:
    from tts_tasks.events import EventLog


def start_child() -> None:
    """Connect to the parent, begin to load the engine, and plug in what runs jobs."""
    settings = get_settings()
    lease = BelievedLease()
    address = os.environ[ENVIRONMENT_VARIABLE]
    link = ChildLink(address, lease.parent_said, lease.parent_gone)
    relay_stderr(stderr_address(address))
    logging.root.addHandler(LogForwarder(link.say))

    budgets = StepBudgets(
        lambda budget_s: link.show({"event": "budget", "budget_s": budget_s}), write_stacks_later
    )
    pace = Pace(
        budgets,
        floor_s=settings.silence_s,
        factor=settings.progress_factor,
        unknown_s=settings.first_step_s,
    )
    host = EngineHost(
        settings.engine,
        os.environ["TTS_WORKER_DEVICE"],
        link,
        pace=pace,
        storage_url=settings.storage_url,
        lane_key=settings.lane_key,
        check_device=_check_device,
    )
    bench = Workbench.of(host, lease, link, settings, os.environ["TTS_WORKER_ID"])
    batch_runner = BatchRunner(bench)
    install_runners(JobRunner(bench), batch_runner)
    threading.Thread(
        target=_pulse, args=(link, budgets, settings.heartbeat_s / 2), name="pulse", daemon=True
    ).start()
    # not in the pulse's thread: a store that does not answer would hold the pulse up
    owed = (bench.events, batch_runner, settings.heartbeat_s)
    threading.Thread(target=_settle, args=owed, name="settle", daemon=True).start()
    host.start()  # last: it says that this process is ready

    def end(**_: object) -> None:
        host.close()
        bench.events.close()

    signals.worker_process_shutdown.connect(end, weak=False)


def _check_device() -> None:
    """See that the engine's memory is there, where it is known how much that is."""
    settings = GpuSettings()
    if not settings.memory_bytes:
        return
    pinned = os.environ.get("CUDA_VISIBLE_DEVICES", "-1")
    monitor = monitor_of(settings, None if pinned == "-1" else pinned)
    if monitor is not None:
        with contextlib.closing(monitor):
            check_memory(monitor, settings.memory_bytes)


def _pulse(link: ChildLink, budgets: StepBudgets, every_s: float) -> None:
    """Tell the parent that this process runs; see `ChildWatch`."""
    while True:
        budgets.keep()
        link.say({"event": "pulse"})
        time.sleep(every_s)


def _settle(events: EventLog, batch_runner: BatchRunner, every_s: float) -> None:
    """Make up for what could not be said while the store was away."""
    while True:
        time.sleep(every_s)
        events.flush()
        batch_runner.give_back_what_is_owed()
