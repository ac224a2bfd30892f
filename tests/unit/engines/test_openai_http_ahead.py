"""Requests that are begun ahead: how many, in which order, and never one for another."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tts_tasks.errors import EngineError
from tts_workers.engines.openai_http import ahead
from tts_workers.engines.openai_http.ahead import CallsAhead, LoopThread
from tts_workers.engines.openai_http.client import Answer, SpeechCall
from tts_workers.engines.openai_http.sound import Expected

if TYPE_CHECKING:
    from collections.abc import Sequence


def call(text: str) -> SpeechCall:
    return SpeechCall({"input": text}, Expected.of(text, 1.0, "wav", 24_000))


def text_of(one: SpeechCall) -> str:
    return str(one.fields["input"])


class Server:
    """Notes what is begun; answers when it is told to, or at once."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.begun: list[tuple[str, Future[Answer]]] = []

    def begin(self, one: SpeechCall) -> Future[Answer]:
        future: Future[Answer] = Future()
        self.begun.append((text_of(one), future))
        if self.at_once:
            self.answer(len(self.begun) - 1)
        return future

    def answer(self, index: int) -> None:
        text, future = self.begun[index]
        future.set_result(Answer(text.encode(), "", 1.0))

    def fail(self, index: int) -> None:
        self.begun[index][1].set_exception(EngineError("it failed"))

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.begun]


def waited_for(calls: CallsAhead, texts: Sequence[str]) -> list[str]:
    return [calls.result(call(text)).data.decode() for text in texts]


def test_so_many_are_begun_as_may_be_and_the_next_when_one_is_done() -> None:
    """In their order, each once."""
    server = Server(at_once=False)
    calls = CallsAhead(server.begin, 2)
    calls.expect([call(text) for text in "abcd"])
    assert server.texts == ["a", "b"]
    server.answer(0)
    assert calls.result(call("a")).data == b"a"
    assert server.texts == ["a", "b", "c"]


def test_nothing_that_was_announced_is_asked_for_twice() -> None:
    """Nor is the same text one request where it comes twice."""
    server = Server()
    calls = CallsAhead(server.begin, 3)
    texts = ["a", "b", "a", "a", "c"]
    calls.expect([call(text) for text in texts])
    assert waited_for(calls, texts) == texts
    assert server.texts == texts


def test_what_is_not_as_it_was_announced_is_asked_for_itself() -> None:
    """And what was announced is somebody else's: it is not waited for any more."""
    server = Server()
    calls = CallsAhead(server.begin, 2)
    calls.expect([call("a"), call("b")])
    assert waited_for(calls, ["x", "a"]) == ["x", "a"]
    assert server.texts == ["a", "b", "x", "a"]


def test_a_new_text_gives_the_old_one_up() -> None:
    """Also an empty one, which says that nothing comes."""
    server = Server(at_once=False)
    calls = CallsAhead(server.begin, 2)
    calls.expect([call("a"), call("b"), call("c")])
    calls.expect([])
    assert [future.cancelled() for _, future in server.begun] == [True, True]


def test_what_failed_ahead_gets_another_try() -> None:
    """It had its chance beside others; alone it may fare better."""
    server = Server(at_once=False)
    calls = CallsAhead(server.begin, 2)
    calls.expect([call("a"), call("b")])
    server.fail(0)
    server.at_once = True
    assert waited_for(calls, ["a"]) == ["a"]
    assert server.texts == ["a", "b", "a"]


def test_what_fails_while_it_is_waited_for_is_told() -> None:
    """Once; and the next one is still the next one."""

    class Failing(Server):
        def begin(self, one: SpeechCall) -> Future[Answer]:
            future = super().begin(one)
            self.fail(-1)
            return future

    failing = Failing(at_once=False)
    calls = CallsAhead(failing.begin, 1)
    calls.expect([call("a"), call("b")])
    for text in "ab":
        with pytest.raises(EngineError, match="it failed"):
            calls.result(call(text))
    assert failing.texts == ["a", "a", "b", "b"]


@pytest.mark.parametrize("seed", range(20))
def test_an_answer_always_belongs_to_its_text(seed: int) -> None:
    """Whatever is announced, asked for as announced or not, and in whatever order it comes."""
    rng = random.Random(seed)
    server = Server()
    calls = CallsAhead(server.begin, rng.randint(1, 4))
    for _ in range(50):
        texts = [rng.choice("abcdef") for _ in range(rng.randint(0, 5))]
        calls.expect([call(text) for text in texts])
        asked = [text if rng.random() < 0.8 else rng.choice("xyz") for text in texts]
        asked = asked[: rng.randint(0, len(asked))]
        answers = waited_for(calls, asked)
        assert answers == asked


def test_a_closed_loop_takes_nothing_more() -> None:
    """What was under way is cut off, and what comes later is refused; twice is once."""
    loop = LoopThread()
    future = loop.submit(asyncio.sleep(600))
    loop.close()
    loop.close()
    assert future.cancelled()
    with pytest.raises(EngineError, match="closed"):
        loop.result(asyncio.sleep(0))


def test_what_does_not_let_itself_be_cancelled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do; whoever waits for it waits no longer, and twice is once."""
    monkeypatch.setattr(ahead, "_ENDS_WITHIN_S", 0.05)
    begun = threading.Event()

    async def stubborn() -> None:
        begun.set()
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(600)

    loop = LoopThread()
    future = loop.submit(stubborn())
    assert begun.wait(30)
    with pytest.raises(EngineError, match=r"did not end within 0\.05 s .* restart the worker"):
        loop.close()
    assert future.cancelled()
    assert not loop._thread.is_alive()
    loop.close()
