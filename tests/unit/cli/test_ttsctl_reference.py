"""The reference page tells of every command, option, exit code and event there is."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from ttsctl.__main__ import COMMANDS, cli
from ttsctl.exit_codes import ExitCode

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/reference/ttsctl.md").read_text(encoding="utf-8")
#: Described on a page of their own.
ELSEWHERE = {"up", "down"}


def commands():
    """Yield the full name and the command of everything that can be called."""
    ctx = click.Context(cli)
    for name in (name for section in COMMANDS.values() for name in section):
        if name in ELSEWHERE:
            continue
        command = cli.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", part) for sub, part in command.commands.items())
        else:
            yield name, command


@pytest.mark.parametrize(("name", "command"), [pytest.param(*c, id=c[0]) for c in commands()])
def test_every_command_and_option_is_described(name, command):
    """A command, or an option that is added, is missing from the page until it is written there."""
    assert f"`{name}" in PAGE
    for option in (part for part in command.params if isinstance(part, click.Option)):
        assert re.search(rf"{max(option.opts, key=len)}\b", PAGE), option.opts


def test_every_exit_code_is_described():
    """The table of exit codes is the enumeration."""
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert listed == {int(code) for code in ExitCode}


def test_every_event_is_described():
    """Each event name that the code can write to stderr stands in the table."""
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("cli/ttsctl", "cli/ttsctl/commands")
        for path in (ROOT / folder).glob("*.py")
        if path.stem not in ELSEWHERE
    )
    said = set(
        re.findall(r'"((?:batch|line|lines|job|jobs|store|worker|workers)\.[a-z_]+)"', sources)
    )
    assert {"batch.progress", "store.unreachable"} <= said
    assert {event for event in said if f"`{event}`" not in PAGE} == set()
