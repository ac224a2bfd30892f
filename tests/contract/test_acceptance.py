"""The ledger is written before the queue is rung (rule 2), for a batch and for online work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Task, signals
from kombu.exceptions import OperationalError

from tts_tasks import client, keys, synthesize
from tts_tasks.ledger import JobLedger
from tts_tasks.requests import SpeechRequest
from tts_tasks.routing import route_of
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def states_when_rung(redis_url: str) -> Iterator[list[tuple[str, str]]]:
    """For each message that is about to be sent: the job's id and its state in the ledger."""
    ledger = JobLedger(redis_url)
    seen: list[tuple[str, str]] = []

    def look(headers: dict[str, Any], **_: Any) -> None:
        record = ledger.get(keys.job_id_of_task(headers["id"], "default.0"))
        seen.append((headers["id"], record.state if record else "unknown"))

    signals.before_task_publish.connect(look)
    yield seen
    signals.before_task_publish.disconnect(look)


def test_no_line_of_a_batch_is_rung_before_it_is_in_the_ledger(
    states_when_rung: list[tuple[str, str]],
) -> None:
    """A worker that hears the ring must find the job, and a crash must leave no lone message."""
    client.submit_batch([{"id": "a", "text": "你好"}, {"id": "b", "text": "再见"}], id="b1")
    assert states_when_rung == [("b1:1", "accepted"), ("b1:2", "accepted")]


def test_no_online_job_is_rung_before_it_is_in_the_ledger(
    states_when_rung: list[tuple[str, str]],
) -> None:
    """The same for `delay`."""
    task = synthesize.delay("你好")
    assert states_when_rung == [(task.id, "accepted")]


@pytest.mark.parametrize("count", [1, 501])
def test_no_waiting_job_looks_lost(redis_url: str, count: int) -> None:
    """Each message carries the time of its job's entry in the index of open ones."""
    client.submit_batch([{"id": str(n), "text": "你好"} for n in range(count)], id="b1")
    synthesize.delay("你好")
    ledger = JobLedger(redis_url)
    for queue in route_of(get_settings()).queues:
        assert ledger.unheard(queue, grace_s=0, limit=10) == []


def test_a_job_is_accepted_though_the_broker_is_away(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the ledger, where a worker finds it and rings; the caller gets its id."""

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(Task, "apply_async", away)
    job_id = client.submit_job(SpeechRequest(text="你好"))
    record = JobLedger(redis_url).get(job_id)
    assert record is not None
    assert record.state == "accepted"
