"""Engines are found by entry point; what is wrong with one is said in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tts_tasks.errors import ConfigurationError
from tts_workers.engines import engine_names, load_engine, runs_on_cpu_only
from tts_workers.engines.base import Engine

if TYPE_CHECKING:
    from pathlib import Path

GOOD_ENGINE = """
class MyEngine:
    name, version = "mine", "1"
    def capabilities(self): ...
    def load(self, device): ...
    def encode_voice(self, reference): ...
    def split(self, text): ...
    def speak(self, segment, voice, state, options): ...
    def fingerprint(self): ...
    def close(self): ...
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is searched for modules and installed packages."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def _install(site: Path, package: str, engine: str, value: str, extras: tuple[str, ...]) -> None:
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    provides = "".join(f"Provides-Extra: {extra}\n" for extra in extras)
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n{provides}"
    (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text(f"[tts_tasks.engines]\n{engine} = {value}\n")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what engines need before they can be made."""
    monkeypatch.setenv("TTS_OPENAI_HTTP_URL", "http://127.0.0.1:1/v1")
    for name, value in {"MODEL": "/m", "MODEL_TYPE": "vits", "LANGUAGES": "en"}.items():
        monkeypatch.setenv(f"TTS_SHERPA_ONNX_{name}", value)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("name", ["espeak", "openai_http", "paced", "sherpa_onnx"])
def test_own_engines_are_found(name: str) -> None:
    """The engines that ship are declared, and a new one is made at each call."""
    assert name in engine_names()
    engine = load_engine(name)
    assert isinstance(engine, Engine)
    assert engine.name == name
    assert load_engine(name) is not engine


def test_engine_of_another_package_is_found(site: Path) -> None:
    """A package that declares the entry point brings an engine."""
    (site / "my_voice.py").write_text(GOOD_ENGINE)
    _install(site, "my-voice", "mine", "my_voice:MyEngine", ())

    assert "mine" in engine_names()
    assert load_engine("mine").version == "1"


def test_unknown_engine_lists_what_is_installed() -> None:
    """An unknown name is a configuration error that lists the names there are."""
    with pytest.raises(ConfigurationError, match=r"no engine 'festival'.*espeak, .*paced"):
        load_engine("festival")


@pytest.mark.parametrize(
    ("extras", "remedy"),
    [
        (("cuda", "broken"), r"pip install 'broken-voice\[broken\]'"),
        (("worker",), r"pip install 'broken-voice\[worker\]'"),
        ((), "pip install 'broken-voice and what it needs'"),
    ],
)
def test_engine_that_cannot_be_imported_names_its_extra(
    site: Path, extras: tuple[str, ...], remedy: str
) -> None:
    """A missing dependency is a configuration error with the module's name and the remedy."""
    (site / "broken_voice.py").write_text("import no_such_dependency\n")
    _install(site, "broken-voice", "broken", "broken_voice:MyEngine", extras)

    with pytest.raises(ConfigurationError, match=rf"no_such_dependency.*{remedy}"):
        load_engine("broken")


def test_entry_point_to_nothing_is_reported(site: Path) -> None:
    """An entry point whose class does not exist is a configuration error."""
    (site / "empty_voice.py").write_text("")
    _install(site, "empty-voice", "hollow", "empty_voice:MyEngine", ())

    with pytest.raises(ConfigurationError, match=r"'hollow'.*cannot be imported"):
        load_engine("hollow")


def test_what_is_not_an_engine_is_refused(site: Path) -> None:
    """An object that lacks a method of the Protocol is refused when it is made."""
    (site / "half_voice.py").write_text(GOOD_ENGINE.replace("def close", "def shut"))
    _install(site, "half-voice", "half", "half_voice:MyEngine", ())

    with pytest.raises(ConfigurationError, match=r"half_voice:MyEngine.* is not a"):
        load_engine("half")


def test_two_packages_with_one_engine_name_are_refused(site: Path) -> None:
    """A name that two packages declare is not decided by their order."""
    _install(site, "first-voice", "twin", "first_voice:MyEngine", ())
    _install(site, "second-voice", "twin", "second_voice:MyEngine", ())

    with pytest.raises(ConfigurationError, match=r"first-voice.*second-voice|second.*first"):
        load_engine("twin")


def test_engines_without_a_gpu_say_so_without_being_imported() -> None:
    """`--gpu auto` leaves GPUs alone for an engine that declares it needs none."""
    assert runs_on_cpu_only("espeak")
    assert runs_on_cpu_only("paced")
    assert not runs_on_cpu_only("glmtts")
