"""What the worker's child process is made of: engine host, link, job runner."""

from __future__ import annotations

import os

from celery import signals

from tts_tasks.settings import get_settings
from tts_tasks.tasks import install_runner
from tts_workers.engine_host import EngineHost
from tts_workers.job_runner import JobRunner
from tts_workers.leadership import BelievedLease
from tts_workers.link import ENVIRONMENT_VARIABLE, ChildLink


def start_child() -> None:
    """Connect to the parent, begin to load the engine, and plug in what runs jobs."""
    settings = get_settings()
    lease = BelievedLease()
    link = ChildLink(os.environ[ENVIRONMENT_VARIABLE], lease.parent_said)
    host = EngineHost(
        settings.engine,
        os.environ["TTS_WORKER_DEVICE"],
        link,
        storage_url=settings.storage_url,
    )
    install_runner(JobRunner(host, lease, link, settings, os.environ["TTS_WORKER_ID"]))
    host.start()  # last: it says that this process is ready
    signals.worker_process_shutdown.connect(lambda **_: host.close(), weak=False)
