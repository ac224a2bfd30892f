"""The consumer's care for its connections, and what it relies on inside Celery and kombu."""

from __future__ import annotations

import logging
import socket
import subprocess
import time
import warnings
from collections import deque
from contextlib import closing, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, bootsteps
from celery.worker.consumer import Consumer
from kombu.asynchronous import Hub
from kombu.exceptions import OperationalError

from tts_tasks.app import app
from tts_workers import connection
from tts_workers.bootstrap import Queues
from tts_workers.connection import ChildExits, HeldMessages, SteadyConsumer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

logger = logging.getLogger(__name__)


def consumer() -> Any:
    """A consumer without a worker around it."""
    steady = SteadyConsumer.__new__(SteadyConsumer)
    steady.__dict__ |= {
        "app": app,
        "first_connection_attempt": False,
        "_unsettled": [],
        "task_consumer": None,
        "event_dispatcher": None,
        "blueprint": SimpleNamespace(state=bootsteps.RUN),
    }
    return steady


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class TestConnecting:
    """`ensure_connected`."""

    def test_a_broker_that_is_away_is_asked_at_a_constant_short_interval(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Celery's would be 2, 4, 6 s; if it passes its options in another way, it shows here."""
        slept: list[float] = []

        def sleep(interval_s: float) -> None:
            slept.append(interval_s)
            if len(slept) == 6:
                raise InterruptedError

        monkeypatch.setattr("kombu.utils.functional.sleep", sleep)
        away = app.connection_for_read(f"redis://127.0.0.1:{closed_port()}/0")
        with suppress(InterruptedError, OperationalError):
            consumer().ensure_connected(away)
        assert len(slept) == 6
        assert max(slept) <= 0.7
        assert len(set(slept)) == 1

    def test_the_log_is_not_filled_by_an_outage(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One complaint, then one every ten seconds."""
        slept: list[float] = []

        def sleep(interval_s: float) -> None:
            slept.append(interval_s)
            if len(slept) == 20:
                raise InterruptedError

        monkeypatch.setattr("kombu.utils.functional.sleep", sleep)
        away = app.connection_for_read(f"redis://127.0.0.1:{closed_port()}/0")
        with caplog.at_level(logging.ERROR), suppress(InterruptedError, OperationalError):
            consumer().ensure_connected(away)
        assert len([r for r in caplog.records if "Cannot connect" in r.getMessage()]) == 1

    def test_the_worker_uses_it(self) -> None:
        """The setting names it, and what it overrides is there to be overridden."""
        assert app.conf.worker_consumer == "tts_workers.connection:SteadyConsumer"
        assert app.conf.worker_disable_prefetch
        for name in (
            "ensure_connected",
            "on_connection_error_after_connected",
            "create_task_handler",
        ):
            assert callable(getattr(Consumer, name))


class TestSettling:
    """Acknowledgements that insist."""

    @pytest.fixture(autouse=True)
    def _nothing_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def handler(*_: Any) -> Any:
            return lambda *_: None

        monkeypatch.setattr(Consumer, "create_task_handler", handler)

    @staticmethod
    def settle(steady: Any, outcomes: list[Exception | None]) -> list[str]:
        """Take a message in and acknowledge it; ``outcomes``: of each try."""
        tried: list[str] = []
        left = deque(outcomes)

        def ack() -> None:
            tried.append("ack")
            if error := left.popleft():
                raise error

        message = SimpleNamespace(ack=ack, reject=None, delivery_tag="tag", headers={})
        steady.create_task_handler()(message)
        message.ack_log_error(logger, (ConnectionError,))
        return tried

    def test_a_connection_that_had_died_is_replaced(self) -> None:
        """The second try is on a new one."""
        steady = consumer()
        assert self.settle(steady, [ConnectionError(), None]) == ["ack", "ack"]
        assert steady._unsettled == []

    def test_a_broker_that_is_away_is_a_lost_connection(self) -> None:
        """The consumer connects anew and tells it then; kombu's own would forget it."""
        steady = consumer()
        with pytest.raises(ConnectionError):
            self.settle(steady, [ConnectionError(), ConnectionError(), None])
        assert len(steady._unsettled) == 1
        called: list[Any] = []
        steady.call_soon = called.append
        steady.create_task_handler()  # as the next event loop does when it begins
        (again,) = called
        again()
        assert steady._unsettled == []

    def test_a_worker_that_stops_is_not_kept_from_it(self) -> None:
        """What could not be acknowledged is somebody else's to give back."""
        steady = consumer()
        steady.blueprint.state = bootsteps.CLOSE
        assert len(self.settle(steady, [ConnectionError(), ConnectionError()])) == 2


@pytest.fixture
def channel(redis_url: str) -> Iterator[Any]:
    """A channel of the broker, with this worker's own list of held messages."""
    options = {"unacked_key": "tts:unacked:me", "unacked_index_key": "tts:unacked_index:me"}
    broker = app.connection_for_read(redis_url, transport_options=options)
    with closing(broker), closing(broker.channel()) as channel:
        channel.basic_qos(0, 1, False)
        channel.queue_declare("q")
        yield channel


def take(channel: Any, *bodies: str) -> list[Any]:
    """Send messages and take them."""
    for body in bodies:
        channel.basic_publish(channel.prepare_message(body), "", "q")
    return [channel.basic_get("q") for _ in bodies]


class TestHeldMessages:
    """Redis's list of the messages that a worker holds."""

    def test_what_is_not_worked_on_goes_back_in_order(
        self, channel: Any, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The message of the running job stays; the oldest of the others is next."""
        first, second, running = take(channel, "first", "second", "running")
        active = [SimpleNamespace(message=running)]
        monkeypatch.setattr(connection, "active_requests", active)
        parent = SimpleNamespace(
            task_consumer=SimpleNamespace(channel=channel), connection_errors=(ConnectionError,)
        )
        HeldMessages(parent).start(parent)
        assert redis_client.hkeys("tts:unacked:me") == [running.delivery_tag]
        taken = [channel.basic_get("q").body for _ in range(2)]
        assert taken == [first.body, second.body]

    def test_a_message_is_noted_on_a_second_connection_if_the_first_is_dead(
        self, channel: Any
    ) -> None:
        """Between BRPOP and the note it is nowhere but in the worker's hand."""
        left = deque([ConnectionError(), None])
        noted = []

        def append(message: Any, tag: str) -> None:
            noted.append(tag)
            if error := left.popleft():
                raise error

        channel.qos.append = append
        parent = SimpleNamespace(
            task_consumer=SimpleNamespace(channel=channel), connection_errors=(ConnectionError,)
        )
        HeldMessages(parent).start(parent)
        take(channel, "one")
        assert len(noted) == 2
        assert len(set(noted)) == 1

    @pytest.mark.parametrize("restore", [False, True])
    def test_kombu_leaves_messages_alone_when_it_is_told_to(
        self, redis_url: str, redis_client: redis.Redis, restore: bool
    ) -> None:
        """`do_restore` is what keeps a running job's message out of the queue."""
        broker = app.connection_for_read(redis_url)
        channel = broker.channel()
        channel.queue_declare("q")
        take(channel, "one")
        channel.do_restore = restore
        channel.close()
        assert redis_client.llen("q") == int(restore)
        broker.close()

    def test_a_lost_connection_takes_no_message_with_it(
        self, redis_url: str, redis_client: redis.Redis
    ) -> None:
        """Celery would put the running job's message back, for somebody else to run as well."""
        steady = consumer()
        broker = app.connection_for_read(
            redis_url, transport_options={"unacked_key": "tts:unacked:me"}
        )
        channel = broker.default_channel
        channel.queue_declare("q")
        take(channel, "running")
        steady.__dict__ |= {
            "connection": broker,
            "task_consumer": SimpleNamespace(channel=channel),
            "pool": SimpleNamespace(num_processes=1),
            "prefetch_multiplier": 1,
            "initial_prefetch_count": 1,
            "qos_global": None,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Celery recommends what would cancel running jobs
            steady.on_connection_error_after_connected(ConnectionError())
        assert steady.connection is None
        assert redis_client.llen("q") == 0
        assert redis_client.hlen("tts:unacked:me") == 1

    def test_cut_connections_come_back_by_themselves(self, channel: Any) -> None:
        """Their sockets are closed at once, without a farewell that may wait for an answer."""
        before = channel.client.client_id()
        connection._cut(SimpleNamespace(transport=SimpleNamespace(channels=[channel])))
        assert channel.client.client_id() != before


class TestQueues:
    """What is served after a reconnection."""

    @pytest.mark.parametrize("wanted", [["online", "batch"], ["batch"], []])
    def test_only_what_the_role_calls_for_and_online_first(
        self, redis_url: str, wanted: list[str]
    ) -> None:
        """The role may have changed during the outage; Celery brings the old queues back."""
        own = Celery("own", broker=redis_url)
        own.conf.broker_transport_options = {"queue_order_strategy": "priority"}
        for before in (["online", "batch"], ["batch"], []):
            broker = own.connection_for_read()
            own.amqp.queues.select(before)
            served = own.amqp.TaskConsumer(broker)
            steady = consumer()
            steady.__dict__ |= {"app": own, "task_consumer": served}
            queues = Queues("online", "batch")
            queues._wanted = wanted
            queues.attach(steady)
            served.consume()  # Celery's event loop does it when it begins
            assert served.channel.active_queues == wanted
            broker.close()


class Pool:
    """A pool of one child."""

    def __init__(self) -> None:
        self.child = subprocess.Popen(["sleep", "60"])
        self.found: list[int | None] = []  #: what a look at the child said, each time

    @property
    def _pool(self) -> Any:
        process = SimpleNamespace(pid=self.child.pid, exitcode=-9)  # as billiard's says it
        return SimpleNamespace(_pool=[process])

    def maintain_pool(self) -> None:
        self.found.append(self.child.poll())
        self.child = subprocess.Popen(["sleep", "60"])


class TestChildExits:
    """The pool hears of a dead child."""

    def test_the_pool_looks_when_a_child_is_gone(self) -> None:
        """At once, when it can be waited for; the successor is watched, also after a reset."""
        pool, hub = Pool(), Hub()
        told: list[tuple[int, int]] = []
        traces = SimpleNamespace(exited=lambda *how: told.append(how))
        parent = SimpleNamespace(pool=pool, controller=SimpleNamespace(tts_traces=traces))
        step = ChildExits(parent)
        step.register_with_event_loop(parent, hub)
        try:
            for number in (1, 2, 3):
                if number == 3:
                    hub.reset()  # as a lost connection does
                    step.register_with_event_loop(parent, hub)
                pool.child.kill()
                deadline_s = time.monotonic() + 5
                while len(pool.found) < number and time.monotonic() < deadline_s:
                    hub.run_once()
            assert pool.found == [-9, -9, -9]
            assert [exit_code for _, exit_code in told] == [-9, -9, -9]
        finally:
            pool.child.kill()
            pool.child.wait()
            hub.close()
