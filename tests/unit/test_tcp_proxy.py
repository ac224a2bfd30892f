"""The proxy does to connections what it says."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

SILENCE_S = 0.3


class Echo:
    """A server that says what it hears, and counts who is connected."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.open = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                self.open += 1
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with suppress(OSError):
            while data := peer.recv(65536):
                peer.sendall(data)
        self.open -= 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server."""
    echo = Echo()
    yield echo
    echo.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    """A proxy to it."""
    with TcpProxy("127.0.0.1", echo.port) as proxy:
        yield proxy


def connect(proxy: TcpProxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    client.sendall(b"hello")
    assert client.recv(100) == b"hello"
    return client


def is_silent(client: socket.socket) -> bool:
    client.settimeout(SILENCE_S)
    try:
        client.recv(100)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)
    return False


@pytest.mark.parametrize("directions", [{}, {"to_client": False}, {"to_server": False}])
def test_what_was_stalled_arrives_later(proxy: TcpProxy, directions: dict[str, bool]) -> None:
    """Either direction or both; nothing is lost."""
    with connect(proxy) as client:
        proxy.stall(**directions)
        client.sendall(b"held")
        assert is_silent(client)
        proxy.forward()
        assert client.recv(100) == b"held"


def test_a_large_transfer_passes(proxy: TcpProxy) -> None:
    """Byte for byte."""
    data = bytes(range(256)) * 4096
    with connect(proxy) as client:
        threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
        got = b""
        while len(got) < len(data):
            got += client.recv(65536)
    assert got == data


def test_a_reset_ends_both_sides(proxy: TcpProxy, echo: Echo) -> None:
    """By RST, and new connections are forwarded."""
    with connect(proxy) as client:
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    eventually(lambda: echo.open == 0)
    connect(proxy).close()


def test_a_half_open_connection_is_silent_and_the_server_has_lost_it(
    proxy: TcpProxy, echo: Echo
) -> None:
    """Its client hears neither data nor an end; new connections are forwarded."""
    with connect(proxy) as client:
        assert proxy.half_open() == 1
        eventually(lambda: echo.open == 0)
        client.sendall(b"anybody there?")
        assert is_silent(client)
        assert proxy.connections == 0
        connect(proxy).close()


def test_an_end_is_forwarded(proxy: TcpProxy, echo: Echo) -> None:
    """A client that closes is closed at the server."""
    connect(proxy).close()
    eventually(lambda: echo.open == 0)
    assert proxy.connections == 0


def test_a_server_that_is_away_refuses() -> None:
    """The client sees its connection end, as it does where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with (
        TcpProxy("127.0.0.1", port) as proxy,
        pytest.raises(ConnectionResetError),  # it may end while it is still being made
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client,
    ):
        client.recv(100)


def test_the_url_keeps_user_and_database(proxy: TcpProxy) -> None:
    """Only the address is exchanged."""
    assert proxy.url("redis://:pw@example:1/3") == f"redis://:pw@127.0.0.1:{proxy.port}/3"
