"""The worker's end of the espeak-ng helper: start it, ask it with a deadline, notice its death."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tts_tasks.errors import EngineCrashedError, EngineError, EngineLoadError
from tts_workers.engines import espeak_helper

#: Run as a file: as a module (-m) it would import its packages, and Celery with them.
_HELPER_FILE: Final = espeak_helper.__file__
_STDERR_TAIL_BYTES: Final = 2000
#: A helper that has closed its pipe is about to exit: its own exit code says more than SIGKILL.
_EXIT_GRACE_S: Final = 1.0


class HelperProcess:
    """One helper process, restarted by the next `ask` after it has died, hung or been killed.

    The answer to an interrupted question must never be taken for the answer to the next one: so
    whatever leaves `ask` early, be it a signal handler's exception, kills the helper.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr = tempfile.TemporaryFile(mode="a+b")  # noqa: SIM115 - lives as long as we do
        self._closed = False  #: set before the helper is killed, looked at after one was started

    @property
    def pid(self) -> int | None:
        """Process id of the running helper, None when there is none."""
        return None if self._process is None else self._process.pid

    def ask(self, request: dict[str, Any], timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """Return header and body of the helper's answer.

        Raises `EngineLoadError` when the helper cannot be started, `EngineCrashedError` when it
        dies or stays silent for ``timeout_s``, `EngineError` when espeak-ng refuses, and when
        another thread calls `close` meanwhile.
        """
        try:
            return self._ask(request, timeout_s)
        except (EngineError, OSError, ValueError) as error:
            if self._closed:
                self.kill()  # it may have been started just now
                raise EngineError("espeak was closed while it was speaking") from error
            raise

    def _ask(self, request: dict[str, Any], timeout_s: float) -> tuple[dict[str, Any], bytes]:
        process = self._process or self._start()
        if self._closed:
            raise EngineError("it is closed")
        self._stderr.truncate(0)  # what it holds at a death belongs to this utterance
        deadline = time.monotonic() + timeout_s
        try:
            header, body = _exchange(process, espeak_helper.encode_frame(request), deadline)
        except TimeoutError:
            self.kill()
            raise EngineCrashedError(
                f"the espeak-ng helper (pid {process.pid}) hung: no answer within {timeout_s:g} s;"
                f" it was killed and starts again with the next utterance{self._last_words()}"
            ) from None
        except (OSError, EOFError, ValueError) as error:
            code = self.kill(grace_s=_EXIT_GRACE_S)
            raise EngineCrashedError(
                f"the espeak-ng helper (pid {process.pid}) died ({_death(code)}); it starts again"
                f" with the next utterance{self._last_words()}"
            ) from error
        except BaseException:
            self.kill()
            raise
        if "error" in header:
            raise EngineError(f"espeak-ng: {header['error']}")
        return header, body

    def close(self) -> None:
        """Kill the helper and free what this object holds; not usable afterwards."""
        self._closed = True
        self.kill()
        self._stderr.close()

    def kill(self, grace_s: float = 0.0) -> int | None:
        """End the helper and its renderer after ``grace_s`` to exit; return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            code = process.wait(grace_s)
        except subprocess.TimeoutExpired:
            # It leads a session of its own: the group is the helper and its renderer.
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def _start(self) -> subprocess.Popen[bytes]:
        search_path = [entry for entry in sys.path if entry and Path(entry).is_absolute()]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(search_path),
            "LC_ALL": "C.UTF-8",  # espeak-ng calls setlocale
        }
        try:
            self._process = subprocess.Popen(
                # -P: the helper searches where the worker does, and not beside its own file.
                [sys.executable, "-P", _HELPER_FILE, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                env=environment,
                # Ctrl-C in the worker's terminal is for the worker to act on, not for the helper.
                start_new_session=True,
            )
        except OSError as error:
            raise EngineLoadError(f"the espeak-ng helper cannot be started: {error}") from error
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
        return self._process

    def _last_words(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_TAIL_BYTES))
        words = self._stderr.read().decode(errors="replace").strip()
        return f". Its last words: {words}" if words else ""


def _exchange(
    process: subprocess.Popen[bytes], frame: bytes, deadline: float
) -> tuple[dict[str, Any], bytes]:
    if process.stdin is None or process.stdout is None:
        raise EOFError("the helper has no pipes")
    requests_fd, answers_fd = process.stdin.fileno(), process.stdout.fileno()
    view = memoryview(frame)
    while view:
        _wait(requests_fd, select.POLLOUT, deadline)
        view = view[os.write(requests_fd, view) :]
    header_bytes, body_bytes = _read_lengths(answers_fd, deadline)
    header = json.loads(_read_exactly(answers_fd, header_bytes, deadline))
    if not isinstance(header, dict):
        raise ValueError("the answer's header is not an object")  # noqa: TRY004
    return header, _read_exactly(answers_fd, body_bytes, deadline)


def _read_lengths(fd: int, deadline: float) -> tuple[int, int]:
    header_bytes, body_bytes = espeak_helper.FRAME.unpack(
        _read_exactly(fd, espeak_helper.FRAME.size, deadline)
    )
    return header_bytes, body_bytes


def _read_exactly(fd: int, count: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < count:
        _wait(fd, select.POLLIN, deadline)
        chunk = os.read(fd, min(count - len(data), 1 << 20))
        if not chunk:
            raise EOFError("the helper closed its end")
        data += chunk
    return bytes(data)


def _wait(fd: int, event: int, deadline: float) -> None:
    poller = select.poll()
    poller.register(fd, event)
    if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}, {signal.strsignal(-code)}"
    return f"exit code {code}"
