"""``ttsctl submit``: a JSONL file becomes a batch, which is followed to its end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ttsctl.api import Client, current_client
from ttsctl.exit_codes import ExitCode, exit_code_of_batch
from ttsctl.following import (
    TOLD_ONE_BY_ONE,
    follow_batch,
    tell_bad_lines,
    tell_if_nobody_works,
    tell_more,
    tell_rejected,
)
from ttsctl.options import output_option, timeout_option
from ttsctl.output import (
    echo_batch,
    echo_fields,
    echo_json,
    echo_jsonl,
    is_terminal,
    result_fields,
)
from ttsctl.progress import TalkingReporter, reporter_for

if TYPE_CHECKING:
    from ttsctl.api import BatchStatus, JobResult
    from ttsctl.output import OutputFormat
    from ttsctl.progress import Reporter


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@click.option(
    "--id",
    "batch_id",
    metavar="ID",
    help="The batch's id. With the same file it re-attaches. [default: file name and content hash]",
)
@click.option("--output", metavar="PREFIX", help="Where the artifacts go. [default: the id]")
@click.option(
    "--priority",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Its share of the work: a batch of 2 gets twice as much done as one of 1.",
)
@click.option(
    "--no-wait-turn",
    is_flag=True,
    help="Fail if another batch writes to the same output. [default: wait for one's turn]",
)
@click.option(
    "--audio-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="The folder that paths of reference audio are below. [default: the file's]",
)
@click.option(
    "--pool",
    metavar="NAME",
    help="Where it is spoken. [default: the pool that can speak the most of its first lines]",
)
@click.option("--strict", is_flag=True, help="Refuse the whole file if one line is bad.")
@click.option("--dry-run", is_flag=True, help="Only check the file; needs no cluster.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the batch is accepted.")
@timeout_option
@output_option(
    text="How the summary is written; jsonl writes a line for each job as it finishes instead."
)
@click.pass_context
def submit(
    ctx: click.Context,
    *,
    file: Path,
    batch_id: str | None,
    output: str | None,
    priority: float,
    no_wait_turn: bool,
    audio_root: Path | None,
    pool: str | None,
    strict: bool,
    dry_run: bool,
    no_wait: bool,
    timeout_s: float | None,
    output_format: OutputFormat,
) -> None:
    """Speak a JSONL file of jobs as a batch.

    Follows the batch to its end. Ctrl-C only stops following: the batch goes on, and the same
    command, or `ttsctl batch watch ID`, looks at it again.

    Exit code: 0 all succeeded, 3 some failed or were rejected, 1 none succeeded, 7 the wait
    timed out, 9 the batch was cancelled.
    """
    if not file.is_file():
        raise click.BadParameter("must be a regular file: it is read twice", param_hint=f"'{file}'")
    reporter = reporter_for(sys.stderr)
    if dry_run:
        root = audio_root or file.parent
        ctx.exit(check_file(file, root, reporter, strict=strict, output_format=output_format))
    client = current_client()
    options: dict[str, Any] = {
        "output": output,
        "priority": priority,
        "wait_for_output": not no_wait_turn,
        "audio_root": audio_root,
        "pool": pool,
    }
    status = accept(client, file, reporter, id=batch_id, strict=strict, **options)
    if status is None:
        ctx.exit(ExitCode.INTERRUPTED)
    tell_bad_lines(client, status, reporter)
    if no_wait:
        echo_batch(status, output_format)
        ctx.exit(exit_code_of_batch(status))
    ctx.exit(
        follow_and_echo(client, status, reporter, timeout_s=timeout_s, output_format=output_format)
    )


def accept(
    client: Client,
    file: Path,
    reporter: Reporter,
    **options: Any,
) -> BatchStatus | None:
    """Bring the file's lines in; None if Ctrl-C ended it before the last one.

    ``options``: those of `Client.submit_batch`.
    """
    accepted = 0

    def count(lines: int) -> None:
        nonlocal accepted
        accepted = lines
        show(lines)

    try:
        with reporter.accepting() as show:
            status = client.submit_batch(file, on_progress=count, **options)
    except KeyboardInterrupt:
        reporter.say(
            "batch.accept_interrupted",
            f"Interrupted: {accepted:,} lines are accepted. The same command completes the batch; "
            "what is accepted is not repeated.",
            accepted=accepted,
        )
        return None
    reporter.say(
        "batch.accepted",
        f"Batch {status.batch}: {status.total - status.rejected:,} jobs, "
        f"{status.rejected:,} lines rejected",
        batch=status.batch,
        total=status.total,
        rejected=status.rejected,
    )
    return status


def follow_and_echo(
    client: Client,
    status: BatchStatus,
    reporter: Reporter,
    *,
    timeout_s: float | None,
    output_format: OutputFormat | None,
) -> ExitCode:
    """Follow a batch with progress, write what ``-o`` asks for, and return the exit code.

    With ``jsonl`` each result is written when it comes; with None nothing is.
    """
    if status.state != "done":
        tell_if_nobody_works(client, reporter)
    if output_format == "id":
        # at once, so that a script which is interrupted has it
        echo_batch(status, output_format)
    if output_format == "jsonl" and is_terminal(sys.stdout) and is_terminal(sys.stderr):
        # results and a bar cannot share the screen
        reporter = TalkingReporter(sys.stderr)
    on_result = _echo_result if output_format == "jsonl" else _keep_result
    ended, code = follow_batch(client, status, reporter, timeout_s=timeout_s, on_result=on_result)
    if code is not ExitCode.INTERRUPTED and output_format in ("table", "json"):
        echo_batch(ended, cast("OutputFormat", output_format))
    if ended.state == "done" and (ended.failed or ended.rejected):
        reporter.say(
            "batch.errors",
            f"{ended.failed:,} failed, {ended.rejected:,} rejected; "
            f"see them with: ttsctl batch errors {ended.batch}",
            batch=ended.batch,
            failed=ended.failed,
            rejected=ended.rejected,
        )
    return code


def _keep_result(_result: JobResult) -> None:
    """Write nothing: the summary will."""


def _echo_result(result: JobResult) -> None:
    echo_jsonl(result_fields(result))


def check_file(
    file: Path, audio_root: Path, reporter: Reporter, *, strict: bool, output_format: OutputFormat
) -> ExitCode:
    """Read the whole file as `submit` would, without a cluster, and say what is wrong with it.

    With ``jsonl`` stdout gets each bad line, else a summary.
    """
    from tts_tasks.jsonl import RejectedLine, read_batch
    from tts_tasks.pinning import checking
    from tts_tasks.voices.files import ReferenceFiles

    good = rejected = characters = 0
    pinning = checking(ReferenceFiles(audio_root))
    for line in read_batch(file, audio_root=audio_root, pin=pinning.pin):
        if not isinstance(line, RejectedLine):
            good += 1
            characters += len(line.request.text)
            continue
        rejected += 1
        error = {"field": line.field, "reason": line.reason}
        fields = {"line": line.line, "id": line.id, "state": "rejected", "error": error}
        if output_format == "jsonl":
            echo_jsonl(fields)
        elif rejected <= TOLD_ONE_BY_ONE:
            tell_rejected(reporter, [fields])
    if output_format != "jsonl":
        if rejected > TOLD_ONE_BY_ONE:
            tell_more(reporter, rejected - TOLD_ONE_BY_ONE, "all of them: add -o jsonl")
        summary = {
            "file": str(file),
            "state": "checked",
            "total": good + rejected,
            "valid": good,
            "rejected": rejected,
            "characters": characters,
        }
        (echo_json if output_format == "json" else echo_fields)(summary)
    if rejected == 0:
        return ExitCode.SUCCEEDED
    if strict:
        return ExitCode.USAGE
    return ExitCode.SOME_FAILED if good else ExitCode.FAILED
