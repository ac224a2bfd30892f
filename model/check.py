"""Explores the model in full with spin, and every broken variant of it, which must fail.

``make model``, or ``python model/check.py [-v] [--quick | --long] [NAME ...]``. Needs spin and gcc.
Builds in a temporary folder. Exit code 0: every case ended as expected; 1: one did not; 2: no spin.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MODEL: Final = Path(__file__).resolve().parent / "lease.pml"
HOLDS: Final = "holds"
_MEMORY_LIMIT_MB: Final = 2000
_DEPTH_LIMIT: Final = 2_000_000
_TIMEOUT_S: Final = 1800
_SHOWN_STEPS: Final = 60
#: How a search says that it was none, or not a full one.
_NOT_FULL: Final = (
    "max search depth too small",
    "out of memory",
    "reached -DMEMLIM bound",
    "Search not completed",
    "error:",
)
#: A line of a step in the replay of a counterexample; spin indents them by process.
_STEP: Final = re.compile(r"^ {4,}(\S.*)$")


@dataclass(frozen=True, slots=True)
class Case:
    """One exploration: the model as it stands, or with one safeguard less."""

    name: str
    flags: tuple[str, ...]
    expected: str = HOLDS  #: or the number of the property that must be found broken
    formula: str = ""  #: the LTL formula, for liveness


@dataclass(frozen=True, slots=True)
class Result:
    """What an exploration found. ``problem``: why it is not the full search it has to be."""

    case: Case
    found: str
    states: int
    depth: int
    seconds: float
    trail: tuple[str, ...] = ()
    problem: str = ""
    steps: frozenset[str] = frozenset()  #: of the model, where they were noted: ``file:line``
    taken: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        """Whether the case ended as it must."""
        return not self.problem and self.found == self.case.expected


def _flags(text: str) -> tuple[str, ...]:
    return tuple(f"-D{flag}" for flag in text.split())


_LIVE: Final = "LIVE EPOCHS=4 ATTEMPTS=3"
_LIVE_QUICK: Final = "LIVE EPOCHS=3 ATTEMPTS=3 LOSSES=0"
_LIVE_LONG: Final = "LIVE EPOCHS=5 ATTEMPTS=4 FAULTS=2"
_JOB: Final = "JOB EPOCHS=2"

#: The model as it stands: everything must hold.
SOUND: Final = (
    Case("lease, 2 workers", _flags("TTL=3")),
    Case("lease, 3 workers", _flags("WORKERS=3 TTL=2 LOSSES=0")),
    Case("lease, the store rolled back", _flags("ROLLBACK TTL=2 LOSSES=0")),
    Case("job, 2 workers", _flags(_JOB)),
    Case("a lane gets a primary", _flags(_LIVE), formula="primary"),
    Case("a job is spoken", _flags(_LIVE), formula="spoken"),
)
#: The same within smaller bounds, for the tests.
SOUND_QUICK: Final = (
    Case("lease, 2 workers", _flags("TTL=3 EPOCHS=2")),
    Case("job, 2 workers", _flags(f"{_JOB} ATTEMPTS=1")),
    Case("a job is spoken", _flags(_LIVE_QUICK), formula="spoken"),
)
#: The same within greater bounds.
SOUND_LONG: Final = (
    Case("lease, 2 workers, 4 epochs", _flags("TTL=3 EPOCHS=4")),
    Case("lease, rolled back, TTL 3", _flags("ROLLBACK TTL=3 LOSSES=0")),
    Case("lease, 3 workers, loss", _flags("WORKERS=3 TTL=2 EPOCHS=2")),
    Case("job, 2 workers, 3 epochs", _flags("JOB EPOCHS=3")),
    Case("job, 3 workers", _flags("JOB WORKERS=3 EPOCHS=3 LOSSES=0")),
    Case("a lane gets a primary, 2 faults", _flags(_LIVE_LONG), formula="primary"),
    Case("a job is spoken, 2 faults", _flags(_LIVE_LONG), formula="spoken"),
)
#: One safeguard less each: the named property must break.
BROKEN: Final = (
    Case("NO_FENCE", _flags("NO_FENCE"), "3a"),
    Case("NUMBER_ONLY_FENCE", _flags("NUMBER_ONLY_FENCE"), "3a"),
    Case("NUMBER_ONLY_FENCE, rolled back", _flags("NUMBER_ONLY_FENCE ROLLBACK LOSSES=0"), "3a"),
    Case("REPLY_TIME_DEADLINE", _flags("REPLY_TIME_DEADLINE"), "2a"),
    Case("PLAIN_DEL", _flags("PLAIN_DEL LOSSES=0"), "2a"),
    Case("NO_SELF_DEMOTION", _flags("NO_SELF_DEMOTION"), "2b"),
    Case("NO_FLOOR", _flags("NO_FLOOR"), "1b"),
    Case("NO_COUNTER", _flags("NO_COUNTER LOSSES=0"), "1a"),
    Case("SUSPENDED_CLOCK", _flags("SUSPENDED_CLOCK"), "2a"),
    Case("DEADLINE_PAST_TTL", _flags("DEADLINE_PAST_TTL"), "2a"),
    Case("ADOPT_LEFTOVER", _flags("ADOPT_LEFTOVER"), "2a"),
    Case("CHECK_THEN_CLAIM", _flags(f"{_JOB} CHECK_THEN_CLAIM"), "3a"),
    Case("NO_ATTEMPT_FENCE", _flags(f"{_JOB} NO_ATTEMPT_FENCE"), "3c"),
    Case("ATTEMPT_ONLY", _flags(f"{_JOB} ATTEMPT_ONLY"), "3d"),
    Case("NO_FENCE, what follows", _flags(f"{_JOB} NO_FENCE BUT_3A LOSSES=0"), "3b"),
    Case("BLIND_GIVE_UP", _flags(f"{_JOB} BLIND_GIVE_UP"), "4a"),
    Case("FINISH_FIRST", _flags(f"{_JOB} FINISH_FIRST"), "4b"),
    Case("OVERWRITE", _flags(f"{_JOB} OVERWRITE"), "4c"),
    Case("LATE_MARK", _flags(f"{_JOB} LATE_MARK"), "1c"),
    Case("DEADLINE_OF_A_HEARTBEAT", _flags(f"{_LIVE} TTL=2"), "5a", formula="primary"),
    Case("NO_TTL", _flags(f"{_LIVE} NO_TTL"), "5a", formula="primary"),
    Case("NO_RECOVERY", _flags(f"{_LIVE} NO_RECOVERY"), "5b", formula="spoken"),
)
#: A variant that is broken only by what it is run with: without that it must hold.
CONTROLS: Final = (
    Case("NUMBER_ONLY_FENCE, no loss", _flags("NUMBER_ONLY_FENCE LOSSES=0"), HOLDS),
    Case("NO_FLOOR, no loss", _flags("NO_FLOOR LOSSES=0"), HOLDS),
)
#: What is not claimed, because it is not so: see the README.
TOO_STRONG: Final = (
    Case("NUMBERS_ARE_UNIQUE", _flags("NUMBERS_ARE_UNIQUE"), "1a"),
    Case("MARKS_ARE_NEVER_OLD", _flags(f"{_JOB} MARKS_ARE_NEVER_OLD"), "1c"),
    Case("MARKS_HELP_A_ROLLBACK", _flags(f"{_JOB} LOSSES=0 MARKS_HELP_A_ROLLBACK"), "1c"),
    Case("BELIEFS_NEVER_OVERLAP", _flags("BELIEFS_NEVER_OVERLAP"), "2"),
    Case("ATTEMPTS_NEVER_REPEAT", _flags(f"{_JOB} ATTEMPTS_NEVER_REPEAT"), "3d"),
)
_PROPERTY_OF: Final = {"primary": "5a", "spoken": "5b"}


def explore(case: Case, *, note_steps: bool = True) -> Result:
    """Build the verifier of a case, run it to the end, and replay what it found."""
    note_steps = note_steps and case.expected == HOLDS
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        started_s = time.monotonic()
        build = Path(folder)
        noting = ["-DCOVER"] if note_steps else []
        _run(["spin", "-a", *case.flags, *noting, str(MODEL)], build)
        steps = _steps_compiled(build) if note_steps else frozenset()
        output = _search(case, build)
        seconds = time.monotonic() - started_s
        broken = bool(list(build.glob("*.trail")))
        if broken and note_steps:  # a replay prints what a search that notes steps does not
            return explore(case, note_steps=False)
        trail = _replay(case, build) if broken else ()
    return Result(
        case,
        found=_found(case, output, trail),
        states=int(_number(r"^ *([\d.e+]+) states, stored", output)),
        depth=int(_number(r"depth reached (\d+)", output)),
        seconds=seconds,
        trail=trail,
        problem=_problem(case, output),
        steps=steps,
        taken=frozenset(re.findall(r"^taken .*/(\S+:\d+)$", output, re.MULTILINE)),
    )


def never_taken(results: list[Result]) -> list[str]:
    """Return the steps of the model that no exploration has taken, as ``file:line``.

    What holds for want of a step holds for nothing.
    """
    there, taken = (
        frozenset[str]().union(*(getattr(result, name) for result in results))
        for name in ("steps", "taken")
    )
    return sorted(there - taken)


def _search(case: Case, build: Path) -> str:
    """Compile and run the verifier; returns what it says."""
    # The shortest counterexample by breadth; what must hold by depth, in less memory.
    by_breadth = case.expected != HOLDS and not case.formula
    fast = "-O2" if case.expected == HOLDS else "-O0"
    compiled = ["-DNFAIR=5"] if case.formula else ["-DSAFETY", "-DNOFAIR"]
    compiled += ["-DBFS"] if by_breadth else []
    gcc = [
        "gcc",
        fast,
        "-w",
        "-DNOREDUCE",
        "-DNO_RESIZE",
        f"-DMEMLIM={_MEMORY_LIMIT_MB}",
        *compiled,
    ]
    _run([*gcc, "-o", "pan", "pan.c"], build)
    options = [] if by_breadth else [f"-m{_DEPTH_LIMIT}"]
    options += ["-a", "-f", "-N", case.formula] if case.formula else []
    return _run(["./pan", "-w23", *options], build)


def _steps_compiled(build: Path) -> frozenset[str]:
    code = "".join(path.read_text() for path in build.glob("pan.[mchbt]"))
    noted = re.findall(r'"taken %s:%d\\n", *"([^"]+)", *(\d+)', code)
    return frozenset(f"{Path(file).name}:{line}" for file, line in noted)


def _run(command: list[str], folder: Path) -> str:
    """Run a program; returns what it said. Raises `RuntimeError` if it could not do its work."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:  # a property that breaks is no such error
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def _number(pattern: str, output: str) -> float:
    match = re.search(pattern, output, re.MULTILINE)
    return float(match[1]) if match else 0


def _found(case: Case, output: str, trail: tuple[str, ...]) -> str:
    if re.search(r"errors: 0$", output, re.MULTILINE):
        return HOLDS
    if "acceptance cycle" in output:
        return _PROPERTY_OF[case.formula]
    named = [line.split()[1].rstrip(":") for line in trail if line.startswith("property ")]
    return named[0] if named else "unknown"


def _problem(case: Case, output: str) -> str:
    """Return why a search that found nothing proves nothing, or ""."""
    if not re.search(r"errors: \d+$", output, re.MULTILINE):
        return "no verdict"
    if case.expected != HOLDS:
        return ""
    for sign in _NOT_FULL:
        if sign in output:
            return sign
    return ""


def _replay(case: Case, build: Path) -> tuple[str, ...]:
    trail = ["spin", "-t", "-k", f"{MODEL.name}.trail", *case.flags, str(MODEL)]
    steps = []
    for line in _run(trail, build).splitlines():
        if "#processes" in line:
            break
        if "START OF CYCLE" in line:
            steps.append("... and from here for ever:")
        elif step := _STEP.match(line):
            steps.append(step[1])
    return tuple(steps)


def _cases(options: argparse.Namespace) -> list[Case]:
    sound = SOUND_QUICK if options.quick else SOUND + (SOUND_LONG if options.long else ())
    cases = [*sound, *BROKEN, *CONTROLS, *TOO_STRONG]
    if not options.name:
        return cases
    chosen = [case for case in cases if any(name in case.name for name in options.name)]
    if not chosen:
        names = "; ".join(case.name for case in cases)
        sys.exit(f"no case has {' or '.join(options.name)} in its name: {names}")
    return chosen


def _print(result: Result, *, with_trail: bool) -> None:
    expected, found = (
        word if word == HOLDS else f"{word} breaks" for word in (result.case.expected, result.found)
    )
    print(
        f"{result.case.name:<32} {expected:<11} {found:<11} {result.states:>9} "
        f"{result.depth:>6} {result.seconds:>7.1f}  {'ok' if result.ok else 'WRONG'}",
        flush=True,
    )
    if result.problem:
        print(f"    not a full search: {result.problem}")
    if with_trail or not result.ok:
        for step in result.trail[:_SHOWN_STEPS]:
            print(f"    {step}")
        if len(result.trail) > _SHOWN_STEPS:
            print(f"    ... {len(result.trail) - _SHOWN_STEPS} more steps")


def main() -> int:
    """Run the chosen cases, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("name", nargs="*", help="only cases with this in their name")
    parser.add_argument("-v", action="store_true", help="show the counterexamples")
    parser.add_argument("-j", type=int, default=2, help="explorations at a time (2)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="smaller bounds")
    size.add_argument(
        "--long", action="store_true", help="greater bounds too: a quarter of an hour, 3 GB"
    )
    options = parser.parse_args()
    missing = [program for program in ("spin", "gcc") if shutil.which(program) is None]
    if missing:
        print(f"missing: {' and '.join(missing)} (make install-spin)", file=sys.stderr)
        return 2
    head = ("case", "expected", "found", "states", "depth", "seconds")
    print("{:<32} {:<11} {:<11} {:>9} {:>6} {:>7}".format(*head))
    started_s = time.monotonic()
    results: list[Result] = []
    with ThreadPoolExecutor(options.j) as pool:
        for result in pool.map(explore, _cases(options)):
            _print(result, with_trail=options.v)
            results.append(result)
    took_s = time.monotonic() - started_s
    wrong = sum(not result.ok for result in results)
    print(f"{len(results)} cases, {wrong} not as expected, {took_s:.0f} s")
    dead = [] if options.name else never_taken(results)
    if dead:
        print(f"steps of the model that no run takes: {', '.join(dead)}")
    return 1 if wrong or dead else 0


if __name__ == "__main__":
    sys.exit(main())
