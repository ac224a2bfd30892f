"""The explorer of the model can fail, so that what `make model` says is worth something.

The model itself and all its broken variants are explored by `make model`, in CI too.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.programs import need_program

if TYPE_CHECKING:
    from types import ModuleType

CHECK = Path(__file__).parents[2] / "model" / "check.py"
HINT = "make install-spin"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    for program in ("spin", "gcc"):
        need_program(program, HINT)
    spec = importlib.util.spec_from_file_location("model_check", CHECK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def case_of(check: ModuleType, name: str) -> Any:
    cases = [*check.SOUND_QUICK, *check.BROKEN, *check.CONTROLS, *check.TOO_STRONG]
    return next(case for case in cases if case.name == name)


def test_every_property_is_missed_by_some_variant(check: ModuleType) -> None:
    """A property that no broken variant breaks could be one that cannot break."""
    text = "".join(path.read_text() for path in CHECK.parent.glob("*.pml"))
    properties = {line.split()[1].rstrip(":") for line in text.split('BROKEN("')[1:]}

    broken = {case.expected for case in check.BROKEN}

    assert {"1a", "2a", "3a", "4a"} <= properties
    assert properties - {"2"} | {"5a", "5b"} == broken  # "2" is a claim that is not made


def test_a_counterexample_where_none_is_expected_is_an_error(check: ModuleType) -> None:
    """A model that should hold and does not is told, with the property and the way to it."""
    wrongly_hoped_for = replace(case_of(check, "PLAIN_DEL"), expected=check.HOLDS)

    result = check.explore(wrongly_hoped_for)

    assert not result.ok
    assert result.found == "2a"
    assert any("another lease is removed" in step for step in result.trail)


def test_a_variant_that_breaks_another_property_than_named_is_an_error(check: ModuleType) -> None:
    """That something fails is not enough: it must fail for the reason given."""
    result = check.explore(replace(case_of(check, "OVERWRITE"), expected="2a"))

    assert not result.ok
    assert result.found == "4c"


def test_a_search_that_was_cut_short_proves_nothing(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States beyond the depth limit were not seen, so the case has not passed."""
    monkeypatch.setattr(check, "_DEPTH_LIMIT", 100)

    result = check.explore(case_of(check, "lease, 2 workers"))

    assert not result.ok
    assert result.problem == "max search depth too small"


def test_a_step_that_no_run_takes_is_found(check: ModuleType) -> None:
    """Without a loss no record of another knows more than the store, and that step is dead."""
    base = case_of(check, "lease, 2 workers")
    result = check.explore(replace(base, flags=(*base.flags, "-DLOSSES=0")))

    assert result.ok
    assert check.never_taken([result])
