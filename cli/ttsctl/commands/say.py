"""``ttsctl say``: one text, spoken now."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import click

from tts_tasks.errors import JobCancelledError, JobFailedError, RequestError, WaitTimeoutError
from tts_tasks.formats import AUDIO_FORMATS
from tts_tasks.requests import MAX_TEXT_CHARS, parse_request
from ttsctl.api import Client, pass_client
from ttsctl.commands.listen import STDOUT, check_target, play
from ttsctl.exit_codes import ExitCode
from ttsctl.following import results, tell_if_nobody_works
from ttsctl.options import (
    Duration,
    audio_out_options,
    output_option,
    requires_option,
    timeout_option,
)
from ttsctl.output import echo_json, echo_jsonl, error_text, result_fields
from ttsctl.progress import reporter_for

if TYPE_CHECKING:
    from tts_tasks.requests import SpeechRequest
    from ttsctl.api import JobResult
    from ttsctl.progress import Reporter

_SUFFIX_FORMATS = {f".{name}": name for name in AUDIO_FORMATS}


@click.command()
@click.argument("text")
@click.option(
    "-f",
    "--file",
    "target",
    metavar="OUT|-",
    help="Write the audio to this file, or to stdout. Its suffix chooses the format.",
)
@click.option("--voice", help="Name of the voice.")
@click.option("--speed", type=float, help="1 is natural, 2 is twice as fast.")
@click.option("--format", type=click.Choice(AUDIO_FORMATS), help="Audio format. [default: wav]")
@click.option("--sample-rate", type=int, metavar="HZ", help="[default: the engine's own]")
@click.option("--seed", type=int, help="Same seed, same sound.")
@click.option("--lexicon", help="Name of the pronunciation lexicon.")
@audio_out_options
@click.option(
    "--stream",
    is_flag=True,
    help="Write the sound while it is made, as WAV, to --file (stdout if there is none).",
)
@click.option(
    "--deadline",
    "deadline_s",
    type=Duration(),
    metavar="SPAN",
    help="The sound is wanted within 2s, 1m, 2.5 (seconds); refused at once (exit code 8) if it "
    "cannot be ready by then.",
)
@requires_option
@click.option("--language", metavar="TAG", help="Short for --requires language=TAG.")
@click.option("--pool", metavar="NAME", help="Short for --requires pool=NAME.")
@timeout_option
@output_option("table", "json", "jsonl", "id", text="table writes where the audio is.")
@pass_client
def say(
    client: Client,
    /,
    text: str,
    target: str | None,
    timeout_s: float | None,
    output_format: str,
    *,
    stream: bool,
    requires: dict[str, Any],
    language: str | None,
    pool: str | None,
    **fields: Any,
) -> None:
    """Speak one text.

    Waits for the sound and writes where it is: the artifact's path, or the file of --file.
    Subtitles are beside it. TEXT is read from stdin if it is "-".
    """
    target = _target_of(target, output_format, stream=stream)
    short = {"language": language, "pool": pool}
    fields["requires"] = {**requires, **{key: value for key, value in short.items() if value}}
    request = _request_of(text, target, fields, stream=stream)
    reporter = reporter_for(sys.stderr)
    job = client.submit_job(request)
    if stream:
        tell_if_nobody_works(client, reporter)
        play(client, job, str(target), reporter, timeout_s=timeout_s)
        if request.subtitles:  # they are there when all has been spoken
            result = wait_for(client, job, reporter, timeout_s=timeout_s)
            write_subtitles(client, result, str(target))
        return
    result = wait_for(client, job, reporter, timeout_s=timeout_s)
    deliver(client, job, result, target, output_format)


def deliver(
    client: Client, job: str, result: JobResult, target: str | None, output_format: str
) -> None:
    """Write the sound of a job where it is wanted, and say what came of the job."""
    uri = result.uri or ""
    if target is not None:
        write_subtitles(client, result, target)
        write_whole(client.read_artifact(uri), target)
    match output_format:
        case "json":
            echo_json(result_fields(result))
        case "jsonl":
            echo_jsonl(result_fields(result))
        case "id":
            click.echo(job)
        case _ if target != STDOUT:
            click.echo(target or local_path(uri))


def write_subtitles(client: Client, result: JobResult, target: str) -> None:
    """Write a job's subtitles beside the file of its sound: ``a.srt`` for ``a.wav``."""
    for kind, name in result.subtitles.items():
        path = Path(target)
        stem = path.with_suffix("") if format_of(target) else path
        write_whole(client.read_artifact(name), f"{stem}.{kind}")


def _target_of(target: str | None, output_format: str, *, stream: bool) -> str | None:
    if stream:
        target = target or STDOUT
    if target is not None:
        check_target(target)
    if target == STDOUT and output_format != "table":
        raise click.BadOptionUsage("output_format", "-o has no place beside the audio on stdout")
    return target


def _request_of(
    text: str, target: str | None, fields: dict[str, Any], *, stream: bool
) -> SpeechRequest:
    if fields["format"] is None:
        fields["format"] = format_of(target)
    if stream and (fields["format"] not in (None, "wav") or fields["sample_rate"] is not None):
        raise click.UsageError("--stream writes WAV, at the engine's own rate")
    given = {name: value for name, value in fields.items() if value is not None}
    request = parse_request({"text": text_of(text), "stream": stream, **given})
    if request.subtitles and target == STDOUT:
        raise RequestError(
            "subtitles", "have no place beside the sound on stdout: name a file with --file"
        )
    return request


def format_of(target: str | None) -> str | None:
    """Return the audio format that a file's name asks for; None where it asks for none."""
    return None if target is None else _SUFFIX_FORMATS.get(Path(target).suffix.lower())


def text_of(argument: str) -> str:
    """Return the text of the argument, or of stdin for ``-``; both are UTF-8."""
    try:
        if argument == "-":
            # as many bytes as the longest text may have, and a few more to be refused for
            return sys.stdin.buffer.read(4 * MAX_TEXT_CHARS + 4).decode("utf-8-sig").strip()
        # Python keeps what the locale cannot decode as surrogates; it may well be UTF-8
        if any("\ud800" <= char <= "\udfff" for char in argument):
            return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        raise click.BadArgumentUsage("TEXT must be UTF-8") from None
    return argument


def wait_for(client: Client, job: str, reporter: Reporter, *, timeout_s: float | None) -> JobResult:
    """Return the job's result; raises `JobFailedError`, `JobCancelledError`."""
    tell_if_nobody_works(client, reporter)
    try:
        result = next(results(client, job, reporter, timeout_s=timeout_s))
    except (KeyboardInterrupt, WaitTimeoutError) as end:
        stopped = isinstance(end, KeyboardInterrupt)
        reporter.say(
            "job.detached" if stopped else "job.wait_timed_out",
            f"Stopped waiting: job {job} goes on. Cancel it with: ttsctl cancel {job}",
            id=job,
        )
        code = ExitCode.INTERRUPTED if stopped else ExitCode.WAIT_TIMED_OUT
        click.get_current_context().exit(code)
    if result.state == "cancelled":
        raise JobCancelledError(f"job {job} was cancelled")
    if result.state != "succeeded":
        raise JobFailedError("job failed", error_text(result.error))
    return result


def write_whole(data: bytes, target: str) -> None:
    """Write to stdout for ``-``, else to a file, whole or not at all."""
    if target == STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    path = Path(target)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as out:
        partial = Path(out.name)
        try:
            out.write(data)
            out.flush()
            partial.chmod(0o666 & ~_umask())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def local_path(uri: str) -> str:
    """Return the path of a ``file://`` URI; any other URI as it is."""
    parts = urlsplit(uri)
    return unquote(parts.path) if parts.scheme == "file" else uri


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
