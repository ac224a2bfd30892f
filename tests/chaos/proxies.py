"""Paths to Redis through TCP proxies on loopback: for machines on which we are not root."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.chaos.network import Cut
from tests.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import Sequence


class ProxyNetwork:
    """One `TcpProxy` a worker.

    A direction that is cut holds its bytes. When it heals they arrive: TCP sends lost ones again.
    """

    name = "proxy"

    def __init__(self, workers: Sequence[str]) -> None:
        self._workers = tuple(workers)
        self._proxies: dict[str, TcpProxy] = {}
        self._redis_url = ""

    def expose(self, redis_url: str) -> None:
        if self._redis_url and urlsplit(redis_url).port != urlsplit(self._redis_url).port:
            raise RuntimeError("Redis came back on another port: the proxies lead nowhere")
        self._redis_url = redis_url
        for worker in self._workers:
            self._proxies.setdefault(worker, TcpProxy.to(redis_url))

    def url(self, worker: str) -> str:
        return self._proxies[worker].url(self._redis_url)

    def command(self, worker: str) -> list[str]:
        return []

    def cut(self, worker: str, how: Cut) -> str:
        proxy = self._proxies[worker]
        if how is Cut.REFUSED:
            # A proxy that accepts cannot refuse: connections are reset, then nothing passes.
            proxy.stall()
            proxy.reset()
            return "connections reset by the proxy, then silence"
        proxy.stall(to_server=how is not Cut.FROM_STORE, to_client=how is not Cut.TO_STORE)
        return "bytes held by the proxy"

    def half_open(self, worker: str) -> str:
        return f"{self._proxies[worker].half_open()} connections, held open by the proxy"

    def heal(self, worker: str) -> None:
        """Forward again; connections that went half-open have lost their server for good."""
        self._proxies[worker].forward()

    def owns(self, worker: str, address: str) -> bool:
        _, _, port = address.rpartition(":")
        return any(
            str(pair.server.getsockname()[1]) == port
            for pair in list(self._proxies[worker]._pairs)
            if pair.server.fileno() >= 0
        )

    def close(self) -> None:
        for proxy in self._proxies.values():
            proxy.close()
