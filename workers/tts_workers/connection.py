"""Keeps Celery's consumer alive through everything that can happen to its connections.

Three things that Celery and kombu leave to chance are made certain here. A broker that comes back
is found within a second, not after a back-off that has grown to half a minute. A message whose
acknowledgement did not get through is acknowledged later, on whatever connection there is then,
so that it does not fill the only place of the prefetch for ever. And what a lost connection left
between Redis and this worker goes back to its queue at once. Proved by
``tests/e2e/test_connections.py``; what is relied on inside Celery and kombu is held by
``tests/unit/test_connection.py``.
"""

from __future__ import annotations

import logging
import os
import time
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from celery.worker.state import active_requests

from tts_workers.held_messages import held_by, put_back

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

#: How often a broker that is away is asked again, in seconds: workers do not ask in step.
_RETRY_S = (0.3, 0.7)
#: How long the consumer waits for one answer, in seconds. Less than others do: it is alone in its
#: thread, and over dead connections waits for several answers in turn.
_ANSWER_S = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
#: How often the log says that the broker is away, in seconds.
_COMPLAINT_EVERY_S = 10.0


class SteadyConsumer(Consumer):
    """Celery's consumer (setting ``worker_consumer``), made to survive its connections."""

    def __init__(
        self, *args: Any, worker_options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self._unsettled: list[Callable[[], None]] = []
        # Neighbours are the agent's business. Mingle would ask them what was revoked and wait a
        # second for answers, at each reconnection again; gossip is one connection more to lose.
        options = {**(worker_options or {}), "without_mingle": True, "without_gossip": True}
        super().__init__(*args, worker_options=options, **kwargs)

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Return a connection to take messages with."""
        return self.ensure_connected(
            self.app.connection_for_read(heartbeat=heartbeat, transport_options=_ANSWER_S)
        )

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """Return a connection to send events with."""
        return self.ensure_connected(
            self.app.connection_for_write(url=url, heartbeat=heartbeat, transport_options=_ANSWER_S)
        )

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying at short and constant intervals for as long as it takes.

        Celery calls `kombu.Connection.ensure_connection` without its interval options, and offers
        no setting for them: 2, 4 … 30 s.
        """
        interval_s = SystemRandom().uniform(*_RETRY_S)
        ensure = conn.ensure_connection

        def steadily(errback: Any = None, *args: Any, **options: Any) -> Any:
            pace = {"interval_start": interval_s, "interval_step": 0, "interval_max": interval_s}
            return ensure(errback and _seldom(errback), *args, **(options | pace))

        conn.ensure_connection = steadily
        try:
            return super().ensure_connected(conn)
        finally:
            conn.ensure_connection = ensure

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of a lost connection, but not of the messages that came over it.

        Closing a channel puts what it delivered back into the queue, the message of the running
        job too. That one is settled when its job ends; the others are put back by `HeldMessages`.
        """
        if self.task_consumer is not None:
            self.task_consumer.channel.do_restore = False
        # One has died, so none is trusted: Celery says its farewells over them, and on one that
        # is half-open waits seconds for each answer.
        _cut(self.connection)
        if self.event_dispatcher is not None:
            _cut(self.event_dispatcher.connection)
        super().on_connection_error_after_connected(exc)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return what takes messages in: Celery's, with acknowledgements that insist."""
        unsettled, self._unsettled = self._unsettled, []
        for settle in unsettled:
            self.call_soon(settle)
        handle: Callable[[Any], None] = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> None:
            # kombu's own log a failure and forget it: the message stays delivered for ever
            message.ack_log_error = partial(self._settle, message, message.ack)
            message.reject_log_error = partial(self._settle, message, message.reject)
            handle(message)

        return on_task_received

    def _settle(
        self,
        message: Any,
        settle: Callable[..., None],
        _logger: logging.Logger,
        errors: tuple[type[Exception], ...],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Acknowledge or reject a message, on the newest connection there is.

        Any channel of this worker will do: they share its list of held messages.
        """
        if self.task_consumer is not None:
            message.channel = self.task_consumer.channel
        try:
            _twice(settle, errors)(*args, **kwargs)
        except errors as error:
            logger.warning("message %s is not settled yet: %s", message.delivery_tag, error)
            again = partial(self._settle, message, settle, _logger, errors, *args, **kwargs)
            self._unsettled.append(again)
            if self.blueprint.state == bootsteps.RUN:
                raise  # out of the event loop: the consumer connects anew


def _twice(call: Callable[..., None], errors: tuple[type[Exception], ...]) -> Callable[..., None]:
    """Return a call that is made again if it fails: a dead connection is noticed by its use."""

    def call_twice(*args: Any, **kwargs: Any) -> None:
        try:
            call(*args, **kwargs)
        except errors:
            call(*args, **kwargs)

    return call_twice


def _cut(connection: Any) -> None:
    """Close the sockets of a connection to Redis; whoever uses them again connects anew."""
    for channel in list(connection.transport.channels):
        channel.pool.disconnect()
        channel.async_pool.disconnect()


def _seldom(errback: Callable[..., Any]) -> Callable[..., Any]:
    """Return an errback that is called at first and then every so often."""
    next_s = 0.0

    def complain(*args: Any) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + _COMPLAINT_EVERY_S
            errback(*args)

    return complain


class HeldMessages(bootsteps.StartStopStep):
    """Keeps Redis's list of the messages that this worker holds true.

    It puts back what stands there and is not worked on, before the worker takes more.

    After a reconnection that is what had been delivered and not begun, and what was taken from
    the queue while the connection died, so that it never arrived.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        """Compare the list with the running jobs."""
        qos = parent.task_consumer.channel.qos
        # a message is in hand, and nowhere else, until it is noted in Redis
        qos.append = _twice(qos.append, parent.connection_errors)
        working_on = {request.message.delivery_tag for request in active_requests}
        channel = parent.task_consumer.channel
        with channel.conn_or_acquire() as client:
            lost = [tag for tag in held_by(channel, client) if tag not in working_on]
            for tag in lost:
                logger.info("message %s goes back: its connection was lost", tag)
            put_back(channel, client, lost)


class ChildExits(bootsteps.StartStopStep):
    """Has the pool replace its child as soon as the kernel has its exit status.

    The pool itself watches a pipe, which closes a little before; it then finds the child still
    there and looks again when a timer of 5 s says so. Until then the dead child's message keeps
    its place, and the worker takes no other.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._watched: dict[int, int] = {}  #: pidfds by pid
        self._processes: dict[int, Any] = {}  #: the pool's own, by pid
        self._traces = parent.controller.tts_traces

    def register_with_event_loop(self, parent: Any, hub: Any) -> None:
        """Watch the children there are; a new event loop after each reconnection knows none."""
        for descriptor in self._watched.values():
            hub.remove(descriptor)
            os.close(descriptor)
        self._watched.clear()
        self._watch(parent.pool, hub)

    def _watch(self, pool: Any, hub: Any) -> None:
        self._processes = {process.pid: process for process in pool._pool._pool}  # noqa: SLF001
        for pid in self._processes:
            if pid not in self._watched:
                try:
                    descriptor = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue  # gone and reaped: the pool knows
                self._watched[pid] = descriptor
                hub.add_reader(descriptor, self._exited, pool, hub, pid)

    def _exited(self, pool: Any, hub: Any, pid: int) -> None:
        descriptor = self._watched.pop(pid)
        hub.remove(descriptor)
        os.close(descriptor)
        # asked of the pool's own object: whoever waits for the process, it remembers the answer
        process = self._processes.get(pid)
        self._traces.exited(pid, process.exitcode if process is not None else None)
        pool.maintain_pool()
        self._watch(pool, hub)
