"""Waiting for a result through what can happen to the connection."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.backends.redis import ResultConsumer
from celery.exceptions import TimeoutError as CeleryTimeoutError

from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually
from tts_tasks.app import app as ours
from tts_tasks.results import PatientBackend, PatientSentinelBackend, result_backend_url

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def proxy(redis_url: str) -> Iterator[TcpProxy]:
    """What the client's connections go through."""
    with closing(TcpProxy.to(redis_url)) as proxy:
        yield proxy


@pytest.fixture
def client(redis_url: str, proxy: TcpProxy) -> Celery:
    """An app whose results come through the proxy."""
    own = Celery("own", backend=result_backend_url(proxy.url(redis_url)))
    own.conf.redis_socket_timeout = own.conf.redis_socket_connect_timeout = 1.0
    return own


class Wait:
    """A thread that waits for one result."""

    def __init__(self, client: Celery, timeout_s: float) -> None:
        self.id = f"task-{time.monotonic_ns()}"
        self.answer: Any = None
        self.took_s = 0.0
        # heard of before anything happens, as after `.delay()`
        client.backend.result_consumer.consume_from(self.id)
        result = client.AsyncResult(self.id)
        self.thread = threading.Thread(target=self._wait, args=(result, timeout_s), daemon=True)
        self.thread.start()
        consumer = client.backend.result_consumer
        eventually(lambda: consumer._socket_waiter, what="it listens", every_s=0.01)

    def _wait(self, result: Any, timeout_s: float) -> None:
        began_s = time.monotonic()
        try:
            self.answer = result.get(timeout=timeout_s)
        except Exception as error:  # noqa: BLE001 - it is the finding
            self.answer = error
        self.took_s = time.monotonic() - began_s

    def join(self) -> Any:
        """Return what came of it."""
        self.thread.join(60)
        return self.answer


def answer(redis_url: str, task_id: str) -> None:
    """Store a result, as a worker does."""
    worker = Celery("worker", backend=redis_url)
    worker.backend.store_result(task_id, "spoken", "SUCCESS")


def test_a_result_arrives_after_an_outage(client: Celery, proxy: TcpProxy, redis_url: str) -> None:
    """It was stored while nobody could hear of it."""
    wait = Wait(client, timeout_s=60)
    consumer = client.backend.result_consumer
    proxy.stall()
    proxy.reset()
    eventually(lambda: consumer._lost, what="it knows that it hears nothing")
    answer(redis_url, wait.id)
    assert wait.thread.is_alive()
    proxy.forward()
    assert wait.join() == "spoken"


def test_a_new_connection_is_listened_to(client: Celery, proxy: TcpProxy, redis_url: str) -> None:
    """Not only looked up every so often."""
    wait = Wait(client, timeout_s=60)
    consumer = client.backend.result_consumer
    before = consumer._pubsub
    proxy.reset()
    eventually(lambda: consumer._pubsub not in (None, before), what="it listens anew")
    consumer._look_at_s = float("inf")
    eventually(lambda: consumer._socket_waiter)
    answer(redis_url, wait.id)
    assert wait.join() == "spoken"


def test_a_result_arrives_over_a_half_open_connection(
    client: Celery, proxy: TcpProxy, redis_url: str
) -> None:
    """Nothing says that nothing will be heard; Celery's own waits for ever."""
    wait = Wait(client, timeout_s=60)
    proxy.half_open()
    answer(redis_url, wait.id)
    assert wait.join() == "spoken"
    assert wait.took_s < 20


def test_a_timeout_holds_during_an_outage(client: Celery, proxy: TcpProxy) -> None:
    """Celery's own insists on a connection first, for its whole retry policy."""
    wait = Wait(client, timeout_s=1.0)
    proxy.close()
    assert isinstance(wait.join(), CeleryTimeoutError)
    assert wait.took_s < 8


def test_others_are_heard_after_an_outage(client: Celery, proxy: TcpProxy, redis_url: str) -> None:
    """Every result that is waited for is listened for again, and new ones are."""
    waits = [Wait(client, timeout_s=60) for _ in range(2)]
    proxy.reset()
    waits.append(Wait(client, timeout_s=60))
    assert [wait.thread.is_alive() for wait in waits] == [True] * 3
    for wait in waits:
        answer(redis_url, wait.id)
    assert [wait.join() for wait in waits] == ["spoken"] * 3


def test_the_backend_fits_the_url_and_celery() -> None:
    """The class is named with the URL; what it overrides is there to be overridden."""
    assert isinstance(ours.backend, PatientBackend)
    assert "PatientSentinelBackend+" in result_backend_url("sentinel://a:1;sentinel://b:2")
    assert PatientSentinelBackend.ResultConsumer is PatientBackend.ResultConsumer
    for name in ("reconnect_on_error", "drain_events", "_reconnect_pubsub", "_locked"):
        assert callable(getattr(ResultConsumer, name))


def test_a_worker_insists_on_its_result_as_long_as_on_its_job() -> None:
    """Celery's default gives up after twenty tries."""
    assert ours.backend.retry_policy["max_retries"] is None
    assert ours.backend.retry_policy["timeout"] == 600.0
