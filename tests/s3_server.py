"""An S3 server on loopback for tests: moto behind real HTTP."""

from __future__ import annotations

import http.client
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

#: The bucket that the server has.
BUCKET = "artifacts"


class _QuietHandler(MotoRequestHandler):
    def log(self, *_: object) -> None:
        """Say nothing: a line for each request would drown the test's own output."""


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 with one bucket; yields the endpoint."""
    backend = DomainDispatcherApplication(create_backend_app)
    lock = threading.Lock()

    def one_at_a_time(environ: Any, start_response: Any) -> Any:
        # S3 is linearizable for each key; moto is not: computing an object's ETag moves the file
        # position under a reader in another thread, which then gets an empty object.
        with lock:
            return backend(environ, start_response)

    server = make_server(
        "127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=_QuietHandler
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    port = server.server_port
    endpoint = f"http://127.0.0.1:{port}"
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("PUT", f"/{BUCKET}")
        assert connection.getresponse().status == 200
    yield endpoint
    server.shutdown()
    thread.join(30)
    server.server_close()


def use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Point the environment of this process at an endpoint."""
    # Keys always: without them the credential chain would ask the cloud's metadata address.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
