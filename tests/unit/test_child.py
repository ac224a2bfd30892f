"""The worker's child: what it writes down outlives an outage of the store, and its own end."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import redis
from celery.utils.dispatch import Signal

from tests.waiting import eventually
from tts_tasks.events import EventLog
from tts_workers import child

if TYPE_CHECKING:
    import pytest


class Outage:
    """A client whose writes fail while it is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.away = False

    def xadd(self, *args: Any, **options: Any) -> Any:
        if self.away:
            raise redis.ConnectionError("away")
        return self._client.xadd(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def test_events_of_an_outage_wait_neither_for_the_next_event_nor_die_with_the_process(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle child writes them when the store is back; one that stops tries once more."""
    client, ending = Outage(redis_client), Signal(name="ending")
    log = EventLog(client)

    def seen() -> list[str]:
        return [event["event"] for event in EventLog(redis_client).read()]

    host = SimpleNamespace(start=lambda: None, close=lambda: None)
    stand_ins: dict[str, Any] = {
        "ChildLink": lambda *_: SimpleNamespace(say=lambda _: None),
        "EngineHost": lambda *_, **__: host,
        "Workbench": SimpleNamespace(of=lambda *_: SimpleNamespace(events=log)),
        "JobRunner": lambda _: None,
        "BatchRunner": lambda _: SimpleNamespace(give_back_what_is_owed=lambda: None),
        "install_runners": lambda *_: None,
        "relay_stderr": lambda _: None,
        "LogForwarder": lambda _: logging.NullHandler(),
        "signals": SimpleNamespace(worker_process_shutdown=ending),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(child, name, stand_in)
    for name in (child.ENVIRONMENT_VARIABLE, "TTS_WORKER_DEVICE", "TTS_WORKER_ID"):
        monkeypatch.setenv(name, "x")
    child.start_child()
    client.away = True
    log.emit("job.failed")
    assert seen() == []
    client.away = False
    eventually(seen, what="the event is written")
    client.away = True
    log.emit("job.attempt_failed")
    client.away = False
    ending.send(sender=None)
    assert seen() == ["job.failed", "job.attempt_failed"]
