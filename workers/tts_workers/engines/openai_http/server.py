"""A speech server that the worker's child has started, under its guardian."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from tts_tasks.errors import EngineLoadError
from tts_workers.engines.openai_http import guardian

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

_LINES_KEPT: Final = 20
_LONGEST_LINE_BYTES: Final = 2000
#: The guardian asks for 3 s, then kills.
_ENDS_WITHIN_S: Final = 10.0


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """A server's processes: they end with this one, whatever ends it.

    What the server writes goes to the log, level INFO; ``hide`` takes secrets out of it.
    """

    def __init__(self, arguments: Sequence[str], hide: Callable[[str], str]) -> None:
        """Start it; raises `EngineLoadError` where that cannot be done."""
        self._hide = hide
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", guardian.__file__, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # what is ours, such as the URL of Redis, is no business of the server's
                env={k: v for k, v in os.environ.items() if not k.startswith("TTS_")},
                # Ctrl-C in the worker's terminal is for the worker to act on
                start_new_session=True,
            )
        except OSError as error:
            raise EngineLoadError(f"the speech server cannot be started: {error}") from error
        self._reader = threading.Thread(target=self._read, name="speech-server-log", daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def guardian_pid(self) -> int:
        """Process id of the one that all its processes descend from."""
        return self._process.pid

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end; False if it goes on."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        """Return the end of what it wrote, to be put behind a message; empty: nothing."""
        if not self.is_running:
            self._reader.join(1.0)
        words = " / ".join(list(self._lines)[-5:])
        return f". Its last words: {words}" if words else ""

    def close(self, *, at_once: bool = False) -> None:
        """End it, and all that it has started; ``at_once``: without asking it first."""
        pipe = self._process.stdin
        try:
            if pipe is not None and not pipe.closed:
                if at_once:
                    pipe.write(b"now\n")
                pipe.close()
        except OSError:
            pass  # the guardian has ended
        if not self.ends_within(_ENDS_WITHIN_S):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(1.0)

    def _read(self) -> None:
        output = self._process.stdout
        if output is None:
            return
        with output:
            while line := output.readline(_LONGEST_LINE_BYTES):
                if words := self._hide(line.decode(errors="replace").strip()):
                    self._lines.append(words)
                    logger.info("speech server: %s", words)
