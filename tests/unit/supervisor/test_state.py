"""What `ttsctl up` writes down of itself, its lock, and what `ttsctl down` makes of them."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tts_tasks.settings import Settings, get_settings
from ttsctl.commands.up import down
from ttsctl.supervisor.procfs import identify
from ttsctl.supervisor.state import UpLock, UpState, WorkerState, read_state, write_state
from ttsctl.supervisor.teardown import lock_path, take_down

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


def _state(**changes: object) -> UpState:
    state = UpState(
        id="abc",
        pid=12,
        start_time_ticks=34,
        boot_id="boot",
        started_at="2026-01-01T00:00:00+00:00",
        redis_url="redis://:secret@127.0.0.1:1/0",
        workers=(WorkerState("w1", "w1-x@host", 56), WorkerState("w2", "w2-x@host", None)),
    )
    return state.with_changes(**changes)


def test_state_is_read_back_as_it_was_written_and_is_private(tmp_path: Path) -> None:
    """The file holds a password: it has mode 0600, and the password is in no repr."""
    path = tmp_path / "up.json"

    write_state(path, _state())

    assert read_state(path) == _state()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert "secret" not in repr(_state())


def test_settings_find_the_redis_of_a_running_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients on this machine learn Redis's address from the state, once there is one."""
    monkeypatch.delenv("TTS_REDIS_URL", raising=False)
    path = tmp_path / "run" / "up.json"
    path.parent.mkdir()

    write_state(path, _state(redis_url=""))
    assert Settings(home=tmp_path).redis_url == "redis://127.0.0.1:6379/0"

    write_state(path, _state())
    assert Settings(home=tmp_path).redis_url == "redis://:secret@127.0.0.1:1/0"


def test_what_a_later_version_adds_to_the_state_is_passed_over(tmp_path: Path) -> None:
    """`down` understands the state of a newer `up`."""
    path = tmp_path / "up.json"
    text = _state().to_json().replace('"workers"', '"gateway_pid": 7, "workers"')
    path.write_text(text.replace('"name"', '"lane": "0", "name"'), encoding="utf-8")

    assert read_state(path) == _state()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"workers": []}', '{"workers": [1]}', '"text"', "\x00"]
)
def test_a_state_that_makes_no_sense_is_none(tmp_path: Path, text: str) -> None:
    """A damaged state file is treated as none, whatever it holds."""
    path = tmp_path / "up.json"
    path.write_text(text, encoding="utf-8")

    assert read_state(path) is None


def test_the_lock_is_held_by_one_and_freed_by_release(tmp_path: Path) -> None:
    """Of two locks of one home only one can be had at a time."""
    first, second = UpLock(tmp_path / "run" / "up.lock"), UpLock(tmp_path / "run" / "up.lock")

    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_down_never_signals_a_stranger_that_has_the_pid(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    """A state whose pid belongs to somebody else by now ends nobody."""
    stranger = identify(sleeper.pid)
    path = tmp_path / "run" / "up.json"
    path.parent.mkdir()
    lock_path(tmp_path).touch()
    write_state(path, _state(pid=stranger.pid, start_time_ticks=1, boot_id=stranger.boot_id))

    report = take_down(tmp_path, timeout_s=0.1, say=lambda _: None)

    assert not report.was_running
    assert sleeper.poll() is None
    assert not path.exists()


def test_down_where_nothing_runs_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ttsctl down` without an `up` says so on stderr and exits 0."""
    monkeypatch.setenv("TTS_HOME", str(tmp_path))
    get_settings.cache_clear()
    try:
        result = CliRunner().invoke(down, [])
    finally:
        get_settings.cache_clear()

    assert result.exit_code == 0
    assert result.stdout == ""
    assert f"nothing runs in {tmp_path}" in result.stderr
