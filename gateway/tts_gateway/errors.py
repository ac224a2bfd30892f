"""Errors over HTTP: OpenAI's error object, a status that its SDK understands, ``Retry-After``."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

from fastapi.responses import JSONResponse

from tts_tasks.errors import (
    AdmissionError,
    ConflictError,
    JobFailedError,
    NotFoundError,
    QueueFullError,
    RequestError,
    TTSError,
)

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

log = logging.getLogger(__name__)

#: Status, ``type``, ``code``, by the first class that fits. Others are 503, without their message.
_ANSWERS: Final[tuple[tuple[type[TTSError], int, str, str], ...]] = (
    (RequestError, 400, "invalid_request_error", "invalid_request"),
    (NotFoundError, 404, "invalid_request_error", "not_found"),
    (ConflictError, 409, "invalid_request_error", "conflict"),
    (QueueFullError, 429, "rate_limit_error", QueueFullError.code),
    (AdmissionError, 503, "server_error", AdmissionError.code),
    (JobFailedError, 500, "server_error", "job_failed"),
)


def install_errors(app: FastAPI) -> None:
    """Have every `TTSError` that an endpoint raises answered."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    app.add_exception_handler(TTSError, answer)


def error_response(error: Exception) -> JSONResponse:
    """Return the answer to a request that ended in an error.

    A full lane is 429 and a deadline that cannot be met 503, both with ``Retry-After`` and, in the
    error object, ``estimate_s``. Where no wait would help, OpenAI's SDK is told not to try again.
    """
    found = next((answer for answer in _ANSWERS if isinstance(error, answer[0])), None)
    if found is None:
        # The message may hold addresses: it goes to the log, and only a word to the caller.
        log.warning("a request failed: %s", error)
        return _response(503, "server_error", "unavailable", "the service cannot be reached now")
    _, status, kind, code = found
    if isinstance(error, AdmissionError):
        response = _response(
            status, kind, error.code, str(error), estimate_s=_rounded(error.estimate_s)
        )
        if error.retry_after_s is None:
            response.headers["x-should-retry"] = "false"
        else:
            response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
        return response
    if isinstance(error, JobFailedError):
        return _response(status, kind, error.code, error.reason)
    param = error.field if isinstance(error, RequestError) else None
    return _response(status, kind, code, str(error), param=param)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _response(
    status: int, kind: str, code: str, message: str, *, param: str | None = None, **more: object
) -> JSONResponse:
    body = {"message": message, "type": kind, "param": param, "code": code, **more}
    return JSONResponse({"error": body}, status, headers={"Cache-Control": "no-store"})
