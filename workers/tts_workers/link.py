"""The line between a worker's parent (agent, consumer) and its child (engine).

A Unix socket of JSON lines. The child tells when its engine has spoken; the parent tells under
which lease it leads. And the kernel closes it when the child dies, however it dies: the parent
knows at once, without polling and without the store. What a child has in hand it does not say: it
writes that on a slate, which it sends with its first byte, and the parent looks.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Protocol

from tts_workers.slate import Slate, SlateView

if TYPE_CHECKING:
    from collections.abc import Callable

ENVIRONMENT_VARIABLE = "TTS_WORKER_LINK"

_PEER_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


def new_address() -> str:
    """Return an address of this process's own.

    It is an abstract one: no file is left behind, whatever kills this process.
    """
    return f"tts-worker-{os.getpid()}-{secrets.token_hex(8)}"


def nonce_prefix(child: int) -> str:
    """Return how the nonces of a child's claims begin, by its pid: its successor's do not."""
    return f"{child}."


class LinkListener(Protocol):
    """What the parent does with what it hears."""

    def child_said(self, pid: int, message: dict[str, Any]) -> None:
        """Take a message in."""
        ...

    def child_lost(self, pid: int) -> None:
        """Learn that the child is gone."""
        ...


class ParentLink:
    """The parent's end: listens, and reads each child in a thread of its own."""

    def __init__(self, listener: LinkListener, address: str = "") -> None:
        self._listener = listener
        self._children: dict[int, socket.socket] = {}
        self._slates: dict[int, SlateView] = {}
        self._last_said: bytes | None = None
        self._news = threading.Event()
        self._mutex = threading.Lock()
        self.address = address or new_address()
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(b"\0" + self.address.encode())
        self._server.listen(4)
        for work in (self._accept, self._tell):
            threading.Thread(target=work, name=f"link{work.__name__}", daemon=True).start()

    def say(self, message: dict[str, Any]) -> None:
        """Tell the children something; only the last message counts.

        Returns at once and performs no I/O: it is called from the thread that ends leaderships.
        """
        self._last_said = json.dumps(message).encode() + b"\n"
        self._news.set()

    def look(self) -> None:
        """Tell the listener what has been shown since the last look; performs no I/O.

        For one thread at a time, also while the listener is told that a child is lost.
        """
        for pid, slate in list(self._slates.items()):
            for line in (slate.read() or b"").splitlines():
                self._listener.child_said(pid, json.loads(line))

    def close(self) -> None:
        """Stop listening and hang up."""
        self._server.close()
        with self._mutex:
            for child in self._children.values():
                child.close()

    @staticmethod
    def _send(child: socket.socket, line: bytes) -> None:
        try:
            child.sendall(line)
        except OSError:
            return  # its reader will see the end of the connection

    def _tell(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            with self._mutex:
                children = list(self._children.values())
            for child in children:
                if self._last_said is not None:
                    self._send(child, self._last_said)

    def _accept(self) -> None:
        while True:
            try:
                child, _ = self._server.accept()
            except OSError:
                return
            credentials = child.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size
            )
            pid, uid, _ = _PEER_CREDENTIALS.unpack(credentials)
            if uid != os.getuid():
                child.close()  # abstract sockets have no file permissions
                continue
            with self._mutex:
                self._children[pid] = child
            self._news.set()  # it hears what was said before it came
            threading.Thread(
                target=self._read, args=(pid, child), name=f"link-{pid}", daemon=True
            ).start()

    def _read(self, pid: int, child: socket.socket) -> None:
        slate = _received_slate(child)
        if slate is not None:
            self._slates[pid] = slate
        for message in _messages(child):
            self._listener.child_said(pid, message)
        with self._mutex:
            self._children.pop(pid, None)
        child.close()
        self._listener.child_lost(pid)
        self._slates.pop(pid, None)


class ChildLink:
    """The child's end."""

    def __init__(
        self,
        address: str,
        on_message: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_end``: called when the parent is gone. Celery ends the child, but lets it finish."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(b"\0" + address.encode())
        self._slate = Slate()
        socket.send_fds(self._socket, [b"\n"], [self._slate.fd])
        os.close(self._slate.fd)
        self._shown: dict[str, tuple[dict[str, Any], bytes]] = {}  #: by the kind of message
        self._on_message = on_message
        self._on_end = on_end
        self.pid = os.getpid()  #: by which the parent knows this child
        self._mutex = threading.Lock()
        threading.Thread(target=self._read, name="link-parent", daemon=True).start()

    def show(self, message: dict[str, Any], *, later: bool = False) -> None:
        """Let the parent see something when it looks; of each kind of message the newest counts.

        A job puts away the segment of the one before it. ``later``: with what is shown next.
        """
        kind = message["event"]
        with self._mutex:
            if kind == "job":
                self._shown.pop("segment", None)
            if kind not in self._shown or self._shown[kind][0] != message:  # budgets are alike
                self._shown[kind] = message, json.dumps(message).encode() + b"\n"
            if not later:
                self._slate.write(b"".join([line for _, line in self._shown.values()]))

    def say(self, message: dict[str, Any]) -> None:
        """Tell the parent something; a parent that is gone is none of the child's business."""
        line = json.dumps(message).encode() + b"\n"
        with self._mutex:
            try:
                self._socket.sendall(line)
            except OSError:
                return  # Celery ends the child together with its parent

    def _read(self) -> None:
        for message in _messages(self._socket):
            self._on_message(message)
        self._on_end()


def _received_slate(child: socket.socket) -> SlateView | None:
    """Return what comes with a child's first byte; None from one that has gone before that."""
    try:
        _, descriptors, _, _ = socket.recv_fds(child, 1, 1)
    except OSError:
        return None
    for descriptor in descriptors:
        try:
            return SlateView(descriptor)
        finally:
            os.close(descriptor)
    return None


def _messages(connection: socket.socket) -> Any:
    try:
        with connection.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, ValueError):
        return
