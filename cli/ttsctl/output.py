"""How answers are written: data on stdout as a table, JSON, JSON lines or ids; talk on stderr.

Text from outside (lines of a batch file, errors, names) may hold anything, also terminal escape
sequences: people see it escaped, JSON carries it as it is.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import select
import stat
import sys
import threading
from typing import TYPE_CHECKING, Any, Literal

import click

from ttsctl.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

OutputFormat = Literal["table", "json", "jsonl", "id"]

# a Redis password may hold unescaped slashes; in other URLs an @ may belong to the path
_SECRET_IN_URL = re.compile(r"((?:rediss?|valkeys?|unix|sentinel|cluster)://)\S*@|(://)[^/\s?#]*@")
_SECRET_IN_QUERY = re.compile(r"(?i)([?&](?:(?:\w*_)?password|passwd|token|secret)=)[^&\s]+")
_BATCH_KEYS = (
    "batch", "state", "total", "succeeded", "failed", "cancelled", "rejected", "priority",
    "waits_for", "output", "report", "created_at",
)  # fmt: skip
_RESULT_KEYS = (
    "line", "id", "state", "uri", "sha256", "duration_s", "attempt", "worker", "error",
)  # fmt: skip


def make_streams_forgiving() -> None:
    """Escape what the terminal's encoding cannot show instead of failing over it."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def echo_json(value: Any, *, indent: int | None = 2) -> None:
    """Write one JSON document to stdout."""
    click.echo(as_json(value, indent=indent, ascii_only=not _speaks_utf8(sys.stdout)))


def echo_jsonl(value: Any) -> None:
    """Write one value as one line of JSON to stdout."""
    echo_json(value, indent=None)


def as_json(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """Return JSON; what JSON does not know (paths, dates) is written as its text."""
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent, default=str)


def echo_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table to stdout; see `table_lines`."""
    for line in table_lines(headers, rows):
        click.echo(line)


def table_lines(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return aligned lines without frames: no cell is cut, so that pipes and copying work."""
    from rich.cells import cell_len

    cells = [[cell(value) for value in row] for row in rows]
    widths = [
        max(cell_len(text) for text in column) for column in zip(headers, *cells, strict=True)
    ]

    def aligned(row: Sequence[str]) -> str:
        padded = (text + " " * (w - cell_len(text)) for text, w in zip(row, widths, strict=True))
        return "  ".join(padded).rstrip()

    return [styled(aligned(headers), bold=True), *map(aligned, cells)]


def echo_fields(fields: Mapping[str, Any]) -> None:
    """Write names and values, one pair a line, to stdout; None is left out."""
    shown = {name: value for name, value in fields.items() if value is not None}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"{styled(name.ljust(width), bold=True)}  {cell(value)}")


def cell(value: Any) -> str:
    """Return a value as it stands in a table."""
    match value:
        case None | "" | ():
            return "-"
        case tuple():
            return printable(", ".join(map(str, value)))
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
        case dict() | list():
            return printable(as_json(value))
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """Return text in which nothing can move the cursor or recolour the terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def without_secrets(text: str) -> str:
    """Return a message in which the passwords of URLs are blotted out."""
    return _SECRET_IN_QUERY.sub(r"\1***", _SECRET_IN_URL.sub(_blot_out, text))


def _blot_out(match: re.Match[str]) -> str:
    if match[0].endswith("://[:password@"):  # it says how such a URL looks
        return match[0]
    return f"{match[1] or match[2]}***@"


def styled(text: str, **style: Any) -> str:
    """Return text with terminal style, or plain under NO_COLOR; pipes get it plain anyway."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def error_text(error: Any) -> str:
    """Return what a report line's ``error`` says, be it text or ``{"field", "reason"}``."""
    if isinstance(error, dict):
        where = error.get("field") or error.get("code")
        reason = error.get("reason") or error.get("message") or as_json(error)
        return f"{where}: {reason}" if where else str(reason)
    return "no reason given" if error in (None, "") else str(error)


def evidence_lines(line: dict[str, Any]) -> list[str]:
    """Return for people what is known of a job that lost its workers; [] where nothing is."""
    error = line.get("error")
    if not isinstance(error, dict) or not isinstance(evidence := error.get("evidence"), dict):
        return []
    lines = ["", f"line {line.get('line')}, {line.get('id')}: {evidence.get('reason', 'failed')}"]
    if workers := error.get("workers"):
        lines.append(f"  tried on: {', '.join(map(str, workers))}")
    for key, title in (("log", "its last log lines"), ("stderr", "what its process wrote")):
        if told := evidence.get(key):
            lines.append(f"  {title}:")
            lines += [f"    {one}" for one in told]
    return [printable(without_secrets(one)) for one in lines]


def batch_fields(status: Any) -> dict[str, Any]:
    """Return a `BatchStatus` as the JSON object scripts rely on."""
    return {key: getattr(status, key) for key in _BATCH_KEYS}


def result_fields(result: Any) -> dict[str, Any]:
    """Return a `JobResult` as a report line."""
    fields = {key: getattr(result, key, None) for key in _RESULT_KEYS}
    return fields | ({"subtitles": dict(result.subtitles)} if result.subtitles else {})


def echo_batch(status: Any, output_format: OutputFormat) -> None:
    """Write one batch to stdout."""
    match output_format:
        case "table":
            echo_fields(batch_fields(status))
        case "id":
            click.echo(status.batch)
        case "json":
            echo_json(batch_fields(status))
        case "jsonl":
            echo_jsonl(batch_fields(status))


def leave_with_the_reader() -> None:
    """End this process when whoever reads our stdout through a pipe has gone.

    A command that waits for news would not notice before it has some to write.
    """
    try:
        descriptor = sys.stdout.fileno()
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return
    except (OSError, ValueError):
        return  # stdout is closed, or no file

    def wait() -> None:
        pipe = select.poll()
        pipe.register(descriptor, select.POLLERR)
        pipe.poll()
        # what is buffered has no reader any more
        os._exit(ExitCode.BROKEN_PIPE)

    threading.Thread(target=wait, name="reader-gone", daemon=True).start()


def is_terminal(stream: Any) -> bool:
    """Say whether a stream is a terminal that can redraw a line."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def _speaks_utf8(stream: Any) -> bool:
    try:
        return codecs.lookup(stream.encoding or "ascii").name == "utf-8"
    except LookupError:
        return False
