"""Options that several commands share, and the values they take."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

Command = TypeVar("Command", bound="Callable[..., Any]")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.IGNORECASE)
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType[float]):
    """A span of time: ``30s``, ``10m``, ``2h``, ``1d``, or plain seconds; gives seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a duration: write 30s, 10m, 2h or 1d", param, ctx)
        return float(match[1]) * _UNIT_S[(match[2] or "s").lower()]


def output_option(
    *choices: str, default: str | None = "table", text: str = "How the answer is written."
) -> Callable[[Command], Command]:
    """``-o``: with ``default=None`` the command decides by where stdout goes."""
    return click.option(
        "-o",
        "--output-format",
        type=click.Choice(choices or ("table", "json", "jsonl", "id")),
        default=default,
        show_default=default is not None,
        help=text,
    )


def _requirements(
    _ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]
) -> dict[str, Any]:
    """Read ``KEY=VALUE`` as a request's ``requires`` has it; the fields are checked there."""
    found: dict[str, Any] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise click.BadParameter(f"{pair!r}: write KEY=VALUE, as in language=en")
        if key == "features":
            found[key] = [*found.get(key, []), *value.split(",")]
        elif key in found:
            raise click.BadParameter(f"{key} is given twice")
        else:
            is_rate = key == "sample_rate_hz" and value.isascii() and value.isdecimal()
            found[key] = int(value) if is_rate else value
    return found


requires_option = click.option(
    "--requires",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_requirements,
    help="What the pool must be able to do: language, features (A,B), engine, model_version, "
    "sample_rate_hz, pool. Refused at once (exit code 8) where no pool can. Can be repeated.",
)


def _subtitles(
    _ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]
) -> list[str] | None:
    """Read ``A,B`` as a request's ``subtitles`` has it; the formats are checked there."""
    return [kind for formats in given for kind in formats.split(",")] or None


#: The fields of a request that shape its sound; see docs/how-to/audio-out.md.
_AUDIO_OUT = (
    click.option("--loudness-lufs", type=float, help="Integrated loudness of the whole."),
    click.option("--peak-limit-dbfs", type=float, help="No sample is louder."),
    click.option("--gain-db", type=float, help="Louder or softer by a fixed amount."),
    click.option("--trim-silence", is_flag=True, help="Take off the silence that engines add."),
    click.option("--fade-ms", type=float, help="Fade each segment in and out."),
    click.option("--sentence-pause-ms", type=float, help="Silence between sentences."),
    click.option("--paragraph-pause-ms", type=float, help="Silence between paragraphs."),
    click.option(
        "--subtitles",
        multiple=True,
        metavar="FORMAT,...",
        callback=_subtitles,
        help="Make subtitles beside the sound: srt, vtt, json. Can be repeated.",
    ),
)


def audio_out_options(command: Command) -> Command:
    """Take the fields that shape the sound, under the names that a request has for them."""
    for option in reversed(_AUDIO_OUT):
        command = option(command)
    return command


timeout_option = click.option(
    "--timeout-s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop waiting after this long (exit code 7); the work goes on.",
)
