"""Requests under way: the one that is waited for, and those that will be."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakSet

from tts_tasks.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from tts_workers.engines.openai_http.client import Answer, SpeechCall

T = TypeVar("T")

_ENDS_WITHIN_S: Final = 5.0


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="speech-client", daemon=True
        )
        self._thread.start()
        self._begun: WeakSet[Future[Any]] = WeakSet()
        self._closing = threading.Lock()
        self._closed = False

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin with something; raises `EngineError` after `close`."""
        with self._closing:
            if self._closed:
                work.close()
                raise EngineError("openai_http was closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._begun.add(future)
            return future

    def result(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something and return its result; raises `EngineError` if it is cut off by `close`."""
        return result_of(self.submit(work))

    def close(self) -> None:
        """Cancel whatever is under way; raises `EngineError` if something does not end.

        Whoever waits for it is told even then, and the thread ends as soon as it can.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
        cancelling = asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
        ended = True
        try:
            cancelling.result(_ENDS_WITHIN_S)
        except TimeoutError:
            ended = False
            for future in self._begun:
                future.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ENDS_WITHIN_S)
        if not self._thread.is_alive():
            self._loop.close()
        if not ended:
            raise EngineError(
                "openai_http: what was asked of the speech server did not end within"
                f" {_ENDS_WITHIN_S:g} s of being cancelled, and was left alone: restart the worker"
                " if this happens again, and the server if it is busy with it"
            )


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def result_of(future: Future[T]) -> T:
    """Wait for a result; raises `EngineError` if it was cancelled."""
    try:
        return future.result()
    except CancelledError:
        raise EngineError("openai_http was closed while it was speaking") from None


@dataclass(slots=True)
class _Coming:
    """A request that will be waited for."""

    call: SpeechCall
    future: Future[Answer] | None = None


class CallsAhead:
    """Keeps at most ``limit`` requests under way, in the order in which they will be waited for.

    Called by one thread. ``begin`` starts a request. Proved by
    ``tests/unit/engines/test_openai_http_ahead.py``.
    """

    def __init__(self, begin: Callable[[SpeechCall], Future[Answer]], limit: int) -> None:
        self._begin = begin
        self._limit = limit
        self._coming: deque[_Coming] = deque()

    def expect(self, calls: Sequence[SpeechCall]) -> None:
        """Begin with what will be waited for; whatever else is under way is given up."""
        for one in self._coming:
            if one.future is not None:
                one.future.cancel()
        self._coming = deque(map(_Coming, calls))
        self._begin_some()

    def result(self, call: SpeechCall) -> Answer:
        """Wait for a request, begun ahead or now; raises what it raised."""
        if not self._coming or self._coming[0].call != call:
            # not as it was announced
            self.expect(())
            return result_of(self._begin(call))
        self._begin_some()
        future = self._coming[0].future
        try:
            if future is None or _failed(future):
                # it had its chance beside others: alone it may fare better
                future = self._begin(call)
            self._coming[0].future = future
            return result_of(future)
        finally:
            self._coming.popleft()
            self._begin_some()

    def _begin_some(self) -> None:
        for one in list(self._coming)[: self._limit]:
            if one.future is None:
                try:
                    one.future = self._begin(one.call)
                except EngineError:  # closed; whoever waits for it is told
                    return


def _failed(future: Future[Answer]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)
