"""What stands before two speech servers and sends requests to one: nginx, or a plain TCP switch."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Protocol

from ttsctl.supervisor.redis_server import free_port

if TYPE_CHECKING:
    from pathlib import Path

_CONFIGURATION = """\
worker_processes 1;
{user}
pid {directory}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  include {directory}/upstream.conf;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://speech; }}
  }}
}}
"""


class FrontDoor(Protocol):
    """Sends what comes to ``port`` to one server at a time."""

    name: str
    port: int

    def switch(self, port: int) -> None:
        """Send new requests to another port, and return when that is so."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def open_front_door(directory: Path, port: int) -> FrontDoor:
    """Return nginx where it is installed, else a plain TCP switch; it leads to ``port``."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    return Nginx(program, directory, port) if program else TcpSwitch(port)


class Nginx:
    """The real nginx, with one server in its upstream, as the article's script rewrites it."""

    name = "nginx"

    def __init__(self, program: str, directory: Path, port: int) -> None:
        directory.mkdir()
        self.port = free_port()
        self._directory = directory
        user = "user root;" if os.geteuid() == 0 else ""  # the benchmark's folder is closed
        configuration = _CONFIGURATION.format(directory=directory, port=self.port, user=user)
        (directory / "nginx.conf").write_text(configuration)
        self._command = [program, "-p", str(directory), "-c", str(directory / "nginx.conf")]
        self._command += ["-e", str(directory / "error.log"), "-g", "daemon off;"]
        self._point(port)
        self._process = subprocess.Popen(self._command)

    def _point(self, port: int) -> None:
        upstream = f"upstream speech {{ server 127.0.0.1:{port}; }}\n"
        (self._directory / "upstream.conf").write_text(upstream)

    def switch(self, port: int) -> None:
        """Rewrite the upstream and reload."""
        self._point(port)
        subprocess.run([*self._command[:-2], "-s", "reload"], check=True)

    def close(self) -> None:
        """Stop it, with the requests that hang."""
        self._process.terminate()
        self._process.wait()


class TcpSwitch:
    """Forwards each new connection to the port that counts at that moment."""

    name = "a plain TCP switch (nginx is not installed)"

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def switch(self, port: int) -> None:
        """Send new connections to another port."""
        self._target = port

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except ConnectionError:
                client.close()
                continue
            except OSError:
                return
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
