"""A client of a baseline, as a process: ``python -m benchmarks.dispatch.sender MODULE``."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks.rooms import peak_rss_bytes
from benchmarks.sending import paced_sends
from benchmarks.talk import serve
from tts_tasks.clock import boottime_s

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Send what is asked for."""
    send: Callable[[str], object] = import_module(sys.argv[1]).sender()

    def backlog(jobs: int, text: str) -> dict[str, float]:
        """Send as fast as it goes; returns when that began and ended, and this process's memory."""
        before_bytes = peak_rss_bytes(os.getpid())
        began_s = boottime_s()
        for _ in range(jobs):
            send(text)
        return {
            "began_s": began_s,
            "ended_s": boottime_s(),
            "rss_before_bytes": before_bytes,
            "rss_peak_bytes": peak_rss_bytes(os.getpid()),
        }

    def stream(jobs: int, every_s: float, seed: int, text: str) -> list[float]:
        """Send at random moments; returns when each was begun to be sent."""
        return paced_sends(jobs, every_s, seed, lambda _: send(text))

    serve({"backlog": backlog, "stream": stream})


if __name__ == "__main__":
    main()
