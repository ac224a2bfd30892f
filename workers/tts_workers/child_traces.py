"""What a dead child leaves behind beside its words: how it exited, and what it wrote to stderr.

The child's Python logs to where its parent does, as before. Its file descriptor 2 alone, to which
C and C++ libraries, the interpreter's own fatal errors and helper processes write, leads through
its parent: that passes everything on to its own stderr and keeps the last lines.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from tts_workers.evidence import LINES_KEPT, cut, exit_fields

if TYPE_CHECKING:
    from tts_tasks.ledger.records import Evidence

_STDERR = 2
_PEER_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
#: Of a process's stderr so many lines are remembered; a fatal error is followed by a stack.
_LINES_REMEMBERED = 100
#: The first words of the interpreter's stacks: of a fatal error, and of a step that hangs.
_FATAL, _HANGS, _THREAD = "Fatal Python error", "Timeout (", "Thread 0x"
_CHUNK_BYTES = 65_536
_CHILDREN_REMEMBERED = 4
_ASK_AGAIN_S = 0.02


class _Stderr:
    """The parent's end of one child's file descriptor 2."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._lines: deque[str] = deque(maxlen=_LINES_REMEMBERED)
        self._rest = b""
        self._mutex = threading.Lock()

    def drain(self) -> bool:
        """Take in what is there, and pass it on; False at the end."""
        with self._mutex:
            while True:
                try:
                    data = self.connection.recv(_CHUNK_BYTES)
                except BlockingIOError:
                    return True
                except OSError:
                    return False
                if not data:
                    return False
                with contextlib.suppress(OSError):
                    os.write(_STDERR, data)
                *lines, self._rest = (self._rest + data).split(b"\n")
                self._rest = self._rest[-_CHUNK_BYTES:]
                self._lines.extend(_text(line) for line in lines if line.strip())

    def lines(self) -> list[str]:
        """Return the lines that say most: from a fatal error on, or the last."""
        self.drain()
        with self._mutex:
            lines = [*self._lines, *([_text(self._rest)] if self._rest.strip() else [])]
        start = max(0, len(lines) - LINES_KEPT)
        for number, line in enumerate(lines):
            if line.startswith(_FATAL):
                # what comes before it is often the reason: "terminate called after ..."
                start = max(0, number - 4)
            elif line.startswith((_HANGS, _THREAD)):
                start = number  # the main thread is the last one, and it is where engines speak
        return lines[start : start + LINES_KEPT]


class ChildTraces:
    """The parent's knowledge of the ends of its children."""

    def __init__(self, address: str) -> None:
        """``address``: an abstract one of this process's own, to be handed to `relay_stderr`."""
        self._exited: dict[int, int] = {}
        self._stderr: dict[int, _Stderr] = {}
        self._news = threading.Condition()
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(b"\0" + address.encode())
        self._server.listen(4)
        threading.Thread(target=self._accept, name="stderr-accept", daemon=True).start()

    def exited(self, pid: int, exit_code: int | None) -> None:
        """Learn from the pool how a child ended: it alone may wait for its processes."""
        with self._news:
            if exit_code is not None:
                self._exited[pid] = exit_code
            _keep_newest(self._exited)
            self._news.notify_all()

    def of(self, pid: int, within_s: float = 1.0) -> Evidence:
        """Return ``signal`` or ``exit_status``, and ``stderr``, as far as they are known.

        The pool says the status within a moment of the death, unless the event loop stands still;
        so the kernel is asked too, in a way that takes it from nobody.
        """
        give_up_s = time.monotonic() + within_s
        with self._news:
            while (exit_code := self._exited.get(pid, _exit_code_of(pid))) is None:
                if time.monotonic() >= give_up_s:
                    break
                self._news.wait(_ASK_AGAIN_S)
            stderr = self._stderr.get(pid)
        traces: Evidence = {} if exit_code is None else exit_fields(exit_code)
        lines = stderr.lines() if stderr is not None else []
        return traces | ({"stderr": lines} if lines else {})

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            credentials = connection.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size
            )
            pid, uid, _ = _PEER_CREDENTIALS.unpack(credentials)
            if uid != os.getuid():
                connection.close()  # abstract sockets have no file permissions
                continue
            stderr = _Stderr(connection)
            with self._news:
                self._stderr[pid] = stderr
                _keep_newest(self._stderr)
            threading.Thread(
                target=_pass_on, args=(stderr,), name=f"stderr-{pid}", daemon=True
            ).start()


def stderr_address(link_address: str) -> str:
    """Return where the parent with this link takes its child's stderr."""
    return f"{link_address}-stderr"


def relay_stderr(address: str) -> None:
    """Have this process's file descriptor 2 lead through its parent, and Python's logs beside it.

    The interpreter's fatal errors are written there with their stack.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(b"\0" + address.encode())
    direct = io.TextIOWrapper(
        os.fdopen(os.dup(_STDERR), "wb", 0), errors="backslashreplace", write_through=True
    )
    for log in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(log, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and _writes_to_stderr(handler):
                handler.setStream(direct)
    if sys.stderr is sys.__stderr__:
        sys.stderr = direct
    setattr(sys, "__stderr__", direct)  # noqa: B010 - final for mypy; Celery's handlers get it
    os.dup2(connection.fileno(), _STDERR)
    connection.close()
    faulthandler.enable(_STDERR, all_threads=False)


def write_stacks_later(in_s: float) -> None:
    """Have the stacks of this process written to stderr in so many seconds; 0: not any more.

    Needs no interpreter that is free: a thread of C's own does it.
    """
    if in_s > 0:
        faulthandler.dump_traceback_later(in_s, file=_STDERR)
    else:
        faulthandler.cancel_dump_traceback_later()


def _writes_to_stderr(handler: logging.StreamHandler[io.TextIOBase]) -> bool:
    try:
        return handler.stream.fileno() == _STDERR
    except (AttributeError, OSError, ValueError):
        return False


def _pass_on(stderr: _Stderr) -> None:
    poll = select.poll()
    poll.register(stderr.connection, select.POLLIN)
    while True:
        poll.poll()
        if not stderr.drain():
            return


def _exit_code_of(pid: int) -> int | None:
    try:
        status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return None  # the pool had it, and has not said so yet
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status


def _keep_newest(children: dict[int, Any]) -> None:
    for pid in list(children)[:-_CHILDREN_REMEMBERED]:
        del children[pid]


def _text(line: bytes) -> str:
    return cut(line.decode(errors="backslashreplace").rstrip())
