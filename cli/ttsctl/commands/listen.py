"""``ttsctl listen``: the sound of a job while it is made, segment by segment."""

from __future__ import annotations

import shlex
import struct
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import click

from tts_tasks.errors import WaitTimeoutError
from ttsctl.api import Client, pass_client
from ttsctl.exit_codes import ExitCode
from ttsctl.options import timeout_option
from ttsctl.progress import reporter_for

if TYPE_CHECKING:
    from ttsctl.api import AudioSegment
    from ttsctl.progress import Reporter

STDOUT = "-"
#: What a WAV header says while nobody knows how long it will be; players read to the end then.
_UNKNOWN_SIZE = 0xFFFFFFFF
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


@click.command()
@click.argument("job")
@click.option(
    "-f",
    "--file",
    "target",
    metavar="OUT|-",
    default=STDOUT,
    show_default=True,
    help="Write WAV to this file, or to stdout (for a player).",
)
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Go on after the N-th segment, the last that was heard before.",
)
@timeout_option
@pass_client
def listen(client: Client, /, job: str, target: str, after: int, timeout_s: float | None) -> None:
    """Listen to a job while it is made.

    Writes the segments as they are spoken, from the first on, also those of the past. A worker
    that dies meanwhile is a pause, never a gap or a repeat.
    """
    check_target(target)
    play(client, job, target, reporter_for(sys.stderr), after=after, timeout_s=timeout_s)


def check_target(target: str) -> None:
    """Refuse to write audio to a terminal."""
    if target == STDOUT and sys.stdout.isatty():
        raise click.BadOptionUsage(
            "file", "audio is not written to a terminal: name a file with -f, or pipe to a player"
        )


def play(
    client: Client,
    job: str,
    target: str,
    reporter: Reporter,
    *,
    after: int = 0,
    timeout_s: float | None = None,
) -> None:
    """Write a job's segments as they come; raises what `Client.follow_audio` does."""
    heard_s, last = 0.0, after
    try:
        with ExitStack() as stack:
            out = sys.stdout.buffer
            wav: _Wav | None = None
            for segment in client.follow_audio(job, after=after, timeout_s=timeout_s):
                if wav is None:
                    # opened with the first sound: a job that is unknown overwrites nothing
                    if target != STDOUT:
                        out = stack.enter_context(Path(target).open("wb"))
                    wav = stack.enter_context(_Wav(out, segment.sample_rate_hz))
                wav.write(segment)
                last = segment.number
                heard_s += segment.duration_s
    except (KeyboardInterrupt, WaitTimeoutError) as end:
        stopped = isinstance(end, KeyboardInterrupt)
        # a file of its own: what was heard is in the other one
        rest = STDOUT if target == STDOUT else Path(target).with_stem(f"{Path(target).stem}-rest")
        reporter.say(
            "job.detached" if stopped else "job.wait_timed_out",
            f"Stopped listening: job {job} goes on; hear the rest with "
            f"ttsctl listen {job} --after {last} -f {shlex.quote(str(rest))}",
            id=job,
            after=last,
        )
        code = ExitCode.INTERRUPTED if stopped else ExitCode.WAIT_TIMED_OUT
        click.get_current_context().exit(code)
    reporter.say(
        "job.heard",
        f"{last - after} segments, {heard_s:.1f} s",
        id=job,
        segments=last - after,
        duration_s=round(heard_s, 3),
    )


class _Wav:
    """A WAV file that is written as its sound comes; the header is put right at the end."""

    def __init__(self, out: IO[bytes], sample_rate_hz: int) -> None:
        self._out = out
        self._sample_rate_hz = sample_rate_hz
        self._size_bytes = 0
        out.write(_header(sample_rate_hz, None))

    def __enter__(self) -> Self:
        return self

    def write(self, segment: AudioSegment) -> None:
        """Append a segment; whoever reads has it at once."""
        self._out.write(segment.pcm)
        self._out.flush()
        self._size_bytes += len(segment.pcm)

    def __exit__(self, *_: object) -> None:
        if self._out.seekable() and self._out is not sys.stdout.buffer:
            self._out.seek(0)
            self._out.write(_header(self._sample_rate_hz, self._size_bytes))


def _header(sample_rate_hz: int, size_bytes: int | None) -> bytes:
    """Return the header of 16-bit mono WAV; None: of unknown length."""
    data = _UNKNOWN_SIZE if size_bytes is None else size_bytes
    riff = _UNKNOWN_SIZE if size_bytes is None else size_bytes + _HEADER.size - 8
    return _HEADER.pack(
        *(b"RIFF", min(riff, _UNKNOWN_SIZE), b"WAVE", b"fmt ", 16, 1, 1),
        *(sample_rate_hz, sample_rate_hz * 2, 2, 16, b"data", min(data, _UNKNOWN_SIZE)),
    )
