"""``ttsctl up`` and ``ttsctl down``: a cluster on this machine."""

from __future__ import annotations

import logging
import re
import signal
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ttsctl.supervisor.state import UpState

DEFAULT_WORKERS = 2
_DEVICE = re.compile(r"auto|cpu|[0-9]{1,3}")


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help=f"How many workers. [default: one for each --gpu, else {DEFAULT_WORKERS}]",
)
@click.option(
    "--gpu",
    "gpu_specs",
    metavar="SPEC,...",
    default="auto",
    show_default=True,
    help="Devices: auto or cpu for all workers, or one of auto, cpu, N for each.",
)
@click.option("--engine", metavar="NAME", help="The workers' engine, instead of TTS_ENGINE.")
@click.option("--detach", "-d", is_flag=True, help="Go on in the background, return when ready.")
@click.option("--flower/--no-flower", default=True, show_default=True, help="Start Flower too.")
@click.option(
    "--flower-port",
    type=click.IntRange(1, 65535),
    help="Flower's port on 127.0.0.1. [default: any free one]",
)
@click.option(
    "--wait-s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="How long everything may take to become ready; 0: do not wait.",
)
@click.option(
    "--stop-timeout",
    "stop_timeout_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=20.0,
    show_default=True,
    help="How long a worker that is stopped may go on with the job it has.",
)
def up(
    *,
    workers: int | None,
    gpu_specs: str,
    engine: str | None,
    detach: bool,
    flower: bool,
    flower_port: int | None,
    wait_s: float,
    stop_timeout_s: float,
) -> None:
    """Start a cluster on this machine.

    Redis (unless TTS_REDIS_URL names one), workers and Flower are started, kept alive, and ended
    by Ctrl-C or `ttsctl down`. What they say goes to $TTS_HOME/logs.
    """
    from tts_tasks.settings import get_settings
    from ttsctl.supervisor.detached import start_detached
    from ttsctl.supervisor.plan import UpOptions
    from ttsctl.supervisor.service import run_up

    settings = get_settings()
    options = UpOptions(
        gpus=devices_of_workers(gpu_specs, workers),
        engine=engine,
        flower=flower,
        flower_port=flower_port,
        wait_s=wait_s,
        stop_timeout_s=stop_timeout_s,
    )
    if detach:
        _say(f"starting {len(options.gpus)} workers; log: {settings.home / 'logs' / 'up.log'}")
        _say_how_to_look(start_detached(settings, options), ready=wait_s > 0)
        return
    _show_the_supervisors_log()
    ended_by = run_up(
        settings, options, announce=lambda state: _say_how_to_look(state, ready=wait_s > 0)
    )
    if ended_by == signal.SIGINT:
        raise KeyboardInterrupt


@click.command()
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="How long it may take to end in order; then it is made to hurry, then it is killed.",
)
def down(*, timeout_s: float) -> None:
    """Stop what `ttsctl up` started.

    Returns when none of its processes is left, also after `ttsctl up` itself was killed. What was
    accepted stays in Redis's files, and goes on at the next `ttsctl up`.
    """
    from tts_tasks.settings import get_settings
    from ttsctl.supervisor.teardown import take_down

    home = get_settings().home
    report = take_down(home, timeout_s=timeout_s, say=_say)
    if report.was_running:
        _say("stopped" + (", by force" if report.killed else ""))
    elif report.was_gone:
        _say("`ttsctl up` had been killed; nothing of it runs any more")
    else:
        _say(f"nothing runs in {home}")
    if report.leftovers:
        _say(f"ended {report.leftovers} processes that were left over")


def devices_of_workers(specs: str, workers: int | None) -> tuple[str, ...]:
    """Return one device for each worker: ``auto``, ``cpu`` or the index of a GPU.

    Raises click.UsageError for a malformed list, for a number of devices that is not the number
    of workers, and for a GPU that is named twice.
    """
    devices = [spec.strip() for spec in specs.split(",")]
    for device in devices:
        if not _DEVICE.fullmatch(device):
            raise click.UsageError(f"--gpu: {device!r} is not auto, cpu or the index of a GPU")
    if len(devices) == 1 and devices[0] in {"auto", "cpu"}:
        return tuple(devices * (workers or DEFAULT_WORKERS))
    if workers is not None and workers != len(devices):
        raise click.UsageError(f"--gpu names {len(devices)} devices for {workers} workers")
    indices = [int(device) for device in devices if device.isdigit()]
    if len(set(indices)) < len(indices):
        raise click.UsageError(f"--gpu {specs}: two workers would share a GPU")
    return tuple(str(int(device)) if device.isdigit() else device for device in devices)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _say_how_to_look(state: UpState, *, ready: bool) -> None:
    _say(f"{len(state.workers)} workers are {'ready' if ready else 'started'}")
    if state.flower_url:
        _say(f"  Flower:  {state.flower_url}")
    _say("  look:    ttsctl status")
    _say("  speak:   ttsctl say TEXT")
    _say("  stop:    ttsctl down")


def _show_the_supervisors_log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("ttsctl.up").addHandler(handler)
