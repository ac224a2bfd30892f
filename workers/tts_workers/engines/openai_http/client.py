"""Talks HTTP with a speech server: is it ready, what has it, and the requests themselves."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx

from tts_tasks.errors import EngineError, EngineLoadError
from tts_workers.engines.openai_http.failures import (
    BUSY,
    ServerError,
    ServerHungError,
    of_answer,
    wait_s,
)

if TYPE_CHECKING:
    from tts_workers.engines.openai_http.settings import OpenAIHttpSettings
    from tts_workers.engines.openai_http.sound import Expected

_KEY: Final = "see TTS_OPENAI_HTTP_API_KEY"
_CONNECT_S: Final = 5.0
#: How long a question that takes no work may wait for its answer.
_QUESTION_S: Final = 2.0
_MOST_BYTES_OF_AN_ANSWER: Final = 4 * 1024 * 1024
_MOST_BYTES_OF_A_REASON: Final = 16 * 1024
#: A whole answer may take so many times as long as the server may be silent.
_WHOLE: Final = 10
#: A server that does not know the path of the question whether it is ready is there.
_READY: Final = frozenset({404, 405})


@dataclass(frozen=True, slots=True)
class SpeechCall:
    """One request for speech."""

    fields: dict[str, Any] = field(repr=False)
    expected: Expected


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of an answer, whole."""

    data: bytes = field(repr=False)
    content_type: str
    took_s: float


class SpeechClient:
    """A client of one server; to be used in one event loop."""

    def __init__(self, settings: OpenAIHttpSettings, base_url: str) -> None:
        self._settings = settings
        self._base_url = base_url
        origin = urlsplit(base_url)
        self._ready_url = f"{origin.scheme}://{origin.netloc}{settings.ready_path}"
        key = settings.api_key.get_secret_value()
        self._http = httpx.AsyncClient(
            # bodies as they are: what unpacks itself has no bound
            headers={"Accept-Encoding": "identity"}
            | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(settings.timeout_s, connect=min(_CONNECT_S, settings.timeout_s)),
            # Each request has a connection of its own: one that was kept may be closed by the
            # server at the moment at which it is used again, and that is told from a crash by
            # nothing. No proxies and .netrc of the environment: the server is on this machine.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )

    async def is_ready(self) -> bool:
        """Whether the server can work; raises `EngineLoadError` where it refuses the key."""
        try:
            async with self._http.stream("GET", self._ready_url, timeout=_QUESTION_S) as response:
                status = response.status_code
        except httpx.TransportError:
            return False
        if status in {401, 403}:
            raise EngineLoadError(f"{self._ready_url} answers {status}: {_KEY}")
        return 200 <= status < 300 or status in _READY

    async def model(self) -> str:
        """Return the first model that the server names; raises `EngineLoadError`."""
        told = await self._ask("/models", "TTS_OPENAI_HTTP_MODEL is not set")
        models = told.get("data") if isinstance(told, dict) else None
        first = models[0] if isinstance(models, list) and models else None
        if not isinstance(first, dict) or not isinstance(first.get("id"), str):
            raise EngineLoadError(
                f"{self._base_url}/models names no model: set TTS_OPENAI_HTTP_MODEL"
            )
        return str(first["id"])

    async def voices(self) -> list[str]:
        """Return the names of the server's voices; none where it does not tell."""
        try:
            told = await self._ask("/audio/voices", "")
        except EngineLoadError:
            return []
        listed = told.get("voices") if isinstance(told, dict) else told
        names = []
        for voice in listed if isinstance(listed, list) else []:
            name = voice.get("id", voice.get("name")) if isinstance(voice, dict) else voice
            if isinstance(name, str) and name:
                names.append(name)
        return names

    async def _ask(self, path: str, why: str) -> Any:
        url = self._base_url + path
        because = f"{why}, and " if why else ""
        try:
            async with self._http.stream("GET", url) as response:
                status = response.status_code
                data = await _read(response, _MOST_BYTES_OF_AN_ANSWER)
        except httpx.TransportError as error:
            raise EngineLoadError(f"{because}{url} does not answer: {_said(error)}") from error
        if status != 200:
            hint = f": {_KEY}" if status in {401, 403} else ""
            raise EngineLoadError(f"{because}{url} answers {status}{hint}")
        try:
            return json.loads(data)
        except ValueError as error:
            raise EngineLoadError(f"{because}{url} does not answer with JSON") from error

    async def speech(self, call: SpeechCall) -> Answer:
        """Have a text spoken; returns what came, unchecked but for its size.

        Raises `ServerError` where the server may be gone, and what `failures.of_answer` returns.
        """
        began_s = time.monotonic()
        busy_until_s = began_s + self._settings.busy_s
        body = json.dumps(call.fields, ensure_ascii=False).encode()
        try:
            async with asyncio.timeout(_WHOLE * self._settings.timeout_s):
                while True:
                    answer = await self._speech(body, call.expected, began_s, busy_until_s)
                    if isinstance(answer, Answer):
                        return answer
                    await asyncio.sleep(answer)
        except TimeoutError:
            raise ServerHungError(
                f"the speech server did not come to an end in {_WHOLE * self._settings.timeout_s:g}"
                " s"
            ) from None
        except httpx.TimeoutException as error:
            raise ServerHungError(
                f"the speech server was silent for {self._settings.timeout_s:g} s ({_said(error)})"
            ) from error
        except httpx.TransportError as error:
            raise ServerError(f"the speech server broke off: {_said(error)}") from error

    async def _speech(
        self, body: bytes, expected: Expected, began_s: float, busy_until_s: float
    ) -> Answer | float:
        """Ask once; returns the answer, or after how many seconds to ask again."""
        async with self._http.stream(
            "POST",
            f"{self._base_url}/audio/speech",
            content=body,
            headers={"Content-Type": "application/json"},
        ) as response:
            if not response.is_success:
                reason = await _read(response, _MOST_BYTES_OF_A_REASON)
                if response.status_code in BUSY:
                    rest_s = wait_s(response, datetime.now(UTC))
                    if time.monotonic() + rest_s <= busy_until_s:
                        return rest_s
                raise of_answer(response, reason[:_MOST_BYTES_OF_A_REASON])
            most_bytes = expected.most_bytes
            data = await _read(response, most_bytes)
            if len(data) > most_bytes:
                raise EngineError(
                    f"the speech server sent more than {expected.longest_s:.0f} s of sound for a"
                    " text that is shorter: it was cut off"
                )
            content_type = response.headers.get("content-type", "")
            return Answer(data, content_type, time.monotonic() - began_s)


async def _read(response: httpx.Response, most_bytes: int) -> bytes:
    """Read a body as it comes, at most a chunk more than so many bytes."""
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > most_bytes:
            break
    return bytes(data)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
