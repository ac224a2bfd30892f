"""The front door, by running the real nginx as an unprivileged user on a loopback port."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, cast

import pytest

from tests.programs import need_program
from tts_tasks.formats import MEDIA_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.nginx, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "nginx" / "templates"
HOW_TO = ROOT / "docs" / "how-to" / "nginx.md"
OPERATOR = ("operator", "operator-secret")
LISTENER = ("listener", "listener-secret")
WAV = bytes(range(256)) * 40
UNPRIVILEGED_UID = 65534


@dataclass(frozen=True)
class Response:
    """One answer, body read whole."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Door:
    """A running nginx."""

    port: int
    artifacts: Path
    access_log: Path
    flower: FlowerDouble

    def ask(
        self,
        target: str,
        *,
        user: tuple[str, str] | None = None,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        source: str = "127.0.0.1",
    ) -> Response:
        """Send one request with its target as written: no client tidies the path up."""
        sent = dict(headers or {})
        if user is not None:
            sent["Authorization"] = "Basic " + base64.b64encode(":".join(user).encode()).decode()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30, source_address=(source, 0))
        try:
            connection.request(method, target, headers=sent)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, names, answer.read())
        finally:
            connection.close()


class FlowerDouble(ThreadingHTTPServer):
    """Stands where Flower would: answers with what it was asked, on a free port."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _EchoHandler)


class _EchoHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


def render(templates: Path, out: Path, variables: dict[str, str]) -> None:
    """Fill the templates in as the image's envsubst does: only the variables given."""
    for source in templates.rglob("*.template"):
        target = out / source.relative_to(templates).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(source.read_text()).safe_substitute(variables))


def signed_links_example() -> str:
    """Return the configuration for signed links as the documentation has it."""
    return HOW_TO.read_text().split("```nginx\n", 1)[1].split("```", 1)[0]


def free_port() -> int:
    """Return a loopback port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Make a folder below which an unprivileged nginx may read and write."""
    # Not tmp_path: its parents are closed to other users, and as root nginx must not be root.
    folder = Path(tempfile.mkdtemp(prefix="tts-nginx-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def artifacts(place: Path) -> Path:
    """Fill a storage folder with finished artifacts and with what must stay inside."""
    folder = place / "artifacts"
    files = {
        "bank/queue-001.wav": WAV,
        **{f"formats/tone.{suffix}": WAV for suffix in MEDIA_TYPES},
        "车站/进站 01.wav": WAV,
        ".tts/bank/queue-001.wav.json": b"sidecar",
        ".tts/bank/queue-001.wav": b"staged",
        "bank/.tts/queue-001.wav": b"staged",
        "bank/.queue-002.wav": b"hidden",
        "bank/queue-003.wav.part": b"unfinished",
        "bank/queue-003.wav#1": b"unfinished",
        "bank/report.jsonl": b"report",
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (place / "outside.wav").write_bytes(b"outside")
    (folder / "bank" / "link.wav").symlink_to(place / "outside.wav")
    return folder


@pytest.fixture(scope="module")
def flower() -> Iterator[FlowerDouble]:
    """Run a small HTTP server in Flower's place."""
    server = FlowerDouble()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def door(place: Path, artifacts: Path, flower: FlowerDouble) -> Iterator[Door]:
    """Run the real nginx with the project's configuration."""
    program = need_program("nginx", "make install-nginx")
    run_dir = place / "run"
    run_dir.mkdir()
    port = free_port()
    variables = {
        "TTS_NGINX_LISTEN": f"127.0.0.1:{port}",
        "TTS_NGINX_RUN_DIR": str(run_dir),
        "TTS_NGINX_ACCESS_LOG": str(run_dir / "access.log"),
        "TTS_NGINX_RESOLVER": "127.0.0.1",
        "TTS_FLOWER_ADDR": f"127.0.0.1:{flower.server_address[1]}",
        "TTS_ARTIFACTS_DIR": str(artifacts),
        "TTS_ARTIFACTS_REALM": "tts-tasks artifacts",
        "TTS_OPERATOR_USER": OPERATOR[0],
        "TTS_OPERATOR_PASSWORD": OPERATOR[1],
        "TTS_LISTENER_USER": LISTENER[0],
        "TTS_LISTENER_PASSWORD": LISTENER[1],
    }
    render(TEMPLATES, run_dir, variables)
    (run_dir / "extra").mkdir(exist_ok=True)
    for folder, secret in {"links": "link-secret", "unset": ""}.items():
        example = Template(signed_links_example().replace("^/links/", f"^/{folder}/"))
        config = example.safe_substitute(variables, TTS_LINK_SECRET=secret)
        (run_dir / "extra" / f"{folder}.conf").write_text(config)
    as_root = os.geteuid() == 0
    if as_root:
        for path in (run_dir, *run_dir.rglob("*")):
            os.chown(path, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    command = [program, "-p", f"{run_dir}/", "-c", str(run_dir / "nginx.conf"), "-e", "stderr"]
    with (run_dir / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "-g", "daemon off;"],
            stderr=stderr,
            user=UNPRIVILEGED_UID if as_root else None,
            group=UNPRIVILEGED_UID if as_root else None,
            extra_groups=[] if as_root else None,
        )
    running = Door(port, artifacts, run_dir / "access.log", flower)
    try:
        wait_until_healthy(running, process, run_dir / "stderr")
        yield running
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_until_healthy(door: Door, process: subprocess.Popen[bytes], stderr: Path) -> None:
    """Return once nginx answers; fail with what it wrote if it ended or stays silent."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if door.ask("/health").status == 200:
                return
        except OSError:
            threading.Event().wait(0.02)
    pytest.fail(f"nginx did not start: {stderr.read_text()}")


# -- health --------------------------------------------------------------------------------------


def test_health_is_constant(door: Door) -> None:
    """/health answers the same to everybody, without a password."""
    answer = door.ask("/health")

    assert (answer.status, answer.body) == (200, b"ok\n")
    assert answer.headers["content-type"] == "text/plain"


def test_the_server_does_not_say_its_version(door: Door) -> None:
    """Neither a header nor an error page tells which nginx this is."""
    answer = door.ask("/nothing-here")

    assert answer.status == 404
    assert answer.headers["server"] == "nginx"
    assert b"nginx/" not in answer.body


@pytest.mark.parametrize(
    ("target", "user"),
    [
        ("/health", None),
        ("/nothing-here", None),
        ("/artifacts/bank/queue-001.wav", LISTENER),
        ("/artifacts/bank/queue-001.wav", None),
        ("/flower/", OPERATOR),
    ],
)
def test_security_headers_are_on_every_answer(
    target: str, user: tuple[str, str] | None, door: Door
) -> None:
    """Good answers and refusals alike forbid sniffing, framing and leaking the address."""
    headers = door.ask(target, user=user).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] in {"no-store", "private, no-cache"}


# -- artifacts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [LISTENER, OPERATOR])
def test_an_artifact_is_downloaded_whole(user: tuple[str, str], door: Door) -> None:
    """With a password the file comes whole, with its length and its type."""
    answer = door.ask("/artifacts/bank/queue-001.wav", user=user)

    assert (answer.status, answer.body) == (200, WAV)
    assert answer.headers["content-length"] == str(len(WAV))
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("suffix", MEDIA_TYPES)
def test_content_types_are_the_systems_own(suffix: str, door: Door) -> None:
    """Every format that can be asked for is served under the type the rest of the system names."""
    answer = door.ask(f"/artifacts/formats/tone.{suffix}", user=LISTENER)

    assert (answer.status, answer.headers["content-type"]) == (200, MEDIA_TYPES[suffix])


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [("bytes=100-199", 100, 200), ("bytes=10000-", 10000, len(WAV)), ("bytes=-7", -7, len(WAV))],
)
def test_a_range_is_that_part(wanted: str, start: int, end: int, door: Door) -> None:
    """A player that seeks gets 206 and the right bytes."""
    answer = door.ask("/artifacts/bank/queue-001.wav", user=LISTENER, headers={"Range": wanted})

    assert (answer.status, answer.body) == (206, WAV[start:end])
    first = start % len(WAV)
    assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{len(WAV)}"


def test_a_range_beyond_the_end_is_refused(door: Door) -> None:
    """A range that starts behind the last byte is 416."""
    answer = door.ask(
        "/artifacts/bank/queue-001.wav", user=LISTENER, headers={"Range": "bytes=999999-"}
    )

    assert answer.status == 416


def test_an_unchanged_artifact_is_not_sent_again(door: Door) -> None:
    """A client that has the artifact revalidates it for a 304."""
    etag = door.ask("/artifacts/bank/queue-001.wav", user=LISTENER).headers["etag"]

    answer = door.ask(
        "/artifacts/bank/queue-001.wav", user=LISTENER, headers={"If-None-Match": etag}
    )

    assert (answer.status, answer.body) == (304, b"")


def test_head_tells_the_size(door: Door) -> None:
    """HEAD answers with the length and without a body."""
    answer = door.ask("/artifacts/bank/queue-001.wav", user=LISTENER, method="HEAD")

    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(WAV))


def test_names_beyond_ascii_are_served(door: Door) -> None:
    """A Chinese name with a blank is found under its percent-encoded form."""
    target = "/artifacts/%E8%BD%A6%E7%AB%99/%E8%BF%9B%E7%AB%99%2001.wav"

    assert door.ask(target, user=LISTENER).body == WAV


@pytest.mark.parametrize("user", [None, ("listener", "wrong"), ("nobody", ""), ("operator", "")])
def test_artifacts_need_a_password(user: tuple[str, str] | None, door: Door) -> None:
    """Without the right password an artifact is 401, and so is one that does not exist."""
    there = door.ask("/artifacts/bank/queue-001.wav", user=user)
    absent = door.ask("/artifacts/bank/no-such.wav", user=user)

    assert (there.status, absent.status) == (401, 401)
    assert there.headers["www-authenticate"].startswith("Basic")
    assert there.body == absent.body


@pytest.mark.parametrize(
    "target",
    [
        "/artifacts",
        "/artifacts/",
        "/artifacts/bank",
        "/artifacts/bank/",
        "/artifacts/bank/no-such.wav",
        "/artifacts/bank/report.jsonl",
        "/artifacts/bank/queue-003.wav.part",
        "/artifacts/bank/queue-003.wav%231",
        "/artifacts/bank/.queue-002.wav",
        "/artifacts/bank/.tts/queue-001.wav",
        "/artifacts/.tts/bank/queue-001.wav",
        "/artifacts/.tts/bank/queue-001.wav.json",
        "/artifacts/%2etts/bank/queue-001.wav",
        "/artifacts/bank/../.tts/bank/queue-001.wav",
        "/artifacts/../outside.wav",
        "/artifacts/%2e%2e/outside.wav",
        "/artifacts/..%2foutside.wav",
        "/artifacts/bank/..%2f..%2f..%2foutside.wav",
        "/artifacts/bank/..%5c..%5coutside.wav",
        "/artifacts../outside.wav",
        "/artifacts//../outside.wav",
        "/artifacts/bank/queue-001.wav%00.txt",
        "/../../../../etc/passwd",
    ],
)
def test_nothing_else_is_served(target: str, door: Door) -> None:
    """Folders, sidecars, hidden, unfinished and outside files are 404, even with a password."""
    answer = door.ask(target, user=OPERATOR)

    assert answer.status in {400, 404}
    assert not re.search(b"sidecar|staged|hidden|unfinished|outside|report|root:", answer.body)


def test_a_symbolic_link_is_not_followed(door: Door) -> None:
    """A link inside the storage does not open what lies outside of it."""
    answer = door.ask("/artifacts/bank/link.wav", user=OPERATOR)

    assert answer.status == 403
    assert b"outside" not in answer.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_artifacts_are_read_only(method: str, door: Door) -> None:
    """Whatever would change an artifact is 405 and names what is allowed."""
    answer = door.ask("/artifacts/bank/queue-001.wav", user=OPERATOR, method=method)

    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert (door.artifacts / "bank" / "queue-001.wav").read_bytes() == WAV


# -- Flower --------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [None, LISTENER, ("operator", "wrong")])
def test_flower_is_for_operators(user: tuple[str, str] | None, door: Door) -> None:
    """Who may listen to artifacts may not steer workers."""
    assert door.ask("/flower/workers", user=user).status == 401


def test_flower_gets_its_prefix_and_the_password(door: Door) -> None:
    """Flower sees the path with its prefix, and the credentials it checks a second time."""
    claimed = {"X-Forwarded-For": "6.6.6.6"}

    answer = door.ask("/flower/workers?json=1", user=OPERATOR, headers=claimed)

    seen = json.loads(answer.body)
    assert (answer.status, seen["path"]) == (200, "/flower/workers?json=1")
    assert seen["headers"]["Authorization"].startswith("Basic ")
    assert seen["headers"]["X-Forwarded-For"] == "127.0.0.1"
    assert seen["headers"]["Host"] == f"127.0.0.1:{door.port}"


def test_flower_without_its_slash_is_sent_there(door: Door) -> None:
    """/flower leads to /flower/ on whatever address the client used."""
    answer = door.ask("/flower")

    assert (answer.status, answer.headers["location"]) == (308, "/flower/")


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), (None, 200)]
)
def test_other_sites_cannot_post_to_flower(site: str | None, status: int, door: Door) -> None:
    """A page elsewhere cannot shut a worker down through an operator's browser."""
    headers = {"Sec-Fetch-Site": site} if site else {}

    answer = door.ask("/flower/api/x", user=OPERATOR, method="POST", headers=headers)

    assert answer.status == status


# -- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kept"), [("order-4711.a_b", True), ("short", False), ('x"}\\n{"forged": 1', False)]
)
def test_a_request_id_goes_all_the_way(sent: str, kept: bool, door: Door) -> None:
    """A harmless id of the caller is answered, passed on and logged; any other is replaced."""
    answer = door.ask("/flower/", user=OPERATOR, headers={"X-Request-ID": sent})

    request_id = answer.headers["x-request-id"]
    assert (request_id == sent) is kept
    assert json.loads(answer.body)["headers"]["X-Request-ID"] == request_id
    entry = logged(door, request_id)
    assert (entry["user"], entry["path"], entry["status"]) == ("operator", "/flower/", "200")


def logged(door: Door, request_id: str) -> dict[str, str]:
    """Return the access log's entry of a request; nginx writes it after it has answered."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for line in door.access_log.read_text().splitlines(keepends=True):
            if line.endswith("\n") and json.loads(line)["request_id"] == request_id:
                return cast("dict[str, str]", json.loads(line))
        threading.Event().wait(0.02)
    pytest.fail(f"no request {request_id} in the access log")


def test_guessing_is_slowed_down(door: Door) -> None:
    """A burst of wrong passwords from one address ends in 429, for that address alone."""
    guesses = [("operator", str(n)) for n in range(100)]

    statuses = {door.ask("/flower/", user=user, source="127.0.0.9").status for user in guesses}

    assert statuses == {401, 429}
    assert door.ask("/flower/", user=OPERATOR).status == 200


def test_the_documented_signed_link_works(door: Door) -> None:
    """The example for signed links in the how-to opens one artifact until it expires."""
    path, other, until = "bank/queue-001.wav", "formats/tone.wav", 4102444800
    link = sign(path, until)

    assert door.ask(link).body == WAV
    assert door.ask(link, method="POST").status == 405
    assert door.ask(link.replace(path, other)).status == 403
    assert door.ask(link.replace(str(until), str(until + 1))).status == 403
    assert door.ask(link.partition("?")[0]).status == 403
    assert door.ask(sign(path, 1000000000)).status == 410
    assert door.ask(sign(".tts/bank/queue-001.wav", until)).status == 404
    assert door.ask(sign(path, until, key="").replace("links", "unset")).status == 503
    assert "signature" not in door.access_log.read_text()


def sign(path: str, expires: int, key: str = "link-secret") -> str:
    """Sign as the how-to's Python example does, run as it stands there."""
    example = HOW_TO.read_text().split("```python\n", 1)[1].split("```", 1)[0]
    scope: dict[str, object] = {}
    exec(compile(example, str(HOW_TO), "exec"), scope)  # noqa: S102 - the documentation's own code
    link = scope["signed_link"]
    assert callable(link)
    return str(link(key, path, expires))
