"""The baselines' rounds: each from nothing and by itself, so that they can wait side by side."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.failover import bare_celery, script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.failover.rounds import Fault, Round

CELERY_DEFAULT = "celery"
CELERY_LOWERED = "celery-10s"
SCRIPT = "script"
_LOWERED_S = 10.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One round of a baseline that is to be done."""

    system: str
    fault: Fault
    seed: int
    cap_s: float  #: for so long the job in hand is waited for
    every_s: float  #: a job is given so often


def planned(
    systems: Sequence[str],
    faults: Sequence[Fault],
    rounds: int,
    *,
    seed: int,
    cap_s: float,
    every_s: float,
) -> list[Trial]:
    """Return what there is to do; faults that a system does not know are left out."""
    return [
        Trial(system, fault, seed + number, cap_s, every_s)
        for system in systems
        for fault in faults
        if fault in (script.FAULTS if system == SCRIPT else bare_celery.FAULTS)
        for number in range(rounds)
    ]


def measure(
    trials: Sequence[Trial], *, directory: Path, at_once: int, tell: Callable[[Round], None]
) -> list[Round]:
    """Do trials, several at once: they wait nearly all the time. Returns them in their order."""
    with ThreadPoolExecutor(at_once) as threads:
        running = {threads.submit(_measure, trial, directory): trial for trial in trials}
        try:
            for done in as_completed(running):
                tell(done.result())
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in running]


def _measure(trial: Trial, directory: Path) -> Round:
    own = Path(tempfile.mkdtemp(prefix=f"{trial.system}-{trial.fault}-", dir=directory))
    if trial.system == SCRIPT:
        return script.measure(trial, own)
    return bare_celery.measure(trial, own, _LOWERED_S if trial.system == CELERY_LOWERED else None)
