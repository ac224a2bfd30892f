"""The lines that a shift has in hand, and what each stage of it may take from the one before.

::

    taken → prepared → in the mouth → spoken → stored → ended
     one thread      the caller's     a few threads     one thread

Each stage works ahead of the next one, within bounds: a stage that is slow stops those before it.
Holds no lock while anybody works. Proved by ``tests/contract/test_shift.py``.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from tts_tasks import keys
from tts_tasks.ledger.records import Claim, JobMeta

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tts_tasks.ledger.batch_records import Run, TakenJob
    from tts_tasks.requests import SpeechRequest
    from tts_tasks.storage import Ownership
    from tts_workers.rendering import Rendering

#: So often somebody who waits for a line is asked whether it is to go on, in seconds.
_ASK_EVERY_S: Final = 0.02
#: Folders let one thread at a time make files in them.
_SMALL_GROUPS_AT_ONCE: Final = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a shift takes at once, and how far its stages work ahead of each other."""

    run_lines: int = 32  #: that are taken at once,
    run_chars: int = 2000  #: and no more than that, or one line that is longer,
    run_s: float = 0.5  #: nor more than the engine needs so long for: others want to work too
    lines_ahead: int = 64  #: that are taken, and neither spoken nor ended
    ahead_s: float = 0.5  #: more is taken when the engine will be done with those so soon
    storing_lines: int = 128  #: that are spoken and not ended
    storing_bytes: int = 64 * 1024 * 1024  #: of sound in them, or one that is larger
    storers: int = 4  #: threads that encode and publish,
    group_lines: int = 32  #: so many lines together,
    group_bytes: int = 1024 * 1024  #: and no more sound than that, or one line that is longer
    end_s: float = 10.0  #: how long what is being stored may hold up the end of a shift,
    yield_s: float = 1.0  #: and how long where online work waits for it


class Stage(Enum):
    """How far a line has come, as far as it matters when the shift ends."""

    TAKEN = auto()  #: it is given back,
    SPEAKING = auto()  #: as is this one,
    STORING = auto()  #: and this one is waited for


@dataclass(slots=True, eq=False)
class Line:
    """One line in hand."""

    batch: str
    job: TakenJob
    run: int  #: the how-manieth run of the shift it came with
    claim: Claim
    stage: Stage = Stage.TAKEN
    request: SpeechRequest | None = None
    owner: Ownership | None = None  #: whose its artifact is, once its request is known
    rendering: Rendering | None = None
    expected_s: float = math.inf  #: how long the engine will need; unknown until it is prepared
    began_s: float = 0.0  #: when the engine began
    size_bytes: int = 0  #: of its sound, once it is spoken

    def left_s(self) -> float:
        """Return for how long the engine will still be busy with it."""
        if self.stage is Stage.STORING:
            return 0.0
        spent_s = time.monotonic() - self.began_s if self.stage is Stage.SPEAKING else 0.0
        return max(0.0, self.expected_s - spent_s)

    @property
    def is_kept(self) -> bool:
        """Whether segments of it have been logged, by this attempt or an earlier one."""
        spoken = self.rendering is not None and self.rendering.is_kept
        return spoken or self.job.segments_done > 0

    def named(self, name: str, item_id: str) -> None:
        """Take down what the manifest says."""
        self.claim = _claim(self.batch, self.job, self.claim.worker, name, item_id)

    def close(self) -> None:
        """Let its sound go."""
        if self.rendering is not None:
            self.rendering.close()
            self.rendering = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a line: an artifact's record, a failure for good, or an error to get over."""

    line: Line
    state: str  #: succeeded | failed | "" for one that is given back
    result: dict[str, Any] = field(default_factory=dict)
    staged: tuple[str, ...] = ()  #: objects in storage that are of no use once it has ended
    error: Exception | None = None


class Pipeline:
    """What is where. Each method is for one stage; any of them may wait for another stage."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.RLock()
        # One for each stage that waits: a line that moves on wakes the next stage, not all of them.
        self._room, self._speaker, self._storers, self._ender, self._settler, self._idle = (
            self._conditions
        ) = tuple(threading.Condition(self._lock) for _ in range(6))
        self._prepared: deque[Line] = deque()
        self._spoken: deque[Line] = deque()
        self._outcomes: deque[Outcome] = deque()
        self._chores: dict[str, None] = {}  #: batches that are to be settled, in their order
        self._chores_open = 0
        self._in_hand: set[Line] = set()
        self._cancelled: dict[str, int] = {}  #: batch → the newest run when it was cancelled
        self._ahead = self._storing = self._storing_bytes = self._runs = 0
        self._at_small_groups = 0  #: threads that will soon be back for more to store
        self._news = 0  #: grows with whatever may have brought ready lines
        self._nothing_left = False
        self.stopped = False  #: nothing is taken, prepared or spoken any more,
        self.closed = False  #: nor stored, nor ended
        self.fault: BaseException | None = None

    # -- taking and preparing -----------------------------------------------------------------

    def wait_to_take(self) -> int | None:
        """Wait until another run is needed soon; None: nothing is to be taken any more.

        Not before: what waits here cannot be spoken by anybody else. Returns what `nothing_taken`
        is to be told.
        """
        with self._lock:
            while not self.stopped:
                early_s = math.inf
                if self._may_take():
                    left_s = sum(line.left_s() for line in self._in_hand)
                    early_s = left_s - self.limits.ahead_s
                    if early_s <= 0:
                        return self._news
                # by then, if the engine is as fast as expected; a change is told
                self._room.wait(early_s if early_s < math.inf else None)
            return None

    def _may_take(self) -> bool:
        return self._ahead <= self.limits.lines_ahead - self.limits.run_lines

    def nothing_taken(self, news: int) -> bool:
        """Learn that there was nothing to take; False: nor will there be.

        Otherwise something has happened meanwhile, or what is in hand has first been waited for.
        """
        with self._lock:
            idle = not self._in_hand and not self._chores_open
            if news == self._news and idle:
                self._nothing_left = True
                self._speaker.notify_all()
                return False
            self._room.wait_for(lambda: self.stopped or self._news != news)
            return not self.stopped

    def take_in(self, run: Run, worker: str) -> list[Line]:
        """Take a run in hand."""
        with self._lock:
            self._runs += 1
            lines = [
                Line(run.batch, job, self._runs, _claim(run.batch, job, worker)) for job in run.jobs
            ]
            self._in_hand.update(lines)
            self._ahead += len(lines)
            return lines

    def prepared(self, lines: Sequence[Line]) -> None:
        """Hand lines on to be spoken."""
        with self._lock:
            self._prepared.extend(lines)
            self._speaker.notify_all()

    # -- speaking -----------------------------------------------------------------------------

    def next_line(self, is_over: Callable[[], bool]) -> Line | None:
        """Return the next line to speak, once what was spoken leaves room for it; None: no more.

        ``is_over`` is asked before each, and while there is none.
        """
        while True:
            if is_over():
                self.stop()
            with self._lock:
                if self.stopped or (self._nothing_left and not self._prepared):
                    return None
                if self._prepared and self._has_room():
                    line = self._prepared.popleft()
                    line.stage, line.began_s = Stage.SPEAKING, time.monotonic()
                    return line
                self._speaker.wait(_ASK_EVERY_S)

    def _has_room(self) -> bool:
        limits = self.limits
        return self._storing < limits.storing_lines and self._storing_bytes < limits.storing_bytes

    def spoken(self, line: Line, size_bytes: int) -> None:
        """Hand a line on to be stored."""
        with self._lock:
            line.stage, line.size_bytes = Stage.STORING, size_bytes
            self._ahead -= 1
            self._storing += 1
            self._storing_bytes += size_bytes
            self._spoken.append(line)
            if self._wants_storer():
                self._storers.notify()
            if self._may_take():  # to wake it for each line would cost more than taking does
                self._room.notify_all()

    def _wants_storer(self) -> bool:
        """Whether another thread is to begin to store.

        Short lines are worth waiting for each other: a thread that is woken for each of them costs
        more than what it does. And two threads that store many short ones get in each other's way
        less than they help each other; more do not.
        """
        if self._at_small_groups >= _SMALL_GROUPS_AT_ONCE:
            return False
        return not self._at_small_groups or self._group_of(self._spoken)[1]

    # -- storing and ending -------------------------------------------------------------------

    def next_to_store(self, stored: Sequence[Line] = ()) -> list[Line]:
        """Wait for lines that are to be stored together; none: there will be no more.

        ``stored``: those that the caller got last, and is done with.
        """
        with self._lock:
            self._at_small_groups -= self._is_small(stored)
            self._storers.wait_for(lambda: self.closed or self._spoken)
            if self.closed:
                return []
            lines, _ = self._group_of(self._spoken)
            for _ in lines:
                self._spoken.popleft()
            self._at_small_groups += self._is_small(lines)
            return lines

    def _group_of(self, waiting: Iterable[Line]) -> tuple[list[Line], bool]:
        """Return the lines that are stored together, the first at least; and whether more wait."""
        lines: list[Line] = []
        size_bytes = 0
        for line in waiting:
            size_bytes += line.size_bytes
            too_much = size_bytes > self.limits.group_bytes
            if lines and (too_much or len(lines) == self.limits.group_lines):
                return lines, True
            lines.append(line)
        return lines, False

    def _is_small(self, lines: Sequence[Line]) -> bool:
        size_bytes = sum(line.size_bytes for line in lines)
        return bool(lines) and size_bytes <= self.limits.group_bytes

    def ended(self, *outcomes: Outcome) -> None:
        """Hand on what came of lines, from whatever stage."""
        with self._lock:
            for outcome in outcomes:
                line = outcome.line
                if line not in self._in_hand:
                    continue  # given back meanwhile
                if line.stage is not Stage.STORING:
                    self._ahead -= 1
                    self._storing += 1
                    self._room.notify_all()
                line.stage = Stage.STORING
                self._outcomes.append(outcome)
            self._ender.notify_all()

    def outcomes(self) -> list[Outcome]:
        """Wait for outcomes and return all there are; none: there will be no more."""
        with self._lock:
            self._ender.wait_for(lambda: self.closed or self._outcomes)
            found = [] if self.closed else list(self._outcomes)
            self._outcomes.clear()
            return found

    def let_go(self, *lines: Line) -> None:
        """Have lines in hand no more: they have ended, were given back, or are somebody else's."""
        for line in lines:
            line.close()
        with self._lock:
            for line in self._in_hand.intersection(lines):
                self._in_hand.remove(line)
                if line.stage is Stage.STORING:
                    self._storing -= 1
                    self._storing_bytes -= line.size_bytes
                else:
                    self._ahead -= 1
                self._news += 1
            self._room.notify_all()
            self._speaker.notify_all()
            if not self._in_hand:
                self._idle.notify_all()

    def cancelled(self, batch: str, run: int) -> None:
        """Note that a batch is cancelled: what came up to this run need not be spoken."""
        with self._lock:
            self._cancelled[batch] = run

    def is_cancelled(self, line: Line) -> bool:
        """Whether a line's batch was cancelled after it was taken."""
        with self._lock:
            return line.run <= self._cancelled.get(line.batch, 0)

    @property
    def runs(self) -> int:
        """How many runs were taken."""
        return self._runs

    # -- batches to settle --------------------------------------------------------------------

    def to_settle(self, batch: str) -> None:
        """Note that chunks of a batch may have to be flushed and fed."""
        with self._lock:
            if batch not in self._chores:
                self._chores[batch] = None
                self._chores_open += 1
                self._settler.notify_all()

    def next_to_settle(self) -> str | None:
        """Wait for a batch to settle; None: there will be no more."""
        with self._lock:
            self._settler.wait_for(lambda: self.closed or self._chores)
            batch = next(iter(self._chores), None)
            self._chores.pop(batch or "", None)
            return batch

    def rest(self, for_s: float) -> None:
        """Wait a while, unless the pipeline is closed, or nobody can go on before it is settled."""
        with self._lock:
            self._idle.wait_for(lambda: self.closed or not self._in_hand, for_s)

    def settled(self) -> None:
        """Say that it is done with the batch it got last."""
        with self._lock:
            self._chores_open -= 1
            self._news += 1
            self._room.notify_all()

    # -- the end ------------------------------------------------------------------------------

    def stop(self, fault: BaseException | None = None) -> None:
        """Stop what comes before storing; ``fault``: why, if that is no ordinary end."""
        with self._lock:
            if not self.closed:
                self.fault = self.fault or fault
            self.stopped = True
            self._wake_all()

    def drop_unspoken(self) -> list[Line]:
        """Return the lines that were taken and not spoken, and have them in hand no more."""
        with self._lock:
            self._prepared.clear()
            lines = [line for line in self._in_hand if line.stage is not Stage.STORING]
        self.let_go(*lines)
        return sorted(lines, key=lambda line: (line.run, line.job.line))

    def drain(self, timeout_s: float) -> None:
        """Wait until what is spoken has ended; then stop the rest."""
        with self._lock:
            self._idle.wait_for(lambda: not self._in_hand or self.fault, timeout_s)
            self.stopped = self.closed = True
            self._wake_all()

    def _wake_all(self) -> None:
        for condition in self._conditions:
            condition.notify_all()


def _claim(batch: str, job: TakenJob, worker: str, name: str = "", item_id: str = "") -> Claim:
    return Claim(
        job_id=keys.batch_job_id(batch, job.line),
        worker=worker,
        attempt=job.attempt,
        request={},
        meta=JobMeta(queue="", name=name, batch=batch, line=job.line, item_id=item_id),
        accepted_ms=0,
    )
