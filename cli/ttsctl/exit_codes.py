"""The exit codes scripts rely on, and the one place where errors become exit codes."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttsctl.api import BatchStatus


class ExitCode(IntEnum):
    """What a command's end means; part of the public interface, never renumbered."""

    SUCCEEDED = 0
    FAILED = 1
    USAGE = 2
    SOME_FAILED = 3
    NOT_ALLOWED = 4
    CONFLICT = 5
    NOT_FOUND = 6
    WAIT_TIMED_OUT = 7
    UNAVAILABLE = 8
    CANCELLED = 9
    INTERRUPTED = 130  #: 128 + SIGINT, as shells count
    BROKEN_PIPE = 141  #: 128 + SIGPIPE: who read the output went away


def exit_code_of(error: Exception) -> ExitCode | None:
    """Return the exit code of an error made for people; None for what is a bug."""
    # deferred: `ttsctl --help` must not wait for the client library
    from tts_tasks import errors

    codes: tuple[tuple[type[Exception], ExitCode], ...] = (
        (errors.ConfigurationError, ExitCode.USAGE),
        (errors.RequestError, ExitCode.USAGE),
        (errors.ConflictError, ExitCode.CONFLICT),
        (errors.NotFoundError, ExitCode.NOT_FOUND),
        (errors.UnavailableError, ExitCode.UNAVAILABLE),
        (errors.AdmissionError, ExitCode.UNAVAILABLE),
        (errors.WaitTimeoutError, ExitCode.WAIT_TIMED_OUT),
        (errors.JobCancelledError, ExitCode.CANCELLED),
        (errors.TTSError, ExitCode.FAILED),
        (OSError, ExitCode.FAILED),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), None)


def exit_code_of_batch(status: BatchStatus) -> ExitCode:
    """Return what a batch that has been waited for, or only accepted, means for a script.

    While it runs only the lines that were refused count against it.
    """
    if status.state == "cancelled":
        return ExitCode.CANCELLED
    bad = status.failed + status.rejected
    if bad == 0:
        return ExitCode.SUCCEEDED
    return ExitCode.FAILED if bad >= status.total else ExitCode.SOME_FAILED
