"""``ttsctl status``: who is primary where, who is ready, what waits."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from tts_tasks.errors import UnavailableError
from ttsctl.api import Client, pass_client
from ttsctl.options import output_option
from ttsctl.output import (
    echo_json,
    echo_jsonl,
    is_terminal,
    table_lines,
    without_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ttsctl.output import OutputFormat

_POOL_COLUMNS = (
    ("POOL", "pool"), ("SERVING", "serving"), ("ENGINE", "engine"), ("MODEL", "model_version"),
    ("LANGUAGES", "languages"), ("HZ", "sample_rate_hz"), ("FEATURES", "features"),
)  # fmt: skip

_WORKER_COLUMNS = (
    ("WORKER", "id"), ("POOL", "pool"), ("ROLE", "role"), ("READY", "ready"), ("DEVICE", "device"),
    ("HEARTBEAT", "heartbeat_age_s"), ("HOST", "host"), ("PID", "pid"),
)  # fmt: skip

_BATCH_COLUMNS = (
    ("BATCH", "batch"), ("STATE", "state"), ("LEFT", "left"), ("PRIORITY", "priority"),
    ("OUTPUT", "output"), ("WAITS FOR", "waits_for"),
)  # fmt: skip


@click.command()
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: how often.",
)
@output_option(text="id writes the workers' ids.")
@pass_client
def status(client: Client, /, watch: bool, interval: float, output_format: OutputFormat) -> None:
    """Show lanes, pools, workers, queues, and the batches that are worked on."""
    if not watch:
        echo_cluster(client.cluster_status(), output_format)
    elif output_format == "table" and is_terminal(sys.stdout):
        redraw(client, interval)
    else:
        for cluster in snapshots(client, interval):
            if isinstance(cluster, str):
                click.echo(cluster, err=True)
            else:
                # one document a line: pretty JSON could not be told apart
                echo_cluster(cluster, "jsonl" if output_format == "json" else output_format)


def echo_cluster(cluster: dict[str, Any], output_format: OutputFormat) -> None:
    """Write a cluster's status to stdout."""
    match output_format:
        case "json":
            echo_json(cluster)
        case "jsonl":
            echo_jsonl(cluster)
        case "id":
            for worker in cluster.get("workers", []):
                click.echo(worker.get("id"))
        case "table":
            for line in cluster_lines(cluster):
                click.echo(line)


def cluster_lines(cluster: dict[str, Any]) -> list[str]:
    """Return the status as people read it."""
    workers = cluster.get("workers", [])
    lanes = [
        (f"{lane.get('pool')}.{lane.get('lane')}", lane.get("primary"), lane.get("epoch"))
        for lane in cluster.get("lanes", [])
    ]
    lines = [*table_lines(("LANE", "PRIMARY", "EPOCH"), lanes), ""]
    if pools := cluster.get("pools"):
        rows = [[_pool_value(pool, key) for _, key in _POOL_COLUMNS] for pool in pools]
        lines += [*table_lines([title for title, _ in _POOL_COLUMNS], rows), ""]
    if workers:
        rows = [[_worker_value(worker, key) for _, key in _WORKER_COLUMNS] for worker in workers]
        lines += table_lines([title for title, _ in _WORKER_COLUMNS], rows)
    else:
        lines.append("No worker. Start some with: ttsctl up")
    lines += [
        f"{worker.get('id')} is out of service: {worker['fault']}"
        for worker in workers
        if worker.get("fault")
    ]
    queues = sorted(cluster.get("queues", {}).items())
    lines += ["", *table_lines(("QUEUE", "WAITING"), queues)]
    if batches := cluster.get("batches"):
        rows = [[_batch_value(batch, key) for _, key in _BATCH_COLUMNS] for batch in batches]
        lines += ["", *table_lines([title for title, _ in _BATCH_COLUMNS], rows)]
    return lines


def _pool_value(pool: dict[str, Any], key: str) -> Any:
    value = pool.get(key)
    if key == "serving":
        return f"{value} of {pool.get('workers')}"
    return ", ".join(value or ()) if key in ("languages", "features") else value


def _batch_value(batch: dict[str, Any], key: str) -> Any:
    value = batch.get(key)
    return ", ".join(value or ()) if key == "waits_for" else value


def _worker_value(worker: dict[str, Any], key: str) -> Any:
    value = worker.get(key)
    if key == "heartbeat_age_s" and value is not None:
        return f"{value:.1f} s ago"
    temperature_c = (worker.get("gpu") or {}).get("temperature_c")
    if key == "device" and temperature_c is not None:
        return f"{value}, {temperature_c} °C"
    return value


def snapshots(client: Client, interval_s: float) -> Iterator[dict[str, Any] | str]:
    """Yield the cluster's status again and again; while it is out of reach, why."""
    while True:
        try:
            yield client.cluster_status()
        except UnavailableError as error:
            yield without_secrets(str(error))
        time.sleep(interval_s)


def redraw(client: Client, interval_s: float) -> None:
    """Keep the status on the screen up to date."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    with Live(
        console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as live:
        for cluster in snapshots(client, interval_s):
            lines = [cluster] if isinstance(cluster, str) else cluster_lines(cluster)
            shown = Text.from_ansi("\n".join(lines))
            shown.no_wrap, shown.overflow = True, "ellipsis"
            live.update(shown, refresh=True)
