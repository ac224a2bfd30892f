"""What people and programs see on stderr while a batch is accepted and followed.

On a terminal: a bar that redraws itself. Otherwise: JSON events, one a line, a few a minute's worth
of work at most, so that a log stays readable. Nothing here writes to stdout.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from ttsctl.output import as_json, is_terminal, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ttsctl.api import BatchStatus

#: Rates are those of the last half minute: long enough to be calm, short enough to be true.
RATE_WINDOW_S = 30.0
EVENT_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a batch is, and how fast it goes."""

    done: int
    total: int
    succeeded: int
    failed: int
    rejected: int
    jobs_per_s: float
    audio_s_per_s: float  #: seconds of sound made per second
    left_s: float | None  #: None while nothing can be said


class Tally:
    """Counts the jobs of one batch as they finish. Thread-safe: the bar reads it while it draws.

    Jobs that had finished before we came are counted, but are no part of the rates.
    """

    def __init__(self, status: BatchStatus, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.batch = status.batch
        self._total = status.total
        self._rejected = status.rejected
        self._finished_before = status.succeeded + status.failed + status.cancelled
        self._succeeded = 0
        self._failed = 0
        self._cancelled = 0
        self._clock = clock
        self._started = clock()
        self._recent: deque[tuple[float, float]] = deque()  # (when, audio_s), oldest first
        self._recent_audio_s = 0.0
        self._lock = threading.Lock()

    def add(self, state: str, duration_s: float | None) -> None:
        """Count one finished job."""
        with self._lock:
            if state == "succeeded":
                self._succeeded += 1
            elif state == "cancelled":
                self._cancelled += 1
            else:
                self._failed += 1
            if self._succeeded + self._failed + self._cancelled <= self._finished_before:
                return
            self._recent.append((self._clock(), duration_s or 0.0))
            self._recent_audio_s += duration_s or 0.0

    @property
    def failed(self) -> int:
        """Jobs that failed so far."""
        return self._failed

    def standing(self) -> Standing:
        """Return the counts and rates of this moment."""
        with self._lock:
            now = self._clock()
            while self._recent and self._recent[0][0] < now - RATE_WINDOW_S:
                self._recent_audio_s -= self._recent.popleft()[1]
            # the first second says too little to divide by it
            window_s = min(RATE_WINDOW_S, max(1.0, now - self._started))
            jobs_per_s = len(self._recent) / window_s
            done = self._succeeded + self._failed + self._cancelled + self._rejected
            return Standing(
                done=done,
                total=self._total,
                succeeded=self._succeeded,
                failed=self._failed,
                rejected=self._rejected,
                jobs_per_s=round(jobs_per_s, 2),
                audio_s_per_s=round(max(0.0, self._recent_audio_s) / window_s, 2),
                left_s=round(max(0, self._total - done) / jobs_per_s, 1) if jobs_per_s else None,
            )


class Reporter(Protocol):
    """Tells whoever watches stderr how things go."""

    def say(self, event: str, message: str, **fields: Any) -> None:
        """Tell one thing that happened: a stable dotted name, and the words for people."""
        ...

    def accepting(self) -> AbstractContextManager[Callable[[int], None]]:
        """Show how many lines are accepted, as told to the callable that is handed in."""
        ...

    def following(self, tally: Tally) -> AbstractContextManager[None]:
        """Show a tally while it grows."""
        ...


def reporter_for(stream: TextIO) -> Reporter:
    """Return what suits the stream: a bar on a terminal, JSON events elsewhere."""
    return TerminalReporter(stream) if is_terminal(stream) else EventReporter(stream)


class TerminalReporter:
    """A bar with counts, rates and the time left; messages scroll by above it."""

    def __init__(self, stream: TextIO, *, console: Console | None = None) -> None:
        self._console = console or Console(
            file=stream, markup=False, highlight=False, soft_wrap=True
        )

    def say(self, event: str, message: str, **_fields: Any) -> None:
        """Write the message on a line of its own."""
        style = "red" if event.endswith((".rejected", ".failed", ".unreachable")) else None
        self._console.print(Text(printable(message), style=style or ""))

    @contextmanager
    def accepting(self) -> Iterator[Callable[[int], None]]:
        """Count the accepted lines on one line, which vanishes."""
        text = TextColumn("accepted {task.completed:,.0f} lines", markup=False)
        with self._live(text, transient=True) as progress:
            task = progress.add_task("accepting", total=None)
            yield lambda accepted: progress.update(task, completed=accepted)

    @contextmanager
    def following(self, tally: Tally) -> Iterator[None]:
        """Draw the bar until the block ends; its last state stays on the screen."""
        with self._live(_TallyBar(tally, self._console), _TallyText(tally)) as progress:
            progress.add_task(tally.batch, total=tally.standing().total)
            yield

    def _live(self, *columns: ProgressColumn, transient: bool = False) -> Progress:
        # rich would send our stdout to its console, which is stderr
        return Progress(
            *columns,
            console=self._console,
            transient=transient,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=4,
        )


class TalkingReporter(TerminalReporter):
    """Words without a bar, for when the screen belongs to something else."""

    @contextmanager
    def following(self, tally: Tally) -> Iterator[None]:  # noqa: ARG002 - the Protocol's shape
        """Draw nothing."""
        yield


class _TallyBar(BarColumn):
    """The bar, filled by the tally, as wide as the words beside it leave room for."""

    def __init__(self, tally: Tally, console: Console) -> None:
        super().__init__()
        self._tally = tally
        self._console = console

    def render(self, task: Task) -> Any:
        standing = self._tally.standing()
        task.completed = standing.done
        room = self._console.width - len(standing_text(standing)) - 2
        self.bar_width = max(4, min(24, room))
        return super().render(task)


class _TallyText(ProgressColumn):
    """``41/60  1 failed  12.3 jobs/s  48 s audio/s  0:12 left``."""

    max_refresh = 0.25

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def render(self, _task: Task) -> Text:
        return Text(standing_text(self._tally.standing()), no_wrap=True)


def standing_text(standing: Standing) -> str:
    """Return a standing in words, for one line of a terminal."""
    parts = [f"{standing.done:,}/{standing.total:,}"]
    parts += [
        f"{count:,} {what}"
        for count, what in ((standing.failed, "failed"), (standing.rejected, "rejected"))
        if count
    ]
    parts.append(f"{standing.jobs_per_s:.1f} jobs/s")
    parts.append(f"{standing.audio_s_per_s:.0f} s audio/s")
    if standing.done < standing.total:
        left = "–:––" if standing.left_s is None else clock_text(standing.left_s)
        parts.append(f"{left} left")
    return "  ".join(parts)


def clock_text(span_s: float) -> str:
    """Return a span as ``m:ss`` or ``h:mm:ss``."""
    minutes, seconds = divmod(round(span_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class EventReporter:
    """One JSON object a line: ``{"time", "event", ...}``.

    Progress is told when something changed, at most once an interval, and at the end.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        interval_s: float = EVENT_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()

    def say(self, event: str, message: str, **fields: Any) -> None:
        """Write the event, with the words for people in it."""
        self._write(event, {**fields, "message": message})

    @contextmanager
    def accepting(self) -> Iterator[Callable[[int], None]]:
        """Tell how many lines are accepted."""
        told_at = self._clock()

        def accepted(count: int) -> None:
            nonlocal told_at
            if self._clock() - told_at >= self._interval_s:
                told_at = self._clock()
                self._write("batch.accepting", {"accepted": count})

        yield accepted

    @contextmanager
    def following(self, tally: Tally) -> Iterator[None]:
        """Tell the standing from a thread, so that a slow job does not hold back the news."""
        ended = threading.Event()
        thread = threading.Thread(
            target=self._tell_changes, args=(tally, ended), name="progress-events", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._tell(tally, tally.standing())

    def _tell_changes(self, tally: Tally, ended: threading.Event) -> None:
        told = -1
        while not ended.wait(self._interval_s):
            standing = tally.standing()
            if standing.done != told:
                told = standing.done
                self._tell(tally, standing)

    def _tell(self, tally: Tally, standing: Standing) -> None:
        fields = {name: getattr(standing, name) for name in Standing.__slots__}
        self._write("batch.progress", {"batch": tally.batch, **fields})

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        # ASCII: a log's reader may not know which encoding our locale had
        line = as_json({"time": now, "event": event, **fields}, ascii_only=True)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


class SilentReporter:
    """Says nothing: the exit code is the answer."""

    def say(self, event: str, message: str, **fields: Any) -> None:
        """Keep it."""

    @contextmanager
    def accepting(self) -> Iterator[Callable[[int], None]]:
        """Show nothing."""
        yield lambda _accepted: None

    @contextmanager
    def following(self, tally: Tally) -> Iterator[None]:  # noqa: ARG002 - the Protocol's shape
        """Show nothing."""
        yield
