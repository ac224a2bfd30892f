"""``ttsctl``: the command line of a speech cluster. Commands are imported when they are called."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any

import click

from ttsctl.exit_codes import ExitCode, exit_code_of
from ttsctl.output import make_streams_forgiving, printable, without_secrets

#: Section → command → (where it is defined, what it does). The texts repeat the commands' own
#: first lines, so that `ttsctl --help` imports none of them.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "This machine": {
        "up": ("ttsctl.commands.up:up", "Start a cluster on this machine."),
        "down": ("ttsctl.commands.up:down", "Stop what `ttsctl up` started."),
    },
    "Speak": {
        "say": ("ttsctl.commands.say:say", "Speak one text."),
        "listen": ("ttsctl.commands.listen:listen", "Listen to a job while it is made."),
        "cancel": ("ttsctl.commands.cancel:cancel", "Cancel an online job."),
        "submit": ("ttsctl.commands.submit:submit", "Speak a JSONL file of jobs as a batch."),
        "batch": ("ttsctl.commands.batch:batch", "Look after batches."),
        "voice": ("ttsctl.commands.voice:voice", "Look after voices."),
        "lexicon": ("ttsctl.commands.lexicon:lexicon", "Say how phrases are pronounced."),
    },
    "Look": {
        "status": (
            "ttsctl.commands.status:status",
            "Show lanes, pools, workers, queues, and the batches that are worked on.",
        ),
        "events": ("ttsctl.commands.events:events", "Show what happened in the cluster."),
        "doctor": ("ttsctl.commands.doctor:doctor", "Check what a working cluster needs."),
        "version": ("ttsctl.commands.version:version", "Show versions."),
    },
    "Operate": {
        "switchover": (
            "ttsctl.commands.operate:switchover",
            "Move the primary of a lane to another worker.",
        ),
        "drain": ("ttsctl.commands.operate:drain", "Let a worker take no new work."),
        "undrain": ("ttsctl.commands.operate:undrain", "Put a drained worker back into service."),
        "watchdog": (
            "ttsctl.commands.operate:watchdog",
            "Watch workers from a process of its own.",
        ),
    },
}
_WHERE = {name: where for section in COMMANDS.values() for name, (where, _) in section.items()}


class LazyGroup(click.Group):
    """Imports a command's module when the command is used, and ends every error in one place."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names without importing anything."""
        return list(_WHERE)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None if there is none of that name."""
        if cmd_name not in _WHERE:
            return None
        module, _, attribute = _WHERE[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of the command list."""
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error made for people becomes its message and its exit code."""
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            ctx.exit(ExitCode.INTERRUPTED)
        except BrokenPipeError:
            _discard_further_output()
            ctx.exit(ExitCode.BROKEN_PIPE)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            code = exit_code_of(error)
            if code is None:
                raise
            message = without_secrets(str(error) or type(error).__name__)
            click.echo("Error: " + "\n".join(map(printable, message.splitlines())), err=True)
            ctx.exit(code)
        return answer


def _discard_further_output() -> None:
    """Point stdout nowhere: the interpreter flushes it once more at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


#: Repeated from `tts_tasks.redis_url`, which `ttsctl --help` does not import.
_REDIS_SCHEMES = frozenset({"redis", "rediss", "unix", "sentinel", "cluster"})


def _checked_redis_url(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> str | None:
    if value is not None and value.partition("://")[0] not in _REDIS_SCHEMES:
        raise click.BadParameter(
            "it looks like redis://[:password@]host:port/0, or sentinel:// or cluster:// "
            "and several hosts"
        )
    return value


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from ttsctl.commands.version import own_version

        click.echo(f"ttsctl {own_version()}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--redis-url",
    metavar="URL",
    callback=_checked_redis_url,
    help="The cluster's Redis, instead of TTS_REDIS_URL.",
)
@click.option(
    "--home",
    metavar="DIR",
    help="Where this machine's cluster keeps its state, instead of TTS_HOME.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
def cli(redis_url: str | None, home: str | None) -> None:
    """Speak texts on a cluster, and look after it.

    Answers go to stdout, progress and talk to stderr.
    """
    make_streams_forgiving()
    for name, value in (("TTS_REDIS_URL", redis_url), ("TTS_HOME", home)):
        if value is not None:
            os.environ[name] = value
            # processes that we start, and whatever read the settings before, see it too
            settings = sys.modules.get("tts_tasks.settings")
            if settings is not None:
                settings.get_settings.cache_clear()


def main() -> None:
    """Entry point of the console script; exits with an `ExitCode`."""
    cli(prog_name="ttsctl")


if __name__ == "__main__":
    main()
