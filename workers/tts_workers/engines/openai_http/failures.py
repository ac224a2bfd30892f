"""What a server's refusals and failures mean, in our errors."""

from __future__ import annotations

import json
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from tts_tasks.errors import (
    EngineError,
    EngineLostError,
    EngineOutOfMemoryError,
    RequestError,
    TTSError,
    UnspeakableTextError,
)

if TYPE_CHECKING:
    from datetime import datetime

    import httpx

_LONGEST_REASON_CHARS: Final = 300
_OUT_OF_MEMORY: Final = re.compile(r"out of memory|outofmemory|alloc_failed", re.IGNORECASE)
#: "This model's maximum context length is ...": about the text, whatever else it names.
_TOO_LONG: Final = "context length"
_EMPTY: Final = re.compile(r"\b(empty|blank|no (speakable )?text|nothing to)\b", re.IGNORECASE)
_SOONEST_S: Final = 0.05
#: Statuses after which one may ask again, as nothing was done.
BUSY: Final = frozenset({429, 503})


class ServerError(EngineError):
    """The server failed, or cannot be reached: it may be gone for good."""


class ServerHungError(ServerError):
    """Nothing came for longer than it may take."""


class ServerBusyError(EngineError):
    """It has too much to do, and still had after it was waited for."""


def of_answer(response: httpx.Response, body: bytes) -> TTSError:
    """Return what to raise for an answer that is no sound."""
    status = response.status_code
    reason, parameter = _reason(body)
    said = f"the speech server answered {status}: {reason or 'no reason given'}"
    if _OUT_OF_MEMORY.search(reason):
        return EngineOutOfMemoryError(said)
    if status in {401, 403}:
        return EngineLostError(f"{said}; the server refuses the key: see TTS_OPENAI_HTTP_API_KEY")
    if status in BUSY:
        return ServerBusyError(said)
    if status in {400, 404, 413, 422}:
        return _of_request(status, said, reason, parameter)
    return ServerError(said)


def _of_request(status: int, said: str, reason: str, parameter: str) -> TTSError:
    about = f"{parameter} {reason}".lower()
    if _TOO_LONG in about and "ref_" not in about:
        return RequestError("text", said)
    if "model" in about and "voice" not in about:
        return ServerError(f"{said}; see TTS_OPENAI_HTTP_MODEL")
    for word, field in (("voice", "voice"), ("speaker", "voice"), ("speed", "speed")):
        if word in about:
            return RequestError(field, said)
    if "ref_audio" in about or "ref_text" in about or "reference" in about:
        return RequestError("prompt_audio", said)
    if _EMPTY.search(reason):
        return UnspeakableTextError(said)
    # an unknown path is the server's affair, and no other text will change that
    return (
        ServerError(f"{said}; see TTS_OPENAI_HTTP_URL")
        if status == 404
        else RequestError("text", said)
    )


def _reason(body: bytes) -> tuple[str, str]:
    """Return what a server says, and of which field: OpenAI's error object, or FastAPI's."""
    text = body.decode(errors="replace")
    try:
        told: Any = json.loads(text)
    except ValueError:
        return _short(text), ""
    if isinstance(told, dict):
        told = told.get("error", told.get("detail", told))
    if isinstance(told, list) and told and isinstance(told[0], dict):
        place = told[0].get("loc") or [""]
        return _short(str(told[0].get("msg", told[0]))), str(place[-1])
    if isinstance(told, dict):
        return _short(str(told.get("message", told))), str(told.get("param") or "")
    return _short(str(told)), ""


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words[:_LONGEST_REASON_CHARS]


def wait_s(response: httpx.Response, now: datetime) -> float:
    """Return for how long to wait before asking again: what the server says, or half a second."""
    said = response.headers.get("retry-after", "")
    try:
        return max(_SOONEST_S, float(said))
    except ValueError:
        pass
    try:
        return max(_SOONEST_S, (parsedate_to_datetime(said) - now).total_seconds())
    except (ValueError, TypeError):
        return 0.5
