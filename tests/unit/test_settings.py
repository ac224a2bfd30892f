"""Settings are checked together, and say what is wrong by the name of the variable."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from tts_tasks.errors import ConfigurationError
from tts_tasks.settings import CONVENTIONAL_REDIS_URL, Settings, get_settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_redis_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings as on a fresh machine."""
    monkeypatch.delenv("TTS_REDIS_URL", raising=False)
    monkeypatch.setenv("TTS_HOME", str(tmp_path))


def test_the_defaults_are_those_of_the_design() -> None:
    """One second, three heartbeats, a lease of three seconds, a deadline of two."""
    settings = Settings()
    assert (settings.silence_s, settings.lease_ttl_s, settings.renew_deadline_s) == (3.0, 3.0, 2.0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lease_ttl_s": 3, "renew_deadline_s": 2.5}, "⅔"),
        ({"heartbeat_s": 2.0, "lease_ttl_s": 3.0}, "one slow renewal"),
        ({"lease_ttl_s": -1}, "greater than 0"),
        ({"heartbeat_s": 0}, "greater than 0"),
        ({"pool": "Not A Name"}, "pattern"),
    ],
)
def test_times_that_contradict_each_other_are_refused(fields: dict[str, object], said: str) -> None:
    """A cluster cannot be configured so that a primary outlives its lease."""
    with pytest.raises(ValidationError, match=said):
        Settings(**fields)  # type: ignore[arg-type]


def test_an_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever set it finds it again."""
    monkeypatch.setenv("TTS_HEARTBEAT_S", "soon")
    get_settings.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match="TTS_HEARTBEAT_S"):
            get_settings()
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


def test_redis_is_the_one_that_up_runs_else_the_conventional_one(tmp_path: Path) -> None:
    """Without a URL, a program finds this machine's cluster by itself."""
    assert Settings().redis_url == CONVENTIONAL_REDIS_URL
    state = tmp_path / "run" / "up.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"redis_url": "redis://:pw@127.0.0.1:7001/0"}))
    assert Settings().redis_url == "redis://:pw@127.0.0.1:7001/0"
    state.write_text("{")
    assert Settings().redis_url == CONVENTIONAL_REDIS_URL
    assert Settings().storage_url == f"file://{tmp_path}/artifacts"


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"URL": "ftp://h/x", "SECRET": SECRET}, "TTS_NOTIFY_URL: it looks like https://"),
        ({"URL": "https://h:hunter2/x", "SECRET": SECRET}, "TTS_NOTIFY_URL: it looks like"),
        ({"URL": "https://", "SECRET": SECRET}, "TTS_NOTIFY_URL: it looks like"),
        ({"URL": "https://h/a hunter2", "SECRET": SECRET}, "percent-encoded"),
        ({"URL": "https://h/hunter2"}, "notify_url needs notify_secret"),
        ({"SECRET": "hunter2"}, "TTS_NOTIFY_SECRET: must be whsec_"),
        ({"SECRET": SECRET.removeprefix("whsec_")}, "TTS_NOTIFY_SECRET: must be whsec_"),
        ({"SECRET": "whsec_aHVudGVyMg=="}, "24 to 64 bytes"),
        ({"SECRET": f"{SECRET} hunter2"}, "openssl rand"),
        ({"COMMAND": "say 'hunter2"}, "TTS_NOTIFY_COMMAND: cannot be split"),
    ],
)
def test_where_notices_go_is_checked_at_start_and_not_repeated(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable and what it must look like; its value may be a secret."""
    for name, value in variables.items():
        monkeypatch.setenv(f"TTS_NOTIFY_{name}", value)
    get_settings.cache_clear()
    try:
        with pytest.raises(ConfigurationError) as refused:
            get_settings()
        with pytest.raises(ValidationError) as plain:
            Settings()
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()
    assert said in str(refused.value)
    for text in (str(refused.value), str(plain.value)):
        assert "hunter2" not in text
        assert "aHVudGVyMg" not in text
