"""Where a notice can go: an HTTP endpoint, or a command of this machine. One try each.

The endpoint is called as Standard Webhooks 1.0.0 says (github.com/standard-webhooks): what is
signed is ``id.timestamp.body``, so neither the id nor the timestamp may hold a full stop.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import http.client
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from tts_tasks.errors import ConfigurationError, DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tts_tasks.settings import Settings

logger = logging.getLogger(__name__)

#: How long one step of a call may take: connecting, sending, the first byte of the answer.
STEP_TIMEOUT_S = 5.0
#: How long one call may take in all: a server that drips its answer must not hold us.
CALL_LIMIT_S = 15.0
#: How long a command may run before it and what it started are killed.
COMMAND_LIMIT_S = 30.0
#: So much of what a command writes is logged; the rest is read and dropped.
OUTPUT_KEPT_BYTES = 2000
GONE = 410

SECRET_VARIABLE = "TTS_NOTIFY_SECRET"  # noqa: S105 - a name, not a secret


@dataclass(frozen=True, slots=True)
class Notice:
    """What an operator is told. ``id`` is the same in every try, and holds no full stop."""

    id: str
    type: str
    time: str  #: when it happened: UTC, ISO 8601
    text: str  #: one sentence for people
    data: dict[str, Any]

    def body(self) -> bytes:
        """Return the JSON that is sent, the same bytes in every try."""
        content = {"type": self.type, "timestamp": self.time, "text": self.text, "data": self.data}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()

    def environment(self) -> dict[str, str]:
        """Return the same facts as variables for a command."""
        facts = {"id": self.id, "type": self.type, "time": self.time, "text": self.text}
        values = {**facts, **self.data}
        return {
            f"TTS_NOTICE_{name.upper()}": "" if value is None else str(value).replace("\0", "")
            for name, value in values.items()
        }


class Target(Protocol):
    """Somewhere a notice can go."""

    @property
    def name(self) -> str:
        """What logs and events call it; never holds a secret."""
        ...

    def send(self, notice: Notice) -> None:
        """Deliver once, within a known time; raises `DeliveryError`."""
        ...


def targets_of(settings: Settings) -> list[Target]:
    """Return what the settings name; `ConfigurationError` for a command that is not there."""
    targets: list[Target] = []
    if url := settings.notify_url.get_secret_value():
        targets.append(Webhook(url, settings.notify_keys))
    if settings.notify_command:
        targets.append(Command(shlex.split(settings.notify_command)))
    return targets


def signatures(keys: Sequence[bytes], notice_id: str, timestamp: int, body: bytes) -> str:
    """Return the header ``webhook-signature``: one ``v1,`` and base64 of HMAC-SHA256 for each key.

    Several keys are for the time in which a secret is changed; the receiver knows one of them.
    """
    signed = f"{notice_id}.{timestamp}.".encode() + body
    macs = (hmac.digest(key, signed, "sha256") for key in keys)
    return " ".join("v1," + base64.b64encode(mac).decode() for mac in macs)


class Webhook:
    """POSTs to an ``http`` or ``https`` URL; an answer from 200 to 299 is success.

    Redirects are failures, certificates are checked, proxies are not used, and nothing of an
    answer is read but its status.
    """

    def __init__(
        self,
        url: str,
        keys: Sequence[bytes],
        *,
        step_timeout_s: float = STEP_TIMEOUT_S,
        call_limit_s: float = CALL_LIMIT_S,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        parts = urlsplit(url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port
        self._path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        self._keys = tuple(keys)
        self._step_timeout_s, self._call_limit_s = step_timeout_s, call_limit_s
        self._wall_clock = wall_clock
        self._headers = {"Content-Type": "application/json", "User-Agent": "tts-tasks"}
        if parts.username or parts.password:
            user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            encoded = base64.b64encode(user.encode()).decode()
            self._headers["Authorization"] = f"Basic {encoded}"
        # path, query and user of a webhook's URL are often the secret that lets one post to it
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def send(self, notice: Notice) -> None:
        """Post once."""
        body = notice.body()
        timestamp = int(self._wall_clock())  # of this try, as the scheme wants it
        headers = {
            **self._headers,
            "webhook-id": notice.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures(self._keys, notice.id, timestamp, body),
        }
        try:
            status = self._post(body, headers)
        except TimeoutError:
            raise DeliveryError("no answer in time") from None
        except OSError as error:
            raise DeliveryError(f"{type(error).__name__}: {error}") from None
        except http.client.HTTPException as error:
            # its text may repeat what the server sent
            raise DeliveryError(f"the answer is not HTTP ({type(error).__name__})") from None
        if 300 <= status < 400:
            raise DeliveryError(f"HTTP {status}: redirects are not followed")
        if not 200 <= status < 300:
            raise DeliveryError(f"HTTP {status}", final=status == GONE)

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        connection = self._connection()
        out_of_time = threading.Event()
        try:
            connection.connect()
            with _ended_after(self._call_limit_s, connection.sock, out_of_time):
                connection.request("POST", self._path, body, headers)
                status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            if not out_of_time.is_set():
                raise
        finally:
            connection.close()
        if out_of_time.is_set():  # also after headers that seem to have ended, because we cut them
            raise TimeoutError
        return status

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._step_timeout_s, context=self._tls
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._step_timeout_s)


@contextlib.contextmanager
def _ended_after(limit_s: float, sock: socket.socket, out_of_time: threading.Event) -> Any:
    """Shut the socket down after a while: the timeout of a socket bounds each step, not the sum."""

    def end() -> None:
        out_of_time.set()
        with contextlib.suppress(OSError):
            # not the TLS layer's own method, which is not for a second thread
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Command:
    """Runs a program without a shell: the JSON on stdin, the facts as ``TTS_NOTICE_*``.

    Exit status 0 is success. What it writes goes to the log.
    """

    def __init__(self, argv: Sequence[str], *, limit_s: float = COMMAND_LIMIT_S) -> None:
        program = shutil.which(argv[0]) if argv else None
        if program is None:
            raise ConfigurationError(
                f"TTS_NOTIFY_COMMAND: there is no program {argv[0] if argv else ''!r} that this "
                "worker may run; name it by its whole path"
            )
        self._argv = [program, *argv[1:]]
        self._limit_s = limit_s
        # its arguments may be secrets
        self.name = f"command {program}"

    def send(self, notice: Notice) -> None:
        """Run it once."""
        inherited = {k: v for k, v in os.environ.items() if k != SECRET_VARIABLE}
        try:
            process = subprocess.Popen(
                self._argv,
                env={**inherited, **notice.environment()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that what it starts can be killed with it
            )
        except OSError as error:
            raise DeliveryError(f"cannot be run: {error.strerror}") from None
        output = bytearray()
        pipes = [
            threading.Thread(target=_feed, args=(process.stdin, notice.body()), daemon=True),
            threading.Thread(target=_read, args=(process.stdout, output), daemon=True),
        ]
        for thread in pipes:
            thread.start()
        try:
            status: int | None = process.wait(self._limit_s)
        except subprocess.TimeoutExpired:
            status = None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for thread in pipes:  # what it left running in the background may hold the pipe
            thread.join(0.5)
        self._log(bytes(output), logging.INFO if status == 0 else logging.WARNING)
        if status is None:
            raise DeliveryError(f"killed after {self._limit_s:g} s")
        if status != 0:
            raise DeliveryError(f"exit status {status}")

    def _log(self, output: bytes, level: int) -> None:
        for line in output.decode(errors="backslashreplace").splitlines():
            shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
            logger.log(level, "%s: %s", self.name, shown)


def _feed(pipe: Any, body: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), pipe:  # it need not read it
        pipe.write(body)


def _read(pipe: Any, output: bytearray) -> None:
    with pipe:
        while chunk := pipe.read1(65536):
            output += chunk[: max(0, OUTPUT_KEPT_BYTES - len(output))]
