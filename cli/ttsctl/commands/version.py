"""``ttsctl version``: what is installed."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

import click

from ttsctl.options import output_option
from ttsctl.output import echo_fields, echo_json, echo_jsonl

if TYPE_CHECKING:
    from ttsctl.output import OutputFormat

DISTRIBUTION = "tts-tasks"
_ALSO = ("celery", "kombu", "redis", "pydantic")


@click.command()
@output_option("table", "json", "jsonl", "id", text="id writes our own version alone.")
def version(output_format: OutputFormat) -> None:
    """Show versions."""
    versions: dict[str, str | None] = {"ttsctl": own_version(), "python": platform.python_version()}
    versions |= {name: installed_version(name) for name in _ALSO}
    match output_format:
        case "json":
            echo_json(versions)
        case "jsonl":
            echo_jsonl(versions)
        case "id":
            click.echo(versions["ttsctl"])
        case "table":
            echo_fields(versions)


def own_version() -> str:
    """Return the version of the installed distribution."""
    return installed_version(DISTRIBUTION) or "unknown (a checkout that is not installed)"


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
