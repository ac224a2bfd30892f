"""``ttsctl switchover``, ``drain``, ``undrain``, ``watchdog``: working on a running cluster."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from tts_tasks.errors import ConflictError, UnavailableError, WaitTimeoutError
from ttsctl.api import Client, pass_client
from ttsctl.following import PATIENCE_S
from ttsctl.options import output_option
from ttsctl.output import echo_fields, echo_json, without_secrets
from ttsctl.progress import reporter_for

if TYPE_CHECKING:
    from ttsctl.output import OutputFormat
    from ttsctl.progress import Reporter

_POLL_S = 0.1
#: A job that was handed out just before the order is in the record with the next heartbeat.
_QUIET_HEARTBEATS = 2

reason_option = click.option(
    "--reason", required=True, metavar="TEXT", help="Why; it is kept in the events."
)


@click.command()
@click.argument("lane", required=False)
@click.option(
    "--to",
    metavar="WORKER",
    help="The worker that is to lead: its id, or as much of it as is clear. "
    "[default: any ready standby]",
)
@reason_option
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop waiting for the new primary after this long (exit code 7).",
)
@output_option("table", "json")
@pass_client
def switchover(
    client: Client,
    /,
    *,
    lane: str | None,
    to: str | None,
    reason: str,
    timeout_s: float,
    output_format: OutputFormat,
) -> None:
    """Move the primary of a lane to another worker.

    LANE is POOL.LANE as `ttsctl status` shows it, by default the configured one. The old primary
    finishes the job that it has in hand and becomes a standby.
    """
    _echo(client.switchover(lane, to=to, reason=reason, timeout_s=timeout_s), output_format)


@click.command()
@click.argument("worker")
@reason_option
@click.option("--wait", is_flag=True, help="Return when it has no job in hand any more.")
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --wait: stop waiting after this long (exit code 7); it stays drained.",
)
@output_option("table", "json")
@pass_client
def drain(
    client: Client,
    /,
    *,
    worker: str,
    reason: str,
    wait: bool,
    timeout_s: float | None,
    output_format: OutputFormat,
) -> None:
    """Let a worker take no new work.

    It hands its lane over at once, finishes the job that it has in hand, and stays out of service
    until `ttsctl undrain`, or until it is started anew. WORKER is its id, or as much of it as is
    clear.
    """
    answer = client.drain(worker, reason=reason)
    if wait:
        wait_until_idle(
            client, str(answer["worker"]), reporter_for(sys.stderr), timeout_s=timeout_s
        )
    _echo(answer, output_format)


@click.command()
@click.argument("worker")
@output_option("table", "json")
@pass_client
def undrain(client: Client, /, worker: str, output_format: OutputFormat) -> None:
    """Put a drained worker back into service."""
    _echo(client.undrain(worker), output_format)


@click.command()
def watchdog() -> None:
    """Watch workers from a process of its own.

    Every worker watches the others already. This one leads nothing and speaks nothing: it deposes
    and recovers the dead of all lanes, also where no worker is left to do it. It runs until Ctrl-C
    or SIGTERM and is set like a worker, by TTS_ variables. Any number may run.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(  # noqa: S606 - our own module; it takes over this process, signals and all
        sys.executable, [sys.executable, "-m", "tts_workers.watch"]
    )


def wait_until_idle(
    client: Client, worker: str, reporter: Reporter, *, timeout_s: float | None = None
) -> None:
    """Return when a drained worker has no job in hand, or has ended.

    Raises `WaitTimeoutError`, `ConflictError` if somebody puts it back into service, and
    `UnavailableError` when the store stays out of reach.
    """
    from tts_tasks.settings import get_settings

    quiet_s = _QUIET_HEARTBEATS * get_settings().heartbeat_s
    began_s = time.monotonic()
    idle_since_s: float | None = None
    told: str | None = None
    obeyed = False
    for state in _states(client, worker, reporter):
        now_s = time.monotonic()
        if state is None:
            return
        draining, job = bool(state.get("draining")), str(state.get("job") or "")
        if obeyed and not draining:
            raise ConflictError(f"{worker} was put back into service meanwhile")
        obeyed = obeyed or draining
        if draining and not job:
            idle_since_s = now_s if idle_since_s is None else idle_since_s
            if now_s - idle_since_s >= quiet_s:
                return
        else:
            idle_since_s = None
        if job and job != told:
            told = job
            reporter.say("worker.busy", f"{worker} works on {job}", worker=worker, job=job)
        if timeout_s is not None and now_s - began_s >= timeout_s:
            doing = f"still works on {job}" if job else "has not told yet that it is idle"
            raise WaitTimeoutError(f"{worker} {doing}; it stays drained")
        time.sleep(_POLL_S)


def _states(client: Client, worker: str, reporter: Reporter) -> Any:
    """Yield what the registry says of a worker (None: it is gone), through a short outage."""
    outage_since_s: float | None = None
    while True:
        try:
            workers = client.cluster_status()["workers"]
        except UnavailableError as error:
            now_s = time.monotonic()
            if outage_since_s is None:
                outage_since_s = now_s
                reason = without_secrets(str(error))
                reporter.say("store.unreachable", f"{reason}; trying again", error=reason)
            if now_s - outage_since_s >= PATIENCE_S:
                raise
            time.sleep(_POLL_S)
            continue
        outage_since_s = None
        yield next((state for state in workers if state["id"] == worker), None)


def _echo(answer: dict[str, Any], output_format: OutputFormat) -> None:
    if output_format == "json":
        echo_json(answer)
    else:
        echo_fields(answer)
