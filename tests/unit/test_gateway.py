"""The gateway's first two answers: alive, and able to speak."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import httpx
import pytest

from tts_gateway.app import create_app
from tts_gateway.readiness import IsReady, ReadinessProbe, ReadyReport, cluster_is_ready, judge
from tts_gateway.settings import GatewaySettings, read_settings
from tts_tasks.errors import (
    ConfigurationError,
    ConflictError,
    DeadlineError,
    JobFailedError,
    NotFoundError,
    QueueFullError,
    RequestError,
    TTSError,
    UnavailableError,
)

ROOT = Path(__file__).parents[2]


def ask(target: str, is_ready: IsReady, *, method: str = "GET") -> httpx.Response:
    """Send one request to the application, without a socket."""

    async def send() -> httpx.Response:
        app = create_app(GatewaySettings(ready_timeout_s=0.2), is_ready=is_ready)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.request(method, target)

    return asyncio.run(send())


async def two_ready() -> ReadyReport:
    """Answer as a healthy cluster."""
    return judge([{"id": "a", "ready": True}, {"id": "b", "ready": False}])


async def must_not_be_asked() -> ReadyReport:
    """Fail whoever asks."""
    raise AssertionError("asked")


async def unreachable() -> ReadyReport:
    """Answer as a cluster whose store is gone."""
    raise UnavailableError("redis://:secret@10.0.0.1:6379/0 does not answer")


async def hanging() -> ReadyReport:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_is_constant_and_asks_nobody(method: str) -> None:
    """/health answers 200 without touching the cluster."""
    answer = ask("/health", must_not_be_asked, method=method)

    assert answer.status_code == 200
    assert answer.text == ("ok\n" if method == "GET" else "")
    assert answer.headers["cache-control"] == "no-store"


def test_ready_with_a_ready_worker() -> None:
    """One worker that has spoken makes the cluster ready; the others are counted."""
    answer = ask("/ready", two_ready)

    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "reasons": [], "workers": 2, "ready_workers": 1}


@pytest.mark.parametrize(
    ("workers", "reason"),
    [([], "no_worker"), ([{"id": "a", "ready": False}], "no_ready_worker")],
)
def test_not_ready_says_why(workers: list[dict[str, object]], reason: str) -> None:
    """Without a ready worker the answer is 503 and names what is missing."""

    async def is_ready() -> ReadyReport:
        return judge(workers)

    answer = ask("/ready", is_ready)

    assert (answer.status_code, answer.json()["reasons"]) == (503, [reason])


def test_an_unreachable_store_is_503_and_gives_nothing_away() -> None:
    """The reason is a stable word; addresses and passwords stay in the log."""
    answer = ask("/ready", unreachable)

    assert (answer.status_code, answer.json()["reasons"]) == (503, ["cluster_unreachable"])
    assert "secret" not in answer.text


def test_a_hanging_store_is_503_in_time() -> None:
    """/ready answers no when the cluster gives no answer within the time-out."""
    answer = ask("/ready", hanging)

    assert (answer.status_code, answer.json()["reasons"]) == (503, ["no_answer_in_time"])


@pytest.mark.parametrize("target", ["/docs", "/redoc", "/openapi.json", "/v1/audio/speech"])
def test_nothing_else_is_there(target: str) -> None:
    """No page that loads foreign scripts, and no endpoint that does not work yet."""
    assert ask(target, must_not_be_asked).status_code == 404


def test_by_default_the_cluster_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer handed in, /ready judges by the client's `cluster_status`."""
    status = {"lanes": [], "workers": [{"id": "a", "ready": True}], "queues": {}}
    monkeypatch.setattr("tts_tasks.client.cluster_status", lambda: status)

    answer = ask("/ready", cluster_is_ready)

    assert (answer.status_code, answer.json()["workers"]) == (200, 1)


def fail_with(error: TTSError) -> httpx.Response:
    """Ask an endpoint that ends in this error."""

    async def send() -> httpx.Response:
        app = create_app(GatewaySettings(), is_ready=must_not_be_asked)

        @app.get("/fails")
        async def fails() -> None:
            raise error

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.get("/fails")

    return asyncio.run(send())


def test_a_full_lane_is_429_with_retry_after() -> None:
    """The header in whole seconds, rounded up; the estimate in OpenAI's error object."""
    answer = fail_with(QueueFullError("the lane is full", 84.26, 2.1))

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json() == {
        "error": {
            "message": "the lane is full",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
            "estimate_s": 84.3,
        }
    }


def test_a_deadline_that_cannot_be_met_is_503() -> None:
    """With a time to try again, or with the word that no wait would help."""
    later = fail_with(DeadlineError("too late", 9.0, 4.0))
    never = fail_with(DeadlineError("too long a text", 9.0))

    assert (later.status_code, later.headers["retry-after"]) == (503, "4")
    assert later.json()["error"]["code"] == "deadline_unmeetable"
    assert "x-should-retry" not in later.headers
    assert (never.status_code, never.headers["x-should-retry"]) == (503, "false")
    assert "retry-after" not in never.headers


@pytest.mark.parametrize(
    ("error", "status", "param", "code"),
    [
        (RequestError("voice", "is no voice"), 400, "voice", "invalid_request"),
        (NotFoundError("no such job"), 404, None, "not_found"),
        (ConflictError("taken"), 409, None, "conflict"),
        (JobFailedError("deadline_exceeded", "too late"), 500, None, "deadline_exceeded"),
        (UnavailableError("redis://:secret@10.0.0.1:6379/0"), 503, None, "unavailable"),
    ],
)
def test_an_error_is_openais_error_object(
    error: TTSError, status: int, param: str | None, code: str
) -> None:
    """Its field is the parameter; addresses and passwords stay in the log."""
    answer = fail_with(error)

    body = answer.json()["error"]
    assert (answer.status_code, body["param"], body["code"]) == (status, param, code)
    assert "secret" not in answer.text


def test_many_callers_are_one_question() -> None:
    """Callers at the same time share one question; after ``kept_s`` it is asked again."""
    asked = 0
    now_s = 100.0

    async def is_ready() -> ReadyReport:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return ReadyReport(True)

    async def scenario() -> list[int]:
        nonlocal now_s
        probe = ReadinessProbe(is_ready, timeout_s=30, kept_s=1.0, clock=lambda: now_s)
        counts = []
        await asyncio.gather(*(probe.report() for _ in range(20)))
        counts.append(asked)
        now_s += 0.9
        await probe.report()
        counts.append(asked)
        now_s += 0.2
        await probe.report()
        counts.append(asked)
        return counts

    assert asyncio.run(scenario()) == [1, 1, 2]


def test_a_hanging_question_is_not_asked_twice() -> None:
    """While one question hangs, further callers wait on it instead of starting their own."""
    asked = 0

    async def is_ready() -> ReadyReport:
        nonlocal asked
        asked += 1
        return await hanging()

    async def scenario() -> None:
        probe = ReadinessProbe(is_ready, timeout_s=0.01, kept_s=0.0)
        for _ in range(5):
            assert not (await probe.report()).ready

    asyncio.run(scenario())
    assert asked == 1


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong environment variable is reported under its name."""
    monkeypatch.setenv("TTS_GATEWAY_PORT", "http")

    with pytest.raises(ConfigurationError, match="TTS_GATEWAY_PORT"):
        read_settings()


def test_python_m_serves() -> None:
    """``python -m tts_gateway`` listens on the loopback address and answers /health."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "gateway"))
    with subprocess.Popen(
        [sys.executable, "-m", "tts_gateway"],
        env={**os.environ, "PYTHONPATH": path, "TTS_GATEWAY_PORT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            running = re.search(r"running on (http://127\.0\.0\.1:\d+)", line)
            if running:
                break
        else:
            pytest.fail(said)
        with urllib.request.urlopen(f"{running[1]}/health", timeout=30) as answer:  # noqa: S310
            body = answer.read()
        process.terminate()
    assert body == b"ok\n"
