"""``ttsctl events``: what happened in the cluster, and what happens next."""

from __future__ import annotations

import sys
from typing import Any

import click

from ttsctl.api import Client, pass_client
from ttsctl.options import Duration, output_option
from ttsctl.output import cell, echo_jsonl, is_terminal, leave_with_the_reader, styled

_TIME_WIDTH = len("2026-01-01T00:00:00.000Z")
_EVENT_WIDTH = 24


@click.command()
@click.option("--follow", is_flag=True, help="Go on with what happens next, until Ctrl-C.")
@click.option(
    "--since",
    "since_s",
    type=Duration(),
    metavar="SPAN",
    help="Only what happened in the last 30s, 10m, 2h, 1d. [default: all that is kept]",
)
@output_option(
    "table",
    "jsonl",
    default=None,
    text="How events are written. [default: table on a terminal, jsonl elsewhere]",
)
@pass_client
def events(
    client: Client, /, follow: bool, since_s: float | None, output_format: str | None
) -> None:
    """Show what happened in the cluster."""
    chosen = output_format or ("table" if is_terminal(sys.stdout) else "jsonl")
    if follow:
        leave_with_the_reader()
    for event in client.events(follow=follow, since_s=since_s):
        if chosen == "jsonl":
            echo_jsonl(event)
        else:
            click.echo(event_line(event))


def event_line(event: dict[str, Any]) -> str:
    """Return an event as one line for people: time, name, ``key=value`` pairs."""
    rest = "  ".join(
        f"{key}={cell(value)}" for key, value in event.items() if key not in ("time", "event")
    )
    time = cell(event.get("time")).ljust(_TIME_WIDTH)
    name = styled(cell(event.get("event")).ljust(_EVENT_WIDTH), bold=True)
    return f"{time}  {name}  {rest}".rstrip()
