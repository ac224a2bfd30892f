"""``ttsctl batch``: what became of the files that were submitted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ttsctl.api import Client, pass_client
from ttsctl.commands.submit import follow_and_echo
from ttsctl.following import follow_batch
from ttsctl.options import output_option, timeout_option
from ttsctl.output import (
    batch_fields,
    echo_batch,
    echo_json,
    echo_jsonl,
    echo_table,
    error_text,
    evidence_lines,
    is_terminal,
    table_lines,
)
from ttsctl.progress import SilentReporter, reporter_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ttsctl.output import OutputFormat

_LIST_COLUMNS = (
    *("batch", "state", "total", "succeeded", "failed", "cancelled", "rejected", "priority"),
    "created_at",
)
_RECORDS_HELP = "How the lines are written. [default: table on a terminal, jsonl elsewhere]"


@click.group()
def batch() -> None:
    """Look after batches."""


@batch.command("ls")
@output_option()
@pass_client
def list_batches(client: Client, /, output_format: OutputFormat) -> None:
    """List all batches, newest first."""
    statuses = client.batch_list()
    match output_format:
        case "json":
            echo_json([batch_fields(status) for status in statuses])
        case "jsonl" | "id":
            for status in statuses:
                echo_batch(status, output_format)
        case "table":
            rows = [[getattr(status, name) for name in _LIST_COLUMNS] for status in statuses]
            echo_table([name.upper() for name in _LIST_COLUMNS], rows)


@batch.command()
@click.argument("batch_id", metavar="ID")
@output_option()
@pass_client
def show(client: Client, /, batch_id: str, output_format: OutputFormat) -> None:
    """Show how far a batch is."""
    echo_batch(client.batch_status(batch_id), output_format)


@batch.command()
@click.argument("batch_id", metavar="ID")
@timeout_option
@output_option(
    text="How the summary is written; jsonl writes a line for each job as it finishes instead."
)
@pass_client
def watch(
    client: Client, /, batch_id: str, timeout_s: float | None, output_format: OutputFormat
) -> None:
    """Follow a batch to its end; exit codes as of `ttsctl submit`."""
    status = client.batch_status(batch_id)
    reporter = reporter_for(sys.stderr)
    if status.state == "accepting":
        reporter.say(
            "batch.incomplete",
            f"Batch {batch_id} is not accepted to its end. If nobody is submitting it now, "
            "run the same `ttsctl submit` again to complete it.",
            batch=batch_id,
        )
    code = follow_and_echo(
        client, status, reporter, timeout_s=timeout_s, output_format=output_format
    )
    click.get_current_context().exit(code)


@batch.command()
@click.argument("batch_id", metavar="ID")
@timeout_option
@output_option(default=None, text="Write the summary when it is over. [default: write nothing]")
@pass_client
def wait(
    client: Client, /, batch_id: str, timeout_s: float | None, output_format: OutputFormat | None
) -> None:
    """Wait in silence for a batch's end; exit codes as of `ttsctl submit`."""
    status = client.batch_status(batch_id)
    ended, code = follow_batch(client, status, SilentReporter(), timeout_s=timeout_s)
    if output_format is not None:
        echo_batch(ended, output_format)
    click.get_current_context().exit(code)


@batch.command()
@click.argument("batch_id", metavar="ID")
@output_option()
@pass_client
def cancel(client: Client, /, batch_id: str, output_format: OutputFormat) -> None:
    """Speak nothing more of a batch.

    What is being spoken stops at the end of its segment; what is published stays. `batch resume`
    goes on with it.
    """
    echo_batch(client.batch_cancel(batch_id), output_format)


@batch.command()
@click.argument("batch_id", metavar="ID")
@output_option()
@pass_client
def retry(client: Client, /, batch_id: str, output_format: OutputFormat) -> None:
    """Try the failed lines of a batch again, and only these."""
    _tell_again(client, batch_id, client.batch_retry(batch_id), "failed", output_format)


@batch.command()
@click.argument("batch_id", metavar="ID")
@output_option()
@pass_client
def resume(client: Client, /, batch_id: str, output_format: OutputFormat) -> None:
    """Go on with a batch that was cancelled."""
    _tell_again(client, batch_id, client.batch_resume(batch_id), "cancelled", output_format)


def _tell_again(
    client: Client, batch_id: str, lines: int, state: str, output_format: OutputFormat
) -> None:
    echo_batch(client.batch_status(batch_id), output_format)
    if lines:
        text = f"{lines:,} {state} lines are tried again. Look with: ttsctl batch watch {batch_id}"
    else:
        text = f"No {state} lines to try again"
    reporter_for(sys.stderr).say("batch.again", text, batch=batch_id, lines=lines)


@batch.command("rm")
@click.argument("batch_id", metavar="ID")
@pass_client
def remove(client: Client, /, batch_id: str) -> None:
    """Forget a batch that has ended; its artifacts and its report stay in storage."""
    client.batch_remove(batch_id)
    reporter_for(sys.stderr).say("batch.removed", f"Forgot batch {batch_id}", batch=batch_id)


@batch.command()
@click.argument("batch_id", metavar="ID")
@output_option(default=None, text=_RECORDS_HELP)
@pass_client
def errors(client: Client, /, batch_id: str, output_format: OutputFormat | None) -> None:
    """Show the lines that were rejected and the jobs that failed, in input order.

    In a table, what is known of a job that lost its workers stands below it.
    """
    client.batch_status(batch_id)
    failed: list[dict[str, Any]] = []

    def row(line: dict[str, Any]) -> tuple[Any, ...]:
        failed.append(line)
        where = (line.get("line"), line.get("id"), line.get("state"))
        return (*where, error_text(line.get("error")))

    echo_records(
        client.batch_errors(batch_id), output_format, ("LINE", "ID", "STATE", "ERROR"), row
    )
    for line in failed:  # a table was written
        for text in evidence_lines(line):
            click.echo(text)


@batch.command()
@click.argument("batch_id", metavar="ID")
@output_option(default=None, text=_RECORDS_HELP)
@pass_client
def report(client: Client, /, batch_id: str, output_format: OutputFormat | None) -> None:
    """Show what became of each line, in input order; also while the batch runs."""
    client.batch_status(batch_id)
    echo_records(
        client.report(batch_id),
        output_format,
        ("LINE", "ID", "STATE", "SECONDS", "ATTEMPT", "WORKER", "ARTIFACT OR ERROR"),
        lambda line: (
            *(line.get(key) for key in ("line", "id", "state", "duration_s", "attempt", "worker")),
            error_text(line["error"]) if line.get("error") else line.get("uri"),
        ),
    )


@batch.command()
@click.argument("batch_id", metavar="ID")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The folder to copy into. [default: a folder of the batch's name]",
)
@output_option("table", "json", "jsonl", text="How the copied files are listed.")
@pass_client
def fetch(client: Client, /, batch_id: str, to: Path | None, output_format: str) -> None:
    """Copy a batch's finished artifacts into a folder.

    Files that are there already are left alone if they are the same, and never overwritten.
    """
    status = client.batch_status(batch_id)
    folder = Path(batch_id) if to is None else to
    copied: list[str] = []
    for path in client.fetch(batch_id, folder):
        copied.append(str(path))
        if output_format == "table":
            click.echo(str(path))
        elif output_format == "jsonl":
            echo_jsonl({"path": str(path)})
    if output_format == "json":
        echo_json(copied)
    reporter = reporter_for(sys.stderr)
    ended = status.succeeded + status.failed + status.cancelled + status.rejected
    unfinished = status.total - ended
    more = f"; {unfinished:,} jobs were not finished: fetch again later" if unfinished > 0 else ""
    reporter.say(
        "batch.fetched",
        f"{len(copied):,} files in {folder}{more}",
        batch=batch_id,
        files=len(copied),
        unfinished=max(0, unfinished),
    )


def echo_records(
    records: Iterable[dict[str, Any]],
    output_format: str | None,
    headers: tuple[str, ...],
    row: Callable[[dict[str, Any]], tuple[Any, ...]],
) -> None:
    """Write records as they come; without ``-o`` as a table on a terminal, as JSONL elsewhere."""
    chosen = output_format or ("table" if is_terminal(sys.stdout) else "jsonl")
    match chosen:
        case "jsonl":
            for record in records:
                echo_jsonl(record)
        case "id":
            for record in records:
                click.echo(str(record.get("id") or ""))
        case "json":
            echo_json(list(records))
        case _:
            for line in table_lines(headers, [row(record) for record in records]):
                click.echo(line)
