"""A TCP proxy on loopback that can do to connections what networks do to them.

It stands between a program and a server::

    with TcpProxy("127.0.0.1", 6379) as proxy:
        client = redis.Redis(port=proxy.port)
        proxy.half_open()

It runs in a thread of its own; its methods may be called from any thread and have taken effect
when they return.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

LOOPBACK = "127.0.0.1"
_CHUNK_BYTES = 65536
#: With it, `close` sends RST instead of FIN: socket(7), SO_LINGER.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class _Pair:
    """One connection: the client's socket, the server's, and the two tasks that copy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.tasks: list[asyncio.Task[None]] = []

    def close(self, *, reset: bool) -> None:
        """End both sides, by RST or by FIN."""
        self._stop_copying()
        for side in (self.client, self.server):
            _close(side, reset=reset)

    def lose_server(self) -> None:
        """Close the server's side alone; the client's stays open, and nobody reads it."""
        self._stop_copying()
        _close(self.server, reset=True)

    def _stop_copying(self) -> None:
        for task in self.tasks:
            task.cancel()
            for side in (self.client, self.server):
                # now, not when the task gets to it: the number may be another socket's by then
                task.get_loop().remove_reader(side)
                task.get_loop().remove_writer(side)


class TcpProxy:
    """Forwards TCP connections to one server, until it is told to misbehave."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._pairs: set[_Pair] = set()
        self._lost: list[_Pair] = []  #: half-open ones: kept, so that their sockets stay open
        self._loop = asyncio.new_event_loop()
        self._to_server, self._to_client = asyncio.Event(), asyncio.Event()
        self._listener = socket.create_server((LOOPBACK, 0))
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])  #: where it listens, on loopback
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self.forward()

    @classmethod
    def to(cls, url: str) -> Self:
        """Return a proxy to the server of a URL."""
        parts = urlsplit(url)
        return cls(parts.hostname or LOOPBACK, parts.port or 6379)

    def url(self, url: str) -> str:
        """Return the URL with the proxy's address in the place of the server's."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}{LOOPBACK}:{self.port}"))

    @property
    def connections(self) -> int:
        """How many connections it forwards now; half-open ones do not count."""
        return len(self._pairs)

    # -- what it does to connections ----------------------------------------------------------

    def forward(self) -> None:
        """Let everything pass, also what was held; half-open connections stay dead."""
        self._do(self._set_gates, True, True)

    def stall(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Hold the bytes in one direction or in both; connections stay open, new ones too."""
        self._do(self._set_gates, not to_server, not to_client)

    def reset(self) -> None:
        """End every connection on both sides by RST; new ones are forwarded."""
        self._do(self._end, lambda pair: pair.close(reset=True))

    def half_open(self) -> int:
        """Close the server's side of every connection and leave the client's open and silent.

        Returns how many there were. New connections are forwarded.
        """
        lost = list(self._pairs)
        self._do(self._end, self._lose)
        return len(lost)

    def close(self) -> None:
        """End everything."""
        if self._loop.is_closed():
            return
        self._do(self._end, lambda pair: pair.close(reset=False))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for pair in self._lost:
            pair.client.close()
        self._listener.close()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- in its own thread --------------------------------------------------------------------

    def _do(self, action: Callable[..., None], *args: object) -> None:
        done = threading.Event()

        def act() -> None:
            try:
                action(*args)
            finally:
                done.set()

        self._loop.call_soon_threadsafe(act)
        done.wait()

    def _set_gates(self, to_server: bool, to_client: bool) -> None:
        for gate, is_open in ((self._to_server, to_server), (self._to_client, to_client)):
            (gate.set if is_open else gate.clear)()

    def _end(self, how: Callable[[_Pair], None]) -> None:
        pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            how(pair)

    def _lose(self, pair: _Pair) -> None:
        pair.lose_server()
        self._lost.append(pair)

    def _run(self) -> None:
        self._loop.create_task(self._accept())
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    async def _accept(self) -> None:
        connecting: set[asyncio.Task[None]] = set()
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            task = self._loop.create_task(self._connect(client))
            connecting.add(task)  # the loop itself keeps only weak references
            task.add_done_callback(connecting.discard)

    async def _connect(self, client: socket.socket) -> None:
        server = socket.socket()
        for side in (client, server):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(server, self._upstream)
        except OSError:
            _close(client, reset=True)  # as a server does that is not there
            _close(server, reset=True)
            return
        pair = _Pair(client, server)
        self._pairs.add(pair)
        pair.tasks = [
            self._loop.create_task(self._copy(pair, client, server, self._to_server)),
            self._loop.create_task(self._copy(pair, server, client, self._to_client)),
        ]

    async def _copy(
        self, pair: _Pair, source: socket.socket, target: socket.socket, gate: asyncio.Event
    ) -> None:
        try:
            while data := await self._loop.sock_recv(source, _CHUNK_BYTES):
                await gate.wait()
                await self._loop.sock_sendall(target, data)
            await gate.wait()
        except OSError:
            pass
        self._pairs.discard(pair)
        pair.close(reset=False)


def _close(side: socket.socket, *, reset: bool) -> None:
    with contextlib.suppress(OSError):
        if reset:
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    side.close()
