"""`ttsctl up` refuses what could never become ready, in place of a wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tts_tasks.settings import get_settings
from ttsctl.__main__ import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TTS_HOME and a storage of the test's own; nothing is started in it."""

    def started(*_: object, **__: object) -> None:
        pytest.fail("something was started")

    monkeypatch.setattr("ttsctl.supervisor.detached.start_detached", started)
    monkeypatch.setenv("TTS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TTS_STORAGE_URL", (tmp_path / "out").as_uri())
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


@pytest.mark.parametrize("options", [("--engine", "nosuch"), ("--pool", "zh:nosuch:1")])
def test_an_engine_that_is_not_there_is_refused(home: Path, options: tuple[str, ...]) -> None:
    """With those that are; the workers would end one after the other."""
    result = CliRunner().invoke(cli, ["up", "--detach", *options])
    assert result.exit_code == 2
    assert "there is no engine 'nosuch'; installed are: espeak" in result.stderr


def test_a_storage_that_takes_nothing_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naming the setting, not the engine that would not be ready."""
    (home / "file").touch()
    monkeypatch.setenv("TTS_STORAGE_URL", (home / "file").as_uri())
    get_settings.cache_clear()
    result = CliRunner().invoke(cli, ["up", "--detach"])
    assert result.exit_code == 8
    assert f"TTS_STORAGE_URL: storage root {home / 'file'} is not a folder" in result.stderr


def test_a_home_that_is_no_folder_is_refused(home: Path) -> None:
    """Naming the setting."""
    (home / "home").touch()
    result = CliRunner().invoke(cli, ["up", "--detach"])
    assert result.exit_code == 2
    assert f"TTS_HOME: {home / 'home'}" in result.stderr
