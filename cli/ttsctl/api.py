"""What the command line needs of a cluster: the part of `tts_tasks.client` that it calls.

Commands see only this Protocol. It keeps the client library out of `ttsctl --help`, and lets the
tests hand in a cluster of their own (``CliRunner().invoke(cli, args, obj=...)``).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tts_tasks.lexicons import Exported, Form, Lexicon, LexiconVersion
    from tts_tasks.requests import SpeechRequest

P = ParamSpec("P")
R = TypeVar("R")


class BatchStatus(Protocol):
    """How far a batch is. ``total`` counts every line that is a job or was meant to be one."""

    @property
    def batch(self) -> str:
        """The batch's id."""
        ...

    @property
    def state(self) -> str:
        """``accepting``, ``waiting`` for its turn, ``running``, ``done`` or ``cancelled``."""
        ...

    @property
    def total(self) -> int:
        """Lines, the rejected ones included."""
        ...

    @property
    def succeeded(self) -> int:
        """Jobs with an artifact."""
        ...

    @property
    def failed(self) -> int:
        """Jobs that ended without one."""
        ...

    @property
    def cancelled(self) -> int:
        """Jobs that were not spoken, as the batch was cancelled."""
        ...

    @property
    def rejected(self) -> int:
        """Lines that never became a job."""
        ...

    @property
    def report(self) -> str | None:
        """Where the report lies, once there is one."""
        ...

    @property
    def output(self) -> str:
        """Where the artifacts are put."""
        ...

    @property
    def created_at(self) -> str:
        """When the batch was accepted: UTC, ISO 8601."""
        ...


class JobResult(Protocol):
    """How a job ended."""

    @property
    def id(self) -> str:
        """The job's id, or the line's own id within its batch."""
        ...

    @property
    def line(self) -> int | None:
        """Line in the batch file, from 1; None for an online job."""
        ...

    @property
    def state(self) -> str:
        """``succeeded``, ``failed`` or ``cancelled``."""
        ...

    @property
    def uri(self) -> str | None:
        """Where the artifact is."""
        ...

    @property
    def sha256(self) -> str | None:
        """Of the artifact, as hex."""
        ...

    @property
    def duration_s(self) -> float | None:
        """Length of the audio."""
        ...

    @property
    def attempt(self) -> int | None:
        """The attempt that counted."""
        ...

    @property
    def worker(self) -> str | None:
        """Who made it."""
        ...

    @property
    def subtitles(self) -> Mapping[str, str]:
        """Names of its subtitle files in storage, by format."""
        ...

    @property
    def error(self) -> Any:
        """Why there is no artifact: text, or ``{"code", "reason"}``."""
        ...

    @property
    def cursor(self) -> int:
        """Hand this to ``follow(after=)`` to go on behind this result."""
        ...


class VoiceVersion(Protocol):
    """One version of a voice."""

    @property
    def spec(self) -> Any:
        """Its full name; ``spec.entry`` is without the version."""
        ...

    @property
    def version(self) -> int:
        """From 1."""
        ...

    @property
    def text(self) -> str:
        """What is said in the recording."""
        ...

    @property
    def consent(self) -> str | None:
        """Who agreed to its use; None where nobody has said."""
        ...

    @property
    def created_at(self) -> str:
        """When it was added: UTC, ISO 8601."""
        ...

    @property
    def sha256(self) -> str:
        """Content hash of recording and text."""
        ...

    @property
    def audio_sha256(self) -> str:
        """Content hash of the recording, normalised."""
        ...

    @property
    def checks(self) -> dict[str, Any]:
        """What was measured of the recording."""
        ...


class AudioSegment(Protocol):
    """A piece of a job's sound."""

    @property
    def number(self) -> int:
        """From 1."""
        ...

    @property
    def pcm(self) -> bytes:
        """16-bit little-endian mono samples."""
        ...

    @property
    def sample_rate_hz(self) -> int:
        """Of the samples."""
        ...

    @property
    def duration_s(self) -> float:
        """How long it sounds."""
        ...


class Client(Protocol):
    """The functions of `tts_tasks.client` that commands call."""

    def submit_job(self, request: SpeechRequest, /) -> str:
        """Accept one online job and return its id."""
        ...

    def job_cancel(self, job: str, /) -> None:
        """Speak nothing more of an online job; `ConflictError` for one that has ended."""
        ...

    def submit_batch(
        self,
        source: Path,
        /,
        *,
        id: str | None = None,  # noqa: A002 - the client's word
        output: str | None = None,
        priority: float = 1.0,
        wait_for_output: bool = True,
        strict: bool = False,
        audio_root: Path | None = None,
        pool: str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> BatchStatus:
        """Accept a file, or re-attach to the batch it already is."""
        ...

    def batch_cancel(self, batch: str, /) -> BatchStatus:
        """Speak nothing more of a batch."""
        ...

    def batch_retry(self, batch: str, /) -> int:
        """Have the failed lines tried again; returns how many."""
        ...

    def batch_resume(self, batch: str, /) -> int:
        """Go on with a batch that was cancelled; returns how many lines."""
        ...

    def batch_remove(self, batch: str, /) -> None:
        """Forget a batch; artifacts and report stay."""
        ...

    def batch_status(self, batch: str, /) -> BatchStatus:
        """Raise `NotFoundError` for a batch that is not there."""
        ...

    def batch_list(self) -> list[Any]:
        """Every batch, as `BatchStatus`."""
        ...

    def batch_errors(self, batch: str, /) -> Iterator[dict[str, Any]]:
        """Report lines of rejected and failed jobs, in input order."""
        ...

    def batch_rejected(self, batch: str, /) -> Iterator[dict[str, Any]]:
        """Report lines of the lines that never became a job, in input order."""
        ...

    def follow(
        self, batch_or_job: str, /, *, after: int = 0, timeout_s: float | None = None
    ) -> Iterator[JobResult]:
        """Yield each finished job, those that had finished before first."""
        ...

    def follow_audio(
        self, job: str, /, *, after: int = 0, timeout_s: float | None = None
    ) -> Iterator[AudioSegment]:
        """Yield the segments of a job; raises `JobFailedError`, `JobCancelledError`."""
        ...

    def report(self, batch: str, /) -> Iterator[dict[str, Any]]:
        """Report lines in input order."""
        ...

    def fetch(self, batch: str, /, to: Path) -> Iterator[Path]:
        """Copy finished artifacts into a local folder."""
        ...

    def cluster_status(self) -> dict[str, Any]:
        """``{"lanes": [...], "workers": [...], "queues": {...}, "batches": [...]}``."""
        ...

    def switchover(
        self,
        lane: str | None = None,
        /,
        *,
        to: str | None = None,
        reason: str,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        """Move a lane's primary; ``{"lane", "from", "to", "epoch", "took_s"}``."""
        ...

    def drain(self, worker: str, /, *, reason: str) -> dict[str, Any]:
        """Order that a worker takes no new work; ``{"worker", "draining", "reason"}``."""
        ...

    def undrain(self, worker: str, /) -> dict[str, Any]:
        """Take that order back; answers like `drain`."""
        ...

    def events(
        self, *, follow: bool = False, since_s: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield what happened, oldest first."""
        ...

    def voice_add(
        self, name: str, audio: Path, /, *, text: str, consent: str | None = None
    ) -> VoiceVersion:
        """Make a recording the newest version of a voice."""
        ...

    def voice_list(self) -> list[Any]:
        """Newest version of each voice and style, as `VoiceVersion`."""
        ...

    def voice_versions(self, name: str, /) -> list[Any]:
        """Versions of a voice, newest first; raises `NotFoundError`."""
        ...

    def voice_remove(self, name: str, /, *, force: bool = False) -> list[Any]:
        """Remove a voice; `ConflictError` while accepted work is to be spoken with it."""
        ...

    def read_artifact(self, uri_or_name: str, /) -> bytes:
        """Return an artifact's bytes."""
        ...

    def lexicon_add(self, name: str, data: bytes, /, *, form: Form | None = None) -> LexiconVersion:
        """Make a file's content the newest version of a lexicon."""
        ...

    def lexicon_list(self) -> list[LexiconVersion]:
        """Return the newest version of each lexicon."""
        ...

    def lexicon_versions(self, name: str, /) -> list[LexiconVersion]:
        """Return all versions of a lexicon, the oldest first."""
        ...

    def lexicon_read(self, name: str, /) -> Lexicon:
        """Return what ``NAME`` or ``NAME@VERSION`` holds."""
        ...

    def lexicon_export(self, name: str, form: Form, /) -> Exported:
        """Return a lexicon in a form."""
        ...

    def lexicon_remove(self, name: str, /) -> LexiconVersion:
        """Let new jobs use a lexicon no more."""
        ...


def pass_client(command: Callable[Concatenate[Client, P], R]) -> Callable[P, R]:
    """Hand a command the cluster's client as its first argument."""

    @functools.wraps(command)
    def with_client(*args: P.args, **kwargs: P.kwargs) -> R:
        return command(current_client(), *args, **kwargs)

    return with_client


def current_client() -> Client:
    """Return what the context holds (tests), else `tts_tasks.client`."""
    given = click.get_current_context().obj
    if given is not None:
        return cast("Client", given)
    from tts_tasks import client

    return client
