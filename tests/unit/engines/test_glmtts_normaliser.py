"""The grammars of the checkout's normaliser are built once, and are those that were asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.glmtts_double import DOUBLE, copy_of_the_double, double_engine
from tests.waiting import eventually
from tts_tasks.errors import EngineLoadError
from tts_workers.engines.glmtts import __main__ as prepare
from tts_workers.engines.glmtts import normaliser_cache
from tts_workers.engines.glmtts.normaliser_cache import cached

if TYPE_CHECKING:
    from pathlib import Path


class Normalizer:
    """One that says how it was made; its module is built again by the name of the double's."""

    def __init__(self, **options: object) -> None:
        self.options = options


Normalizer.__module__ = "tn.chinese.normalizer"


def built(cache: Path) -> list[Path]:
    return sorted(cache.glob("normaliser-*/zh_tn_tagger.fst"))


def load(cache: Path, home: Path = DOUBLE) -> None:
    engine = double_engine(cache=str(cache), home=str(home))
    engine.load("cpu")
    engine.close()


def test_they_are_built_once_with_the_checkouts_options(tmp_path: Path) -> None:
    """A restart takes what is there."""
    load(tmp_path)
    (grammar,) = built(tmp_path)
    first = json.loads(grammar.read_text())
    load(tmp_path)

    assert first["remove_erhua"] is False
    assert json.loads(grammar.read_text()) == first


def test_what_the_package_has_beside_itself_is_not_used(tmp_path: Path) -> None:
    """It was built with other options: ``overwrite_cache=False`` alone would take it."""
    home = copy_of_the_double(tmp_path)
    stale = home / "tn/zh_tn_tagger.fst"
    stale.write_text(json.dumps({"remove_erhua": True}))
    load(tmp_path / "cache", home)

    assert json.loads(stale.read_text()) == {"remove_erhua": True}
    assert json.loads(built(tmp_path / "cache")[0].read_text())["remove_erhua"] is False


def test_they_are_built_in_a_process_of_their_own(tmp_path: Path) -> None:
    """The memory that this takes is not kept by the worker."""
    load(tmp_path)

    assert json.loads(built(tmp_path)[0].read_text())["pid"] != os.getpid()


def test_workers_that_start_together_build_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for the first."""
    monkeypatch.setenv("GLMTTS_DOUBLE_GRAMMARS_S", "0.3")
    make = cached(Normalizer, tmp_path, DOUBLE)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: make(remove_erhua=False, overwrite_cache=True), range(4)))

    (grammar,) = built(tmp_path)
    expected = {"cache_dir": str(grammar.parent), "overwrite_cache": False, "remove_erhua": False}
    assert [one.options for one in made] == [expected] * 4


def test_other_options_are_other_grammars(tmp_path: Path) -> None:
    """They have folders of their own."""
    for remove_erhua in (True, False):
        cached(Normalizer, tmp_path, DOUBLE)(remove_erhua=remove_erhua)

    assert len(built(tmp_path)) == 2


def test_a_build_that_was_killed_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder appears whole; what was left half-way is removed."""
    monkeypatch.setenv("GLMTTS_DOUBLE_GRAMMARS_S", "60")
    program = (
        "import sys; from pathlib import Path\n"
        "from tests.unit.engines.test_glmtts_normaliser import *\n"
        f"cached(Normalizer, Path({str(tmp_path)!r}), DOUBLE)(remove_erhua=False)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=DOUBLE.parents[2], start_new_session=True
    ) as process:
        eventually(lambda: built(tmp_path), every_s=0.02, what="it has built a half")
        os.killpg(process.pid, signal.SIGKILL)
    monkeypatch.delenv("GLMTTS_DOUBLE_GRAMMARS_S")
    load(tmp_path)

    assert json.loads(built(tmp_path)[0].read_text())["remove_erhua"] is False


def test_a_build_that_fails_says_why(tmp_path: Path) -> None:
    """With the last words of the process."""
    home = copy_of_the_double(tmp_path)
    normaliser = home / "tn/chinese/normalizer.py"
    normaliser.write_text(
        normaliser.read_text().replace("path.write_text(", "raise MemoryError('6.8 GB') or (")
    )
    with pytest.raises(EngineLoadError, match=r"grammars could not be built.*6\.8 GB"):
        load(tmp_path / "cache", home)
    assert built(tmp_path / "cache") == []


def test_a_build_that_takes_too_long_is_ended_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the folder and what to do; the next one begins anew."""
    monkeypatch.setenv("GLMTTS_DOUBLE_GRAMMARS_S", "60")
    monkeypatch.setattr(normaliser_cache, "_LONGEST_BUILD_S", 0.1)
    make = cached(Normalizer, tmp_path, DOUBLE)
    with pytest.raises(EngineLoadError, match=r"normaliser-\w+ was not done within 0\.1 s.*copy"):
        make(remove_erhua=False)
    assert list(tmp_path.glob("normaliser-*/")) == [*tmp_path.glob("normaliser-*.building/")]
    monkeypatch.undo()
    assert make(remove_erhua=False)
    assert len(built(tmp_path)) == 1


def test_a_machine_can_be_prepared_without_weights_being_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``python -m tts_workers.engines.glmtts`` checks and builds, and says what is missing."""
    home = copy_of_the_double(tmp_path)
    monkeypatch.setenv("TTS_GLMTTS_HOME", str(home))
    monkeypatch.setenv("TTS_GLMTTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    (home / "ckpt/llm/model.safetensors").write_text("weights that nobody reads")
    assert prepare.main() == 0
    assert len(built(tmp_path / "cache")) == 1
    (home / "ckpt/flow/flow.pt").unlink()
    assert prepare.main() == 1
    assert "flow.pt" in capsys.readouterr().err
