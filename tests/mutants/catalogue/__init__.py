"""Bugs put in on purpose. Each breaks one rule, and the named suites must fail over it.

A mutant is one text of one file, which occurs there exactly once, and what takes its place.
``tests/unit/test_mutants.py`` holds the catalogue to the code.
"""

from __future__ import annotations

from tests.mutants.catalogue import (
    artifacts,
    batches,
    election,
    engines,
    jobs,
    recovery,
    routing,
    shifts,
)
from tests.mutants.catalogue.mutant import RULES, Mutant

__all__ = ["MUTANTS", "RULES", "Mutant"]

MUTANTS = (
    *election.MUTANTS,
    *jobs.MUTANTS,
    *artifacts.MUTANTS,
    *recovery.MUTANTS,
    *batches.MUTANTS,
    *shifts.MUTANTS,
    *engines.MUTANTS,
    *routing.MUTANTS,
)
