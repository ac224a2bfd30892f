"""``ttsctl doctor``: whether everything is there that a working cluster needs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from ttsctl.api import Client, pass_client
from ttsctl.exit_codes import ExitCode
from ttsctl.options import output_option
from ttsctl.output import echo_json, echo_jsonl, printable, styled, without_secrets

if TYPE_CHECKING:
    from ttsctl.checks import Finding

_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.command()
@output_option("table", "json", "jsonl")
@pass_client
def doctor(client: Client, /, output_format: str) -> None:
    """Check what a working cluster needs.

    Says for each thing how it is and what to do about it. Exit code 1 if one of them fails;
    warnings do not count.
    """
    from tts_tasks.settings import get_settings
    from ttsctl.checks import examine

    findings: list[Finding] = []
    for finding in examine(get_settings(), client):
        safe = dataclasses.replace(finding, found=without_secrets(finding.found))
        findings.append(safe)
        if output_format == "table":
            # each at once: some of them take seconds
            echo_finding(safe)
        elif output_format == "jsonl":
            echo_jsonl(dataclasses.asdict(safe))
    if output_format == "json":
        echo_json([dataclasses.asdict(finding) for finding in findings])
    failed = any(finding.verdict == "fail" for finding in findings)
    click.get_current_context().exit(ExitCode.FAILED if failed else ExitCode.SUCCEEDED)


def echo_finding(finding: Finding) -> None:
    """Write one finding for people, and below it what to do."""
    mark, colour = _MARKS[finding.verdict]
    click.echo(f"{styled(mark, fg=colour)}  {finding.check.ljust(24)}  {printable(finding.found)}")
    if finding.verdict != "ok" and finding.remedy:
        click.echo(f"      → {finding.remedy}")
