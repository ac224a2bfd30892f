"""``ttsctl lexicon``: how phrases are pronounced, in versions that jobs are pinned to."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from tts_tasks.errors import ConfigurationError, RequestError
from tts_tasks.lexicons import FORMS, Form, parse_lexicon
from ttsctl.api import Client, pass_client
from ttsctl.options import output_option
from ttsctl.output import cell, echo_fields, echo_json, echo_jsonl, echo_table, printable
from ttsctl.progress import reporter_for

if TYPE_CHECKING:
    from tts_tasks.lexicons import LexiconVersion
    from ttsctl.output import OutputFormat

_COLUMNS = ("name", "version", "entries", "created_at", "sha256")
_ENTRY_COLUMNS = ("phrase", "kind", "said")
_PRONOUNCE = ("-m", "tts_workers.pronounce")
_PRONOUNCE_TIMEOUT_S = 600.0


@click.group()
def lexicon() -> None:
    """Say how phrases are pronounced."""


@lexicon.command()
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--form", type=click.Choice(FORMS), help="What the file is. [default: as it looks]")
@output_option()
@pass_client
def add(
    client: Client, /, name: str, file: Path, form: str | None, output_format: OutputFormat
) -> None:
    """Make a file the newest version of a lexicon.

    Jobs that are accepted from now on use it; those that were accepted before do not. A file that
    holds what the newest version holds changes nothing.
    """
    made = client.lexicon_add(name, file.read_bytes(), form=cast("Form | None", form))
    _echo_version(made, output_format)


@lexicon.command("ls")
@output_option()
@pass_client
def list_lexicons(client: Client, /, output_format: OutputFormat) -> None:
    """List all lexicons."""
    _echo_versions(client.lexicon_list(), output_format)


@lexicon.command()
@click.argument("name")
@output_option("table", "json", "jsonl")
@click.option("--versions", is_flag=True, help="Show which versions there are.")
@pass_client
def show(client: Client, /, name: str, versions: bool, output_format: OutputFormat) -> None:
    """Show the entries of NAME, or of NAME@VERSION."""
    if versions:
        _echo_versions(client.lexicon_versions(name.partition("@")[0]), output_format)
        return
    entries = [asdict(entry) for entry in client.lexicon_read(name).entries]
    match output_format:
        case "json":
            echo_json(entries)
        case "jsonl":
            for entry in entries:
                echo_jsonl(entry)
        case _:
            rows = [[entry[column] for column in _ENTRY_COLUMNS] for entry in entries]
            echo_table([column.upper() for column in _ENTRY_COLUMNS], rows)


@lexicon.command()
@click.argument("name")
@click.option(
    "--form",
    type=click.Choice(FORMS),
    default="ours",
    show_default=True,
    help="ours, or a file of GLM-TTS: G2P_replace_dict.jsonl, custom_replace.jsonl.",
)
@pass_client
def export(client: Client, /, name: str, form: str) -> None:
    """Write a lexicon to stdout, as JSONL.

    Entries that the form has no way to say are named on stderr.
    """
    exported = client.lexicon_export(name, cast("Form", form))
    click.echo(exported.text, nl=False)
    if exported.left_out:
        reporter_for(sys.stderr).say(
            "lexicon.left_out",
            f"{len(exported.left_out)} entries have no place in {form}: "
            + printable(", ".join(entry.phrase for entry in exported.left_out[:20])),
            phrases=[entry.phrase for entry in exported.left_out],
        )


@lexicon.command()
@click.argument("name")
@output_option()
@pass_client
def rm(client: Client, /, name: str, output_format: OutputFormat) -> None:
    """Let new jobs use a lexicon no more; those that were accepted with it still do."""
    _echo_version(client.lexicon_remove(name), output_format)


@lexicon.command()
@click.argument("text")
@click.option("--lexicon", "name", metavar="NAME", help="NAME or NAME@VERSION of the cluster's.")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A lexicon that is not added yet.",
)
@click.option("--voice", default="default", show_default=True, help="As in a request.")
@click.option("--engine", default="espeak", show_default=True, help="An engine of this machine.")
@output_option("table", "json")
@pass_client
def test(
    client: Client,
    /,
    *,
    text: str,
    name: str | None,
    file: Path | None,
    voice: str,
    engine: str,
    output_format: OutputFormat,
) -> None:
    """Show what will be said for a text.

    An engine of this machine is asked, in a process of its own; no cluster is needed. Shown are
    the segments as the engine gets them, and for espeak its sounds: pinyin with the tones as they
    are heard, and IPA. Other engines have their own pronunciation, of which only the overrides
    are known here.
    """
    if name is not None and file is not None:
        raise click.UsageError("--lexicon and --file: give one of them")
    content = None
    if file is not None:
        content = parse_lexicon(file.read_bytes()).to_jsonl()
    elif name is not None:
        content = client.lexicon_read(name).to_jsonl()
    asked = {"text": text, "voice": voice, "engine": engine, "lexicon": content}
    told = _pronounced(asked)
    if output_format == "json":
        echo_json(told)
    else:
        _echo_told(told)


def _pronounced(asked: dict[str, Any]) -> dict[str, Any]:
    """Ask the worker's code, which the command line does not import."""
    ran = subprocess.run(
        [sys.executable, *_PRONOUNCE],
        input=json.dumps(asked).encode(),
        capture_output=True,
        timeout=_PRONOUNCE_TIMEOUT_S,
        check=False,
    )
    try:
        told: dict[str, Any] = json.loads(ran.stdout)
    except ValueError:
        words = ran.stderr.decode(errors="replace").strip().splitlines()
        raise ConfigurationError(
            f"the engine {asked['engine']} cannot be asked on this machine "
            f"({words[-1] if words else f'exit code {ran.returncode}'}); "
            "pip install 'tts-tasks[espeak]' brings espeak"
        ) from None
    if error := told.get("error"):
        if error["field"]:
            raise RequestError(error["field"], error["reason"])
        raise ConfigurationError(error["reason"])
    return told


def _echo_told(told: dict[str, Any]) -> None:
    echo_fields({"engine": f"{told['engine']} ({told['version']}), on this machine"})
    for override in told["overrides"]:
        said = override["said"] or "(nothing)"
        echo_fields({"override": f"{override['phrase']} → {override['kind']} {said}"})
    for number, segment in enumerate(told["segments"], start=1):
        click.echo()
        pinyin = segment["pinyin"]
        shown = {
            "segment": f"{number}: {segment['text']}",
            "pinyin": " ".join(pinyin) if pinyin else None,
            "ipa": " ".join(segment["ipa"].split()) if segment["ipa"] else None,
            "pause": f"{segment['pause_after_s']:g} s" if segment["pause_after_s"] else None,
        }
        echo_fields(shown)


def _fields(version: LexiconVersion) -> dict[str, Any]:
    return asdict(version)


def _echo_version(version: LexiconVersion, output_format: OutputFormat) -> None:
    match output_format:
        case "id":
            click.echo(version.spec)
        case "json":
            echo_json(_fields(version))
        case "jsonl":
            echo_jsonl(_fields(version))
        case "table":
            echo_fields(_fields(version))


def _echo_versions(versions: list[LexiconVersion], output_format: OutputFormat) -> None:
    match output_format:
        case "json":
            echo_json([_fields(version) for version in versions])
        case "jsonl" | "id":
            for version in versions:
                _echo_version(version, output_format)
        case "table":
            rows = [[cell(_fields(version)[column]) for column in _COLUMNS] for version in versions]
            echo_table([column.upper() for column in _COLUMNS], rows)
