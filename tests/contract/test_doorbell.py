"""The doorbell on a real broker, also over a connection that has died in the pool."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from tests.tcp_proxy import TcpProxy
from tts_tasks.celeryconfig import celery_configuration
from tts_tasks.doorbell import ring
from tts_tasks.errors import UnavailableError
from tts_tasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

QUEUE = "tts.batch.default"


@pytest.fixture
def proxy(redis_url: str) -> Iterator[TcpProxy]:
    """What stands between the client and the broker."""
    with TcpProxy.to(redis_url) as proxy:
        yield proxy


@pytest.fixture
def client_app(proxy: TcpProxy, redis_url: str) -> Iterator[Celery]:
    """A client's app, whose broker is behind the proxy."""
    app = Celery("client", set_as_current=False)
    app.conf.update(celery_configuration(Settings(redis_url=proxy.url(redis_url))))
    yield app
    app.close()


def waiting(client: redis.Redis) -> set[str]:
    messages = client.lrange(QUEUE, 0, -1)
    return {json.loads(message)["headers"]["id"] for message in messages}  # type: ignore[union-attr]


def test_a_connection_that_died_in_the_pool_costs_no_ring(
    client_app: Celery, proxy: TcpProxy, redis_client: redis.Redis
) -> None:
    """A client that was idle for a while does not learn of it by an error."""
    assert ring(client_app, QUEUE, ["b:1"], rung_ms=0) == 1
    proxy.half_open()
    assert ring(client_app, QUEUE, ["b:2", "b:3"], rung_ms=0) == 2
    assert waiting(redis_client) == {"b:1", "b:2", "b:3"}


def test_a_broker_that_is_not_there_is_said_clearly(client_app: Celery, proxy: TcpProxy) -> None:
    """The job is in the ledger; the caller learns that the ring is not out."""
    proxy.close()
    with pytest.raises(UnavailableError, match=r"the broker at redis:.*accepted.*_BROKER_URL"):
        ring(client_app, QUEUE, ["b:1"], rung_ms=0)
