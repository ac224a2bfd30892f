"""``ttsctl voice``: reference recordings under names, in versions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ttsctl.api import Client, pass_client
from ttsctl.options import output_option, timeout_option
from ttsctl.output import echo_fields, echo_json, echo_jsonl, echo_table
from ttsctl.progress import reporter_for

if TYPE_CHECKING:
    from ttsctl.api import VoiceVersion
    from ttsctl.output import OutputFormat

#: Mandarin and English, numbers and a question: where a voice is likely to go wrong.
SAMPLE_TEXT = "您好，请A103号到3号窗口办理业务。Your train leaves at 9:45. 还有什么可以帮您？"

_LIST_COLUMNS = ("voice", "version", "speech_s", "consent", "created_at", "text")


@click.group()
def voice() -> None:
    """Look after voices."""


@voice.command()
@click.argument("name")
@click.argument(
    "recording", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
)
@click.option("--text", required=True, metavar="TEXT", help="What is said in the recording.")
@click.option("--consent", metavar="TEXT", help="Who agreed that this voice is used, and to what.")
@output_option()
@pass_client
def add(
    client: Client,
    /,
    *,
    name: str,
    recording: Path,
    text: str,
    consent: str | None,
    output_format: OutputFormat,
) -> None:
    """Make a recording the newest version of a voice.

    NAME is the voice, or NAME:STYLE a style of it, such as alice:happy. RECORDING holds 3 to 10
    seconds of one person's speech, as WAV, FLAC, MP3 or Ogg, at 16 kHz or more. It is checked,
    normalised, and there for all workers at once. Jobs that are accepted from now on are spoken
    with it; those that were accepted before are not changed.
    """
    version = client.voice_add(name, recording, text=text, consent=consent)
    reporter = reporter_for(sys.stderr)
    for warning in version.checks.get("warnings", ()):
        reporter.say("voice.warning", f"{recording}: {warning}", voice=name, warning=warning)
    if version.consent is None:
        reporter.say(
            "voice.no_consent",
            f"Nothing is recorded of consent to use the voice {name}: add it again with --consent",
            voice=name,
        )
    _echo(version, output_format)


@voice.command("ls")
@output_option()
@pass_client
def list_voices(client: Client, /, output_format: OutputFormat) -> None:
    """List all voices and their styles.

    The voices that engines bring along are not in the list.
    """
    versions = client.voice_list()
    match output_format:
        case "json":
            echo_json([voice_fields(version) for version in versions])
        case "jsonl" | "id":
            for version in versions:
                _echo(version, output_format)
        case "table":
            fields = [voice_fields(version) for version in versions]
            rows = [[one[name] for name in _LIST_COLUMNS] for one in fields]
            echo_table([name.upper() for name in _LIST_COLUMNS], rows)


@voice.command()
@click.argument("name")
@output_option()
@pass_client
def show(client: Client, /, name: str, output_format: OutputFormat) -> None:
    """Show a voice: its newest version, or the one that is named, such as alice@2."""
    versions = client.voice_versions(name)
    if output_format in ("table", "json"):
        fields = voice_fields(versions[0]) | {"versions": [one.version for one in versions]}
        (echo_json if output_format == "json" else echo_fields)(fields)
        return
    for version in versions:
        _echo(version, output_format)


@voice.command()
@click.argument("name")
@click.argument("text", default=SAMPLE_TEXT, metavar="[TEXT]")
@click.option(
    "--out",
    "target",
    metavar="FILE|-",
    help="Write the audio to this file, or to stdout. Its suffix chooses the format.",
)
@timeout_option
@output_option("table", "json", "jsonl", "id", text="table writes where the audio is.")
@pass_client
def test(
    client: Client,
    /,
    *,
    name: str,
    text: str,
    target: str | None,
    timeout_s: float | None,
    output_format: str,
) -> None:
    """Speak a sample with a voice, on the cluster.

    NAME may also be a voice that the engine brings along. TEXT is read from stdin if it is "-".
    """
    from tts_tasks.requests import parse_request
    from ttsctl.commands.listen import STDOUT, check_target
    from ttsctl.commands.say import deliver, format_of, text_of, wait_for

    if target is not None:
        check_target(target)
    if target == STDOUT and output_format != "table":
        raise click.BadOptionUsage("output_format", "-o has no place beside the audio on stdout")
    fields = {"text": text_of(text), "voice": name, "format": format_of(target)}
    job = client.submit_job(parse_request(fields))
    result = wait_for(client, job, reporter_for(sys.stderr), timeout_s=timeout_s)
    deliver(client, job, result, target, output_format)


@voice.command("rm")
@click.argument("name")
@click.option(
    "--force",
    is_flag=True,
    help="Also while accepted work is to be spoken with it. That work still is.",
)
@pass_client
def remove(client: Client, /, *, name: str, force: bool) -> None:
    """Remove a voice with all its styles, or one style of it.

    Refused (exit code 5) while jobs or batches that are not done are to be spoken with it. The
    recording itself is removed when nothing needs it any more, after two days at the earliest.
    """
    removed = [str(version.spec.entry) for version in client.voice_remove(name, force=force)]
    reporter_for(sys.stderr).say(
        "voice.removed", f"Removed {', '.join(removed)}", voice=name, removed=removed
    )


def voice_fields(version: VoiceVersion) -> dict[str, Any]:
    """Return a version as the JSON object scripts rely on."""
    return {
        "voice": version.spec.entry,
        "version": version.version,
        "text": version.text,
        "consent": version.consent,
        "speech_s": version.checks.get("speech_s"),
        "created_at": version.created_at,
        "sha256": version.sha256,
        "audio_sha256": version.audio_sha256,
        "checks": version.checks,
    }


def _echo(version: VoiceVersion, output_format: OutputFormat) -> None:
    match output_format:
        case "table":
            echo_fields(voice_fields(version))
        case "id":
            click.echo(str(version.spec))
        case "json":
            echo_json(voice_fields(version))
        case "jsonl":
            echo_jsonl(voice_fields(version))
