"""Paths to Redis through network namespaces: one a worker, joined by veth to a bridge. Needs root.

Packets are dropped inside the worker's namespace, so nothing of this machine's own network changes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psutil
import redis

from tests.chaos.network import Cut, NetworkError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PREFIX = "ttschaos"
_PORTS_IN_ONE_RULE = 15  # iptables(8), multiport
_RST = ["--tcp-flags", "RST", "RST"]
_PROBE = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2).close()
"""


class NamespaceNetwork:
    """A bridge on this machine, and a namespace with one address a worker."""

    name = "netns"

    def __init__(self, workers: Sequence[str]) -> None:
        if os.geteuid() != 0:
            raise NetworkError("network namespaces need root")
        self._own = f"{_PREFIX}-{os.getpid()}"
        self._bridge = f"tc{os.getpid()}"
        self._addresses: dict[str, str] = {}
        self._redis_url = ""
        self._remove_leftovers()
        try:
            self._make(workers)
            self._probe(workers[0])
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", "") or error
            self.close()
            raise NetworkError(f"no network namespaces here: {detail}") from error

    def expose(self, redis_url: str) -> None:
        self._redis_url = redis_url
        with redis.Redis.from_url(redis_url) as client:
            client.config_set("bind", f"127.0.0.1 {self._gateway}")

    def url(self, worker: str) -> str:
        parts = urlsplit(self._redis_url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}{self._gateway}:{parts.port}"))

    def command(self, worker: str) -> list[str]:
        return ["ip", "netns", "exec", self._namespace(worker)]

    def cut(self, worker: str, how: Cut) -> str:
        match how:
            case Cut.BOTH:
                _run("ip", "link", "set", self._link(worker), "down")
                return "link down"
            case Cut.REFUSED:
                for chain in ("INPUT", "OUTPUT"):
                    rule = ["-p", "tcp", "!", *_RST, "-j", "REJECT", "--reject-with", "tcp-reset"]
                    self._iptables(worker, "-A", chain, *rule)
                return "iptables REJECT with RST, both ways"
            case _:
                chain = "OUTPUT" if how is Cut.TO_STORE else "INPUT"
                self._iptables(worker, "-A", chain, "-p", "tcp", "-j", "DROP")
                return f"iptables DROP on {chain}"

    def half_open(self, worker: str) -> str:
        """Drop the packets of the connections that Redis has from this worker now, both ways."""
        with redis.Redis.from_url(self._redis_url, decode_responses=True) as client:
            listed = [c["addr"] for c in client.client_list() if self.owns(worker, c["addr"])]
        ports = [address.rpartition(":")[2] for address in listed]
        for start in range(0, len(ports), _PORTS_IN_ONE_RULE):
            some = ",".join(ports[start : start + _PORTS_IN_ONE_RULE])
            for chain, side in (("OUTPUT", "--sports"), ("INPUT", "--dports")):
                match = ["-p", "tcp", "-m", "multiport", side, some]
                self._iptables(worker, "-A", chain, *match, "-j", "DROP")
        return f"iptables DROP of {len(ports)} connections"

    def heal(self, worker: str) -> None:
        _run("ip", "link", "set", self._link(worker), "up")
        self._iptables(worker, "-F")

    def owns(self, worker: str, address: str) -> bool:
        return address.rpartition(":")[0] == self._addresses[worker]

    def close(self) -> None:
        for worker in self._addresses:
            _run("ip", "link", "del", self._link(worker), check=False)
            _run("ip", "netns", "del", self._namespace(worker), check=False)
        _run("ip", "link", "del", self._bridge, check=False)

    def _make(self, workers: Sequence[str]) -> None:
        net = _free_net()
        self._gateway = f"{net}.1"
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{self._gateway}/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        for number, worker in enumerate(workers, start=11):
            self._addresses[worker] = f"{net}.{number}"
            namespace, link = self._namespace(worker), self._link(worker)
            inside = ["ip", "-n", namespace]
            _run("ip", "netns", "add", namespace)
            peer = ["peer", "name", "eth0", "netns", namespace]
            _run("ip", "link", "add", link, "type", "veth", *peer)
            _run("ip", "link", "set", link, "master", self._bridge, "up")
            _run(*inside, "addr", "add", f"{self._addresses[worker]}/24", "dev", "eth0")
            _run(*inside, "link", "set", "lo", "up")
            _run(*inside, "link", "set", "eth0", "up")
            self._iptables(worker, "-L", "-n")  # or we learn too late that there is none

    def _probe(self, worker: str) -> None:
        """Connect once: a firewall of this machine's may be in the way."""
        import socket

        with socket.create_server((self._gateway, 0)) as server:
            port = str(server.getsockname()[1])
            command = [*self.command(worker), sys.executable, "-I", "-S", "-c", _PROBE]
            _run(*command, self._gateway, port)

    def _iptables(self, worker: str, *arguments: str) -> None:
        _run(*self.command(worker), "iptables", "-w", *arguments)

    def _namespace(self, worker: str) -> str:
        return f"{self._own}-{worker}"

    def _link(self, worker: str) -> str:
        return f"{self._bridge}{worker}"

    @staticmethod
    def _remove_leftovers() -> None:
        """Remove what runs left that were killed: their names hold a pid that is gone."""
        for line in _run("ip", "netns", "list").splitlines():
            name = line.split()[0]
            prefix, _, rest = name.partition("-")
            pid = rest.partition("-")[0]
            if prefix == _PREFIX and pid.isdigit() and not psutil.pid_exists(int(pid)):
                _run("ip", "netns", "del", name, check=False)
                _run("ip", "link", "del", f"tc{pid}", check=False)


def _free_net() -> str:
    """Return the first three numbers of a private /24 that no route of this machine leads to."""
    routes = _run("ip", "route", "show", "table", "all")
    for number in range(1, 255):
        if f"10.213.{number}." not in routes:
            return f"10.213.{number}"
    raise OSError("no private network is free")


def _run(*command: str, check: bool = True) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(
        list(command),
        check=check,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PATH": path},
    )
    return done.stdout
