"""One seed, one run."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.checker import Violation
from tests.simulation.world import World

#: Every so manieth seed runs without any fault: then nothing may happen but work.
CALM_EVERY = 10


@dataclass(frozen=True)
class Outcome:
    """What one run showed."""

    seed: int
    violation: str
    steps: int
    faults: int
    takeovers: int
    refused: int
    not_leader: int
    overlaps: int
    longest_overlap_s: float
    published: int
    epochs_again: int  #: granted a second time, by a store that had lost its counter


def run_seed(
    seed: int,
    *,
    trace: list[str] | None = None,
    forgetful: bool = False,
    poisoned: bool = False,
    only: tuple[str, ...] = (),
) -> Outcome:
    """Run a seed to its end.

    ``trace`` takes a line for each thing that happens; ``forgetful``: the store surely is one that
    may come back without its data; ``poisoned``: nothing goes wrong but that a line of a batch
    kills whoever speaks it; ``only``: no other events of `Faults` than these, and more of them.
    """
    calm = poisoned or (seed % CALM_EVERY == 0 and not forgetful)
    world = World(seed, calm=calm, forgetful=forgetful, poisoned=poisoned, only=only, trace=trace)
    violation = ""
    try:
        world.run()
    except Violation as error:
        violation = str(error)
    counts = world.checker.counts
    if not violation and calm and not poisoned and (counts["acquired"] != 1 or counts["refused"]):
        violation = f"a run without faults had {counts}"
    return Outcome(
        seed=seed,
        violation=violation,
        steps=world.runtime.steps,
        faults=world.faults.count,
        takeovers=counts["takeovers"],
        refused=counts["refused"],
        not_leader=counts["not_leader"],
        overlaps=counts["overlaps"],
        longest_overlap_s=world.checker.longest_overlap_s,
        published=counts["published"],
        epochs_again=counts["epochs_again"],
    )
