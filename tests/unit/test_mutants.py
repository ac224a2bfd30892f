"""The catalogue of seeded bugs is sound: what is refactored is kept up there."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS, RULES, Mutant
from tests.mutants.catalogue.suites import CHILD
from tests.mutants.copies import ROOT, TREE, CatalogueError, Copy

#: A rule as the code claims it: "Rule 3", "(rule 6)", "Rules 2 and 3".
_CLAIM = re.compile(r"\b[Rr]ules? (\d)(?:,? and (\d))?")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_and_is_looked_for_by_tests_that_exist(mutant: Mutant) -> None:
    """Its text occurs exactly once, in a file that is copied; Python stays Python."""
    sound = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert sound.count(mutant.text) == 1, f"{mutant.name}: keep its text up with {mutant.file}"
    assert mutant.replacement != mutant.text
    assert mutant.file.partition("/")[0] in TREE
    assert mutant.rule in RULES
    if mutant.file.endswith(".py"):
        compile(sound.replace(mutant.text, mutant.replacement), mutant.file, "exec")
    files = [ROOT / suite for suite in mutant.suites if suite.startswith("tests/")]
    assert files
    assert all(file.is_file() for file in files)


def test_every_mutant_has_a_name_and_a_change_of_its_own() -> None:
    """Two names for one bug would count twice."""
    changes = Counter((mutant.file, mutant.text, mutant.replacement) for mutant in MUTANTS)
    assert set(changes.values()) == {1}
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 8


def test_every_rule_that_the_code_claims_to_keep_is_broken_by_a_mutant() -> None:
    """A claim in a docstring or a script's header is worth what its tests notice."""
    claimed: set[str] = set()
    for folder in ("tts_tasks", "workers"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".lua"}:
                for found in _CLAIM.finditer(path.read_text(encoding="utf-8")):
                    claimed |= {number for number in found.groups() if number}
    broken = {mutant.rule for mutant in MUTANTS}
    assert claimed <= broken, f"no mutant breaks rule {sorted(claimed - broken)}"
    assert broken == set(RULES)


def test_the_scripts_that_decide_are_all_in_the_catalogue() -> None:
    """Each script that refuses somebody something has a mutant that refuses nobody."""
    deciding = {"acquire", "renew", "remove", "claim", "append", "finish", "release"}
    assert deciding <= {Path(mutant.file).stem for mutant in MUTANTS}


# -- what applies and judges them -------------------------------------------------------------

HARMLESS = Mutant(
    "harmless",
    "stuck",
    "workers/tts_workers/child_watch.py",
    '"""Take in what the child says."""',
    '"""Take in."""',
    CHILD,
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """One copy of this tree."""
    return Copy(tmp_path_factory.mktemp("mutants"))


def test_a_bug_that_no_test_notices_survives(copy: Copy) -> None:
    """The copy's tests run, to their end, and say so; afterwards the copy is sound again."""
    with copy.mutated(HARMLESS):
        assert HARMLESS.replacement in (copy.root / HARMLESS.file).read_text(encoding="utf-8")
        verdict = copy.test(HARMLESS.suites)
    assert (verdict.killer, verdict.tests > 3) == ("", True)
    for name in ("child_watch.py", "agent.py"):
        path = Path("workers/tts_workers") / name
        assert (copy.root / path).read_bytes() == (ROOT / path).read_bytes()


def test_a_bug_that_a_test_notices_is_killed_by_that_test(copy: Copy) -> None:
    """In the copy, though the installed package is the real tree."""
    mutant = next(one for one in MUTANTS if one.name == "pulse-counts-as-progress")
    with copy.mutated(mutant):
        assert copy.test(mutant.suites).killer.endswith("::test_a_pulse_is_no_progress")


@pytest.mark.parametrize(
    "change",
    [
        {"replacement": "undefined_name"},
        {"replacement": "not python"},
        {"suites": ("tests/unit/no_such_test.py",)},
        {"suites": (*CHILD, "-k", "no_such_test")},
    ],
    ids=lambda change: next(iter(change.values())),
)
def test_a_mistake_of_the_mutants_own_is_no_kill(copy: Copy, change: dict[str, str]) -> None:
    """Code that cannot run, and tests that are not there, prove nothing."""
    mutant = replace(HARMLESS, text="self._ready = True", **change)  # type: ignore[arg-type]
    with pytest.raises(CatalogueError), copy.mutated(mutant):
        copy.test(mutant.suites)


@pytest.mark.parametrize("text", ["no such text", "self._clock"])
def test_a_text_that_does_not_occur_once_is_refused(copy: Copy, text: str) -> None:
    """Nobody knows what it would have changed."""
    with (
        pytest.raises(CatalogueError, match="times in"),
        copy.mutated(replace(HARMLESS, text=text)),
    ):
        pytest.fail("it was applied")
