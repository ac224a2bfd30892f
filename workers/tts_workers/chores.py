"""What an agent does for others beside its own beat: in a thread of its own.

Giving back a dead worker's jobs takes as long as it takes; it must delay no renewal.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Protocol

from tts_tasks.errors import TTSError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tts_tasks.clock import Clock
    from tts_tasks.ledger.records import Evidence

logger = logging.getLogger(__name__)

#: How often the storage is swept, in seconds.
_SWEEP_S = 600.0


class Rescue(Protocol):
    """What is done for the dead (see `tts_workers.recovery`)."""

    def recover(self, worker_id: str, *, silent_s: float) -> None:
        """Give back everything a dead worker held."""
        ...

    def give_back_claims(
        self, worker_id: str, evidence: Evidence | None = None, *, child: int | None = None
    ) -> list[str]:
        """Release and ring for the jobs of this worker's dead child (None: of all it ever had)."""
        ...

    def reconcile(self, queue: str, working_on: Mapping[str, str], *, at_once: bool = False) -> int:
        """Ring for what nobody holds; ``working_on``: each living worker's job."""
        ...

    def settle_batches(self) -> None:
        """Flush, feed and report batches that nobody works on."""
        ...

    def sweep(self) -> None:
        """Remove what attempts that died have left in the storage."""
        ...

    def highest_epoch(self) -> int:
        """Return up to where the storage says that the lane's epochs are used."""
        ...


def survive(work: Callable[[], object], on_failure: Callable[[TTSError], None]) -> bool:
    """Do something that may fail; a thread that others rely on must not end with it."""
    try:
        work()
    except TTSError as error:
        on_failure(error)
    except Exception:
        logger.exception("this failed and will be done again")
    else:
        return True
    return False


class Chores:
    """Gives back what the dead held and rings for what nobody holds."""

    def __init__(
        self,
        worker_id: str,
        rescue: Rescue,
        *,
        clock: Clock,
        reconcile_s: float,
        on_epochs: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._worker_id = worker_id
        self._rescue = rescue
        self._clock = clock
        self._reconcile_s = reconcile_s
        self._on_epochs = on_epochs
        self._epochs_wanted = False
        self._next_reconcile_s = 0.0
        self._next_sweep_s = clock() + _SWEEP_S
        #: whose jobs are to be given back, by pid; and what says how they ended
        self._dead_children: dict[int, Callable[[], Evidence]] = {}
        self._dead: dict[str, float] = {}  #: workers to recover, by their silence in seconds
        self._queues: tuple[str, ...] = ()
        self._working_on: Mapping[str, str] = {}
        self._failing: set[str] = set()  #: chores whose failure has been told
        self._due = threading.Event()

    def child_died(self, pid: int, evidence: Callable[[], Evidence]) -> None:
        """Have the jobs of this worker's dead child given back; not what its successor claims.

        ``evidence`` says how it ended. It is asked in this thread, as it may have to wait a moment.
        """
        self._dead_children.setdefault(pid, evidence)  # it may be known already, as stuck
        self._due.set()

    def worker_died(self, worker_id: str, silent_s: float) -> None:
        """Have everything that a dead worker held given back."""
        self._dead[worker_id] = silent_s
        self._due.set()

    def read_epochs(self) -> None:
        """Have the storage asked up to where epochs are used; the answer goes to ``on_epochs``."""
        self._epochs_wanted = True
        self._due.set()

    def saw(self, working_on: Mapping[str, str], queues: Iterable[str]) -> None:
        """Learn who lives and works on what, and which queues are to be looked after."""
        self._working_on = working_on
        self._queues = tuple(queues)

    def run(self, stopping: threading.Event, every_s: float) -> None:
        """Do what is due, until ``stopping``; the body of a thread."""
        while not stopping.is_set():
            self._due.wait(every_s)
            self._due.clear()
            self.do()

    def hurry(self) -> None:
        """Wake the thread."""
        self._due.set()

    def do(self) -> None:
        """Do what is due, once.

        Each chore stands for itself: one that fails is done again and keeps none of the others.
        """
        if self._epochs_wanted:
            self._epochs_wanted = False  # where this fails, the next try to acquire asks again
            self._survive("epochs", lambda: self._on_epochs(self._rescue.highest_epoch()))
        for pid, evidence in list(self._dead_children.items()):
            if self._survive("jobs of the dead child", partial(self._give_back, pid, evidence)):
                self._dead_children.pop(pid)
        recovered = False
        for worker, silent_s in list(self._dead.items()):
            self._dead.pop(worker, None)  # while it is dead, the next decision names it again
            recover = partial(self._rescue.recover, worker, silent_s=silent_s)
            recovered = self._survive(f"recovery of {worker}", recover) or recovered
        if recovered:
            # the dead may have taken messages with them that stand on nobody's list
            self._reconcile(at_once=True)
        now_s = self._clock()
        if now_s < self._next_reconcile_s or not self._working_on:
            return
        self._next_reconcile_s = now_s + self._reconcile_s
        self._reconcile(at_once=False)
        self._survive("batches", self._rescue.settle_batches)
        if now_s >= self._next_sweep_s:
            self._next_sweep_s = now_s + _SWEEP_S
            self._survive("sweep", self._rescue.sweep)

    def _give_back(self, pid: int, evidence: Callable[[], Evidence]) -> None:
        self._rescue.give_back_claims(self._worker_id, evidence(), child=pid)

    def _reconcile(self, *, at_once: bool) -> None:
        for queue in self._queues:
            look = partial(self._rescue.reconcile, queue, self._working_on, at_once=at_once)
            self._survive(f"lost messages of {queue}", look)

    def _survive(self, what: str, chore: Callable[[], object]) -> bool:
        done = survive(chore, partial(self._complain, what))
        if done:
            self._failing.discard(what)
        return done

    def _complain(self, what: str, error: TTSError) -> None:
        """Log that a chore failed, once until it succeeds: it is tried again and again."""
        if what not in self._failing:
            self._failing.add(what)
            logger.warning("%s: %s; it is tried again", what, error)
