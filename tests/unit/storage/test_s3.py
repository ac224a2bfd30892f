"""S3: what it needs before it is opened, and its answer that is neither yes nor no."""

from __future__ import annotations

import builtins
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks.errors import ConfigurationError
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_s3_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where obstore is not installed the message says what to install."""
    real_import = builtins.__import__

    def without_obstore(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "obstore":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **options)

    monkeypatch.delitem(sys.modules, "tts_tasks.storage.s3", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_obstore)
    with pytest.raises(ConfigurationError, match=r"pip install 'tts-tasks\[s3\]'"):
        open_storage("s3://bucket/prefix")


def test_s3_without_tls_is_for_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http goes to this machine, or elsewhere only where the operator says so."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio.internal:9000")
    with pytest.raises(ConfigurationError, match="AWS_ALLOW_HTTP=true"):
        open_storage("s3://bucket")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    open_storage("s3://bucket")
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    for endpoint in ("http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        open_storage("s3://bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(ConfigurationError, match="is no http"):
        open_storage("s3://bucket")


def test_a_local_s3_needs_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys a server on this machine is refused before any metadata address is asked."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=r"needs AWS_SECRET_ACCESS_KEY$"):
        open_storage("s3://bucket")


class _ConflictFirst(BaseHTTPRequestHandler):
    """S3's answer to a conditional write that met another one: 409, then 200."""

    puts = 0

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).puts += 1
        assert self.headers["If-None-Match"] == "*"
        self._answer(409 if self.puts == 1 else 200)

    def do_HEAD(self) -> None:
        self._answer(404)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def conflicting_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve `_ConflictFirst` on loopback."""
    _ConflictFirst.puts = 0
    server = HTTPServer(("127.0.0.1", 0), _ConflictFirst)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield
    server.shutdown()
    thread.join(30)
    server.server_close()


@pytest.mark.usefixtures("conflicting_s3")
def test_a_409_of_s3_without_an_object_is_tried_again() -> None:
    """A write that lost against one that came to nothing is not taken for "already there"."""
    assert open_storage("s3://bucket/x").create("a.wav", b"sound")
    assert _ConflictFirst.puts == 2
