"""What operators read of voices and lexicons: each that is added or removed, once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.recordings import recording
from tts_tasks import client
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

LEXICON = '{"phrase": "重庆", "text": "山城"}'.encode()


@pytest.fixture(autouse=True)
def _nothing_in_storage(redis_url: str) -> Iterator[None]:
    root = Path(get_settings().storage_url.removeprefix("file://"))
    shutil.rmtree(root, ignore_errors=True)
    yield
    get_settings.cache_clear()


def told() -> list[dict[str, Any]]:
    """Return the events without their times."""
    return [
        {name: value for name, value in event.items() if name not in ("time", "at_s")}
        for event in client.events()
    ]


def test_voices_that_come_and_go_are_told() -> None:
    """Each style by itself; what changes nothing is not told."""
    versions = [
        client.voice_add(name, recording(), text="你好")
        for name in ("alice", "alice", "alice:happy")
    ]
    added = [
        {"event": "voice.added", "voice": name, "version": 1, "sha256": versions[0].sha256}
        for name in ("alice", "alice:happy")
    ]
    assert told() == added
    client.voice_remove("alice")
    assert told()[2:] == [
        {"event": "voice.removed", "voice": name, "version": 1, "forced": False}
        for name in ("alice", "alice:happy")
    ]


def test_lexicons_that_come_and_go_are_told() -> None:
    """The removal under its own number; what changes nothing is not told."""
    made = [client.lexicon_add("bank", LEXICON) for _ in range(2)]
    client.lexicon_remove("bank")
    assert told() == [
        {"event": "lexicon.added", "lexicon": "bank", "version": 1, "sha256": made[0].sha256},
        {"event": "lexicon.removed", "lexicon": "bank", "version": 2},
    ]


def test_what_is_added_without_redis_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told nowhere then: the storage is enough."""
    monkeypatch.setenv("TTS_REDIS_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    assert client.voice_add("alice", recording(), text="你好").version == 1
    assert client.lexicon_add("bank", LEXICON).version == 1
    assert client.lexicon_remove("bank").version == 2
