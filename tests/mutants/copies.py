"""Copies of the source tree in which mutants live: applied, tested, put back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.mutants.witness import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.mutants.catalogue import Mutant

ROOT = Path(__file__).resolve().parents[2]
#: What holds code and tests; without the virtual environment, caches, and what tests never read.
TREE = ("tts_tasks", "workers", "gateway", "cli", "tests", "pyproject.toml")
#: As in ``pythonpath`` of pyproject.toml; before the editable install of the real tree.
PYTHONPATH = (".", "workers", "gateway", "cli")
#: Hypothesis works without its plugin, which takes half a second to load.
UNUSED_PLUGINS = ("cacheprovider", "xdist", "hypothesispytest")
LIMIT_S = 120.0
#: A failure that says so is a mistake in the mutant, not a test that has found it.
MISTAKES = (
    "NameError",
    "UnboundLocalError",
    "SyntaxError",
    "IndentationError",
    "ImportError",
    "ModuleNotFoundError",
    "Error compiling script",
    "Script attempted to access nonexistent global",
    "attempt to ",  # what Lua calls a type error
)


class CatalogueError(Exception):
    """A mutant that cannot be applied, or whose tests cannot be run: neither killed nor alive."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the tests said to one copy."""

    killer: str  #: id of the first test that failed; empty: all passed
    message: str  #: what it said
    tests: int  #: how many tests there were
    took_s: float


class Copy:
    """One copy of the tree; one mutant at a time."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        self._witness = folder / "witness.json"
        self._second = 0
        self.root.mkdir(parents=True)
        leave_out = shutil.ignore_patterns("__pycache__")
        for name in TREE:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.root / name, ignore=leave_out)
            else:
                shutil.copy2(ROOT / name, self.root / name)

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """Put a bug in, and take it out again; raises `CatalogueError` if it cannot be put in."""
        path = self.root / mutant.file
        sound = path.read_text(encoding="utf-8")
        occurrences = sound.count(mutant.text)
        if occurrences != 1:
            raise CatalogueError(f"its text occurs {occurrences} times in {mutant.file}, not once")
        self._write(path, sound.replace(mutant.text, mutant.replacement))
        try:
            yield
        finally:
            self._write(path, sound)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        # Byte code is taken for its source's by size and second: no two writes share a second.
        self._second += 1
        os.utime(path, (self._second, self._second))

    def test(self, suites: Sequence[str]) -> Verdict:
        """Run tests of this copy up to the first failure; raises `CatalogueError`."""
        self._witness.unlink(missing_ok=True)
        began_s = time.monotonic()
        status, output = self._pytest(suites)
        took_s = time.monotonic() - began_s
        if not self._witness.exists():
            raise CatalogueError(f"pytest ended with {status} before its end:\n{output[-2000:]}")
        seen: dict[str, Any] = json.loads(self._witness.read_text(encoding="utf-8"))
        if seen["foreign"] or not seen["imported"]:
            raise CatalogueError(f"it was not the copy that ran: {seen['foreign'][:3]}")
        failure = seen["failure"]
        if status == 0 and not failure and seen["collected"]:
            return Verdict("", "", seen["collected"], took_s)
        if status != 1 or failure.get("when") != "call":
            raise CatalogueError(f"pytest ended with {status}, no test failed:\n{output[-2000:]}")
        if any(mistake in failure["message"] for mistake in MISTAKES):
            raise CatalogueError(f"{failure['id']} failed over the mutant's own mistake:\n{output}")
        return Verdict(failure["id"], failure["message"], seen["collected"], took_s)

    def _pytest(self, suites: Sequence[str]) -> tuple[int, str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("TTS_", "PYTEST_"))}
        environment |= {
            "PYTHONPATH": os.pathsep.join(str(self.root / part) for part in PYTHONPATH),
            VARIABLE: str(self._witness),
        }
        options = ["-x", "-q", "--timeout=0", "-p", "tests.mutants.witness"]
        for plugin in UNUSED_PLUGINS:
            options += ["-p", f"no:{plugin}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *suites],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise CatalogueError(f"no verdict within {LIMIT_S:g} s") from None
        finally:
            _end(process)
        return process.returncode, output


def _end(process: subprocess.Popen[str]) -> None:
    """End pytest, if it still runs, in a way that lets it stop its Redis."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
