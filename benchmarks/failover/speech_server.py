"""A speech server as one writes it without a queue: ``POST /speak/JOB``, ``GET /health``.

``python -m benchmarks.failover.speech_server NAME DIRECTORY PORT``. One engine, one job at a time;
the health page is answered beside it, as web frameworks do.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.failover.journal import Journal
from benchmarks.failover.speaker import Speaker


class Server(ThreadingHTTPServer):
    """Holds the engine that its handlers share."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, name: str, directory: Path, port: int) -> None:
        self.name = name
        self.directory = directory
        self.journal = Journal(directory / "journal")
        self.speaker = Speaker()
        self.mutex = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    def speak(self, job: str, text: str) -> None:
        """Speak one job to a file of its name; others wait."""
        with self.mutex:
            self.journal.write("begun", self.name, job=job)
            self.speaker.speak_to(self.directory / "sounds" / f"{job}.wav", text)
            self.journal.write("done", self.name, job=job)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        """Answer the health check."""
        self._answer(b"ok")

    def do_POST(self) -> None:
        """Speak."""
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.speak(self.path.rsplit("/", maxsplit=1)[-1], text)
        self._answer(b"done")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing about each request."""


if __name__ == "__main__":
    server = Server(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    server.journal.write("ready", server.name)
    server.serve_forever()
