"""Put bugs in, one at a time, and see that the tests find each: ``python -m tests.mutants``.

Prints a table. Exit code 0: every mutant was killed; 1: one survived; 2: the catalogue or the
tree is not in order (a mutant that cannot be applied, tests that fail without any mutant).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.catalogue import MUTANTS, RULES, Mutant
from tests.mutants.copies import CatalogueError, Copy, Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one mutant."""

    mutant: Mutant
    verdict: Verdict | None
    error: str = ""

    @property
    def killer(self) -> str:
        """What the table says of its end."""
        if self.verdict is None:
            return f"ERROR: {self.error.splitlines()[0]}"
        return self.verdict.killer or "SURVIVED"


def main() -> int:
    """Run; returns the exit code."""
    arguments = _arguments()
    mutants = [one for one in MUTANTS if not arguments.only or one.name in arguments.only]
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tts-mutants-") as folder:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(arguments.jobs):
            copies.put(Copy(Path(folder) / str(number)))
        with ThreadPoolExecutor(arguments.jobs) as pool:
            try:
                suites = dict.fromkeys(mutant.suites for mutant in mutants)
                if not all(pool.map(lambda suite: _passes_unmutated(copies, suite), suites)):
                    return 2
                rows = list(pool.map(lambda one: _judge(copies, one, arguments.verbose), mutants))
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                return 130
    _print_table(rows)
    killed = sum(bool(row.verdict and row.verdict.killer) for row in rows)
    _say(f"{killed} of {len(rows)} mutants killed in {time.monotonic() - began_s:.0f} s")
    if any(row.error for row in rows):
        return 2
    return 0 if killed == len(rows) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    names = [mutant.name for mutant in MUTANTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", default=[])
    parser.add_argument("--jobs", type=int, default=2, help="copies that are tested at once")
    parser.add_argument("-v", "--verbose", action="store_true", help="say why each test failed")
    return parser.parse_args()


def _passes_unmutated(copies: SimpleQueue[Copy], suite: tuple[str, ...]) -> bool:
    copy = copies.get()
    try:
        verdict = copy.test(suite)
    except CatalogueError as error:
        _say(f"{' '.join(suite)}: {error}")
        return False
    finally:
        copies.put(copy)
    if verdict.killer:
        _say(f"{verdict.killer} fails without any mutant:\n{verdict.message}")
        return False
    _tell(f"{verdict.tests} tests pass unmutated: {' '.join(suite)}")
    return True


def _judge(copies: SimpleQueue[Copy], mutant: Mutant, verbose: bool) -> Row:
    copy = copies.get()
    try:
        with copy.mutated(mutant):
            row = Row(mutant, copy.test(mutant.suites))
    except CatalogueError as error:
        row = Row(mutant, None, str(error))
    finally:
        copies.put(copy)
    _tell(f"{mutant.name}: {row.killer}")
    if verbose:
        _tell(row.error or (row.verdict.message if row.verdict else ""))
    return row


def _print_table(rows: list[Row]) -> None:
    lines = [("mutant", "rule", "killed by", "s")]
    for row in rows:
        rule = f"{row.mutant.rule}: {RULES[row.mutant.rule]}"
        took = f"{row.verdict.took_s:.1f}" if row.verdict else ""
        lines.append((row.mutant.name, rule, row.killer, took))
    widths = [max(len(line[place]) for line in lines) for place in range(3)]
    for line in lines:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        _say("  ".join([*padded, line[3].rjust(5)]))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
