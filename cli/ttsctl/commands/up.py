"""``ttsctl up`` and ``ttsctl down``: a cluster on this machine."""

from __future__ import annotations

import logging
import re
import signal
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_tasks.settings import Settings
    from ttsctl.supervisor.plan import PoolPlan
    from ttsctl.supervisor.state import UpState

DEFAULT_WORKERS, MAX_WORKERS = 2, 64
_DEVICE = re.compile(r"auto|cpu|[0-9]{1,3}")
_POOL = re.compile(r"(?P<name>[^:]+):(?P<engine>[^:\s]+)(?::(?P<workers>[1-9][0-9]{0,2}))?")


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(1, MAX_WORKERS),
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
@click.option(
    "--pool",
    "pool_specs",
    multiple=True,
    metavar="NAME:ENGINE[:WORKERS]",
    help="Start a pool of workers with this engine, 2 unless it says how many. Can be repeated; "
    "instead of --workers and --engine.",
)
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
    pool_specs: tuple[str, ...],
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
    if pool_specs and (workers is not None or engine is not None):
        raise click.UsageError("--pool says engine and number of workers: leave the others out")
    pools = pools_of(pool_specs)
    options = UpOptions(
        gpus=devices_of_workers(gpu_specs, sum(pool.workers for pool in pools) or workers),
        engine=engine,
        pools=pools,
        flower=flower,
        flower_port=flower_port,
        wait_s=wait_s,
        stop_timeout_s=stop_timeout_s,
    )
    _check(settings, {pool.engine for pool in pools} or {engine or settings.engine})
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


def _check(settings: Settings, engines: set[str]) -> None:
    """Refuse what no worker would get ready with, before anybody waits for it.

    Raises `ConfigurationError`, and `UnavailableError` for a storage that takes nothing.
    """
    from tts_tasks.errors import ConfigurationError, UnavailableError
    from tts_workers.engines import check_installed
    from ttsctl.checks import check_storage

    for engine in sorted(engines):
        check_installed(engine)
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"TTS_HOME: {settings.home}: {error.strerror}") from error
    storage = check_storage(settings.storage_url)
    if storage.verdict == "fail":
        raise UnavailableError(f"TTS_STORAGE_URL: {storage.found}: {storage.remedy}")


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


def pools_of(specs: Sequence[str]) -> tuple[PoolPlan, ...]:
    """Return the pools that ``NAME:ENGINE[:WORKERS]`` mean; raises click.UsageError."""
    from tts_tasks.settings import NAME_PATTERN
    from ttsctl.supervisor.plan import PoolPlan

    pools: dict[str, PoolPlan] = {}
    for spec in specs:
        match = _POOL.fullmatch(spec)
        if match is None or not NAME_PATTERN.fullmatch(match["name"]):
            raise click.UsageError(
                f"--pool {spec!r} is not NAME:ENGINE or NAME:ENGINE:WORKERS; a name is up to 32 "
                "lower-case letters, digits and _ -"
            )
        if match["name"] in pools:
            raise click.UsageError(f"--pool {match['name']} is given twice")
        workers = int(match["workers"] or DEFAULT_WORKERS)
        pools[match["name"]] = PoolPlan(match["name"], match["engine"], workers)
    if (total := sum(pool.workers for pool in pools.values())) > MAX_WORKERS:
        raise click.UsageError(f"--pool: {total} workers are more than {MAX_WORKERS}")
    return tuple(pools.values())


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
