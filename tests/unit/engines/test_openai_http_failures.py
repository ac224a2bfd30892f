"""What servers say when they refuse: OpenAI's error object, FastAPI's, and none at all."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest

from tts_tasks.errors import EngineLostError, EngineOutOfMemoryError, RequestError
from tts_workers.engines.openai_http.failures import (
    ServerBusyError,
    ServerError,
    of_answer,
    wait_s,
)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, b'{"error": {"message": "bad voice x", "param": "voice"}}', RequestError, "voice: "),
        (400, b'{"error": {"message": "is unknown", "param": "voice"}}', RequestError, "voice: "),
        (
            400,
            b'{"detail": {"error": "v", "message": "Voice x"}}',
            RequestError,
            "voice: .*e x",
        ),
        (422, b'{"detail": [{"loc": ["body", "speed"], "msg": "<= 4"}]}', RequestError, "speed: "),
        (400, b'{"error": {"message": "ref_audio is too short"}}', RequestError, "prompt_audio: "),
        (400, b'"just words"', RequestError, "text: .*just words"),
        (413, b"", RequestError, "413: no reason given"),
        (
            400,
            b'{"error": {"message": "This model\'s maximum context length is 4096 tokens."}}',
            RequestError,
            "text: .*4096",
        ),
        (400, b'{"error": {"message": "ref_text is too long"}}', RequestError, "prompt_audio: "),
        (400, b"Unsupported model: x", ServerError, "TTS_OPENAI_HTTP_MODEL"),
        (404, b'{"detail": "Not Found"}', ServerError, "TTS_OPENAI_HTTP_URL"),
        (403, b"no", EngineLostError, "TTS_OPENAI_HTTP_API_KEY"),
        (503, b"", ServerBusyError, "503"),
        (500, b'{"error": "OutOfMemoryError"}', EngineOutOfMemoryError, "500"),
        (500, b"CUBLAS_STATUS_ALLOC_FAILED", EngineOutOfMemoryError, "500"),
        (502, b"<html>" + b"x" * 99_999, ServerError, "502"),
        (500, b"\xff\xfe[1, 2", ServerError, "500"),
        (500, b'{"detail": []}', ServerError, "500"),
    ],
)
def test_a_refusal_is_told_with_the_servers_words(
    status: int, body: bytes, kind: type[Exception], words: str
) -> None:
    """Of the kind that decides what comes next, and short."""
    error = of_answer(httpx.Response(status), body)
    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("2", 2.0),
        ("0.25", 0.25),
        ("-1", 0.05),
        ("Sat, 21 Nov 2026 12:00:03 GMT", 3.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.05),
        ("nan", 0.05),
        ("soon", 0.5),
        ("", 0.5),
    ],
)
def test_retry_after_is_seconds_or_a_date(said: str, seconds: float) -> None:
    """Or nothing that can be read: then half a second."""
    response = httpx.Response(429, headers={"Retry-After": said})
    assert wait_s(response, datetime(2026, 11, 21, 12, tzinfo=UTC)) == seconds
