"""One try of a delivery: what an endpoint and a command are given, and what counts as failure."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.receiver import Receiver, receiver
from tests.waiting import eventually
from tts_tasks.errors import ConfigurationError, DeliveryError
from tts_tasks.settings import Settings, signing_keys
from tts_workers.notice_targets import (
    Command,
    Notice,
    Webhook,
    signatures,
    targets_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.server import BaseHTTPRequestHandler

ROOT = Path(__file__).parents[2]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEYS = signing_keys(SECRET)
NOTICE = Notice(
    "default:0-7",
    "lane.failover",
    "2026-11-02T10:00:00.000Z",
    "Lane default.0 has a new primary: 乙.",
    {"lane": "default.0", "epoch": 7, "old_holder": None, "new_holder": "w2@b/1"},
)


@pytest.fixture
def endpoint() -> Iterator[Receiver]:
    """An endpoint that answers 204."""
    with receiver() as state:
        yield state


def webhook(url: str, **options: Any) -> Webhook:
    return Webhook(url, KEYS, **options)


# -- the endpoint ---------------------------------------------------------------------------------


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The vector which the libraries of Standard Webhooks are tested with."""
    said = signatures(KEYS, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert said == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_while_a_secret_is_changed_each_key_signs() -> None:
    """The receiver knows the old key or the new one: either signature is there."""
    new = "whsec_" + base64.b64encode(b"n" * 32).decode()
    both = signatures(signing_keys(f"{new} {SECRET}"), "i", 1, b"{}").split()
    assert both == [signatures(signing_keys(s), "i", 1, b"{}") for s in (new, SECRET)]


def test_an_endpoint_gets_the_facts_signed(endpoint: Receiver) -> None:
    """Type, time and data as JSON; the id is the notice's, the timestamp that of the try."""
    webhook(f"{endpoint.url}/hook?token=t", wall_clock=lambda: 1_800_000_000.7).send(NOTICE)
    (call,) = endpoint.calls
    assert call.path == "/hook?token=t"
    assert call.headers["content-type"] == "application/json"
    assert call.headers["webhook-id"] == "default:0-7"
    assert call.headers["webhook-timestamp"] == "1800000000"
    expected = signatures(KEYS, "default:0-7", 1_800_000_000, call.body)
    assert call.headers["webhook-signature"] == expected
    assert call.content == {
        "type": NOTICE.type,
        "timestamp": NOTICE.time,
        "text": NOTICE.text,
        "data": NOTICE.data,
    }


def test_the_user_in_a_url_is_sent_as_basic_authorization(endpoint: Receiver) -> None:
    """And is not a part of the target's name, nor is the path."""
    target = webhook(endpoint.url.replace("://", "://ann:p%40ss@") + "/services/T0/B0")
    target.send(NOTICE)
    sent = endpoint.calls[0].headers["authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent) == b"ann:p@ss"
    assert target.name == endpoint.url


@pytest.mark.parametrize("status", [300, 400, 404, 429, 500, 502, 503])
def test_any_answer_but_2xx_is_a_failure_worth_another_try(endpoint: Receiver, status: int) -> None:
    """As the scheme says; nothing of the answer's body is read."""
    endpoint.answers = [status]
    with pytest.raises(DeliveryError, match=str(status)) as failure:
        webhook(endpoint.url).send(NOTICE)
    assert not failure.value.final


def test_gone_is_final(endpoint: Receiver) -> None:
    """410: the receiver wants no more."""
    endpoint.answers = [410]
    with pytest.raises(DeliveryError) as failure:
        webhook(endpoint.url).send(NOTICE)
    assert failure.value.final


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(endpoint: Receiver, status: int) -> None:
    """Where it points to is never called."""
    endpoint.answers = [status]
    with pytest.raises(DeliveryError, match="redirect"):
        webhook(f"{endpoint.url}/hook").send(NOTICE)
    webhook(f"{endpoint.url}/hook").send(NOTICE)
    assert [call.path for call in endpoint.calls] == ["/hook", "/hook"]


def silent(handler: BaseHTTPRequestHandler) -> None:
    """Answer nothing until the caller has gone."""
    handler.connection.recv(1)


def dripping(handler: BaseHTTPRequestHandler) -> None:
    """Answer a header that never ends, a byte at a time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def nonsense(handler: BaseHTTPRequestHandler) -> None:
    """Answer something else than HTTP."""
    handler.wfile.write(b"hunter2 hunter2\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [(silent, "no answer in time"), (dripping, "no answer in time"), (nonsense, "not HTTP")],
)
def test_a_bad_server_holds_nobody(
    endpoint: Receiver, answer: Callable[[BaseHTTPRequestHandler], None], said: str
) -> None:
    """Silence, an answer that drips for ever, an answer that is none: a failure in known time."""
    endpoint.answers = [answer]
    began_s = time.monotonic()
    with pytest.raises(DeliveryError, match=said) as failure:
        webhook(endpoint.url, step_timeout_s=0.5, call_limit_s=1.0).send(NOTICE)
    assert time.monotonic() - began_s < 20
    assert "hunter2" not in str(failure.value)


def test_a_refused_connection_is_a_failure() -> None:
    """Nobody listens: the reason says so, and no URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DeliveryError, match="refused"):
        webhook(f"http://127.0.0.1:{port}").send(NOTICE)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    """With https it is checked who answers; nothing is sent to somebody else."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    pem = tmp_path / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", pem, "-out", tmp_path / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    with pem.open("a") as both:
        both.write((tmp_path / "certificate.pem").read_text())
    with receiver(certificate=pem) as state:
        with pytest.raises(DeliveryError, match="CERTIFICATE_VERIFY_FAILED"):
            webhook(state.url).send(NOTICE)
        assert state.calls == []


# -- the command ----------------------------------------------------------------------------------


def python(code: str, *args: str) -> Command:
    return Command([sys.executable, "-c", code, *args], limit_s=30)


def test_a_command_gets_json_and_variables_without_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of the setting are its arguments as they are; the signing secret is not for it."""
    monkeypatch.setenv("TTS_NOTIFY_SECRET", SECRET)
    out = tmp_path / "out.json"
    code = (
        "import json, os, sys\n"
        "json.dump([sys.argv[1:], json.load(sys.stdin), dict(os.environ)], open(sys.argv[1], 'w'))"
    )
    python(code, str(out), "; echo $HOME").send(NOTICE)
    argv, content, environment = json.loads(out.read_text())
    assert argv == [str(out), "; echo $HOME"]
    assert content["data"] == NOTICE.data
    told = {k: v for k, v in environment.items() if k.startswith("TTS_NOTICE_")}
    assert told == {
        "TTS_NOTICE_ID": "default:0-7",
        "TTS_NOTICE_TYPE": "lane.failover",
        "TTS_NOTICE_TIME": NOTICE.time,
        "TTS_NOTICE_TEXT": NOTICE.text,
        "TTS_NOTICE_LANE": "default.0",
        "TTS_NOTICE_EPOCH": "7",
        "TTS_NOTICE_OLD_HOLDER": "",
        "TTS_NOTICE_NEW_HOLDER": "w2@b/1",
    }
    assert "TTS_NOTIFY_SECRET" not in environment


def test_a_command_need_not_read_its_input() -> None:
    """A program that ignores the JSON, and ends at once, has succeeded."""
    more_than_a_pipe_holds = replace(NOTICE, text="x" * 100_000)
    Command(["true"]).send(more_than_a_pipe_holds)


def test_a_command_that_fails_is_a_failed_try_and_its_output_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The exit status is the answer; what was written can be read, and moves no cursor."""
    with caplog.at_level(logging.INFO), pytest.raises(DeliveryError, match="exit status 3"):
        python(r"print('no paper\x1b[2J'); raise SystemExit(3)").send(NOTICE)
    assert "no paper\\x1b[2J" in caplog.text


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """After its time the whole group is gone, grandchildren too."""
    pid_file = tmp_path / "pid"
    command = Command(
        ["sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait"],
        limit_s=4.0,  # enough to write its pid on a busy machine
    )
    with pytest.raises(DeliveryError, match="killed after 4 s"):
        command.send(NOTICE)
    grandchild = int(pid_file.read_text())
    eventually(lambda: not is_running(grandchild), within_s=30, what="the grandchild is gone")


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_command_that_leaves_something_running_has_ended() -> None:
    """A background process that keeps the pipe open keeps nobody waiting."""
    began_s = time.monotonic()
    Command(["sh", "-c", "sleep 20 & exit 0"], limit_s=15).send(NOTICE)
    assert time.monotonic() - began_s < 10


def test_a_flood_of_output_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """However much it writes, a little is kept and it is not held up."""
    with caplog.at_level(logging.INFO):
        python("import sys; sys.stdout.write('x' * 10_000_000)").send(NOTICE)
    assert len(caplog.text) < 5000


# -- the settings ---------------------------------------------------------------------------------


def test_the_settings_name_the_targets(endpoint: Receiver) -> None:
    """A URL, a command, both or none."""
    assert targets_of(Settings()) == []
    settings = Settings(
        notify_url=f"{endpoint.url}/hook",  # type: ignore[arg-type]
        notify_secret=SECRET,  # type: ignore[arg-type]
        notify_command="true 'two words'",
    )
    names = [target.name for target in targets_of(settings)]
    assert names == [endpoint.url, f"command {shutil.which('true')}"]


def test_a_command_that_is_not_there_is_found_out_at_start() -> None:
    """Not at the first failover."""
    with pytest.raises(ConfigurationError, match=r"TTS_NOTIFY_COMMAND.*'no-such-program'"):
        targets_of(Settings(notify_command="no-such-program --now"))


def test_the_receiver_of_the_how_to_takes_what_is_ours(tmp_path: Path) -> None:
    """The page's program, run as it stands: it prints a good notice once and refuses the others."""
    page = (ROOT / "docs/how-to/notices.md").read_text(encoding="utf-8")
    program = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    out = tmp_path / "out"
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(port)],
            env={**os.environ, "TTS_NOTIFY_SECRET": SECRET},
            stdout=stdout,
            stderr=subprocess.DEVNULL,
        )
    try:
        eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        url = f"http://127.0.0.1:{port}/"
        for target in (
            Webhook(url, signing_keys("whsec_" + base64.b64encode(b"x" * 24).decode())),
            Webhook(url, KEYS, wall_clock=lambda: time.time() - 400),
        ):
            with pytest.raises(DeliveryError, match="401"):
                target.send(NOTICE)
        for _ in range(2):
            Webhook(url, KEYS).send(NOTICE)
    finally:
        process.kill()
        process.wait(30)
    assert out.read_text(encoding="utf-8") == f"{NOTICE.text}\n"


def test_sending_leaves_no_thread_behind(endpoint: Receiver) -> None:
    """The guard of a call ends with it."""
    before = set(threading.enumerate())
    for _ in range(5):
        webhook(endpoint.url, call_limit_s=600).send(NOTICE)

    def guards() -> list[threading.Thread]:
        return [t for t in set(threading.enumerate()) - before if isinstance(t, threading.Timer)]

    eventually(lambda: not guards(), within_s=30)
