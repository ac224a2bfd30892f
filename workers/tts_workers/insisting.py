"""Calls stores until they answer: an outage must not cost the work that is done."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

from tts_tasks.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 0.5


class Insisting:
    """Calls a store until it answers; may be used by several threads at once."""

    def __init__(self, outage_s: float, give_up: Callable[[], bool] = lambda: False) -> None:
        """``outage_s``: how long an outage may last. ``give_up``: asked before each retry."""
        self._outage_s = outage_s
        self._give_up = give_up

    def __call__(self, call: Callable[[], T], /) -> T:
        """Return what the call returns; raises `UnavailableError` once it has given up."""
        give_up_s = time.monotonic() + self._outage_s
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                return call()
            except UnavailableError as error:
                if time.monotonic() + retry_s > give_up_s or self._give_up():
                    raise
                if retry_s < _LAST_RETRY_S:  # a long outage need not fill the log
                    logger.warning("%s; it is tried again", error)
                time.sleep(retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)
