"""`ttsctl` as people and scripts run it: a process, a pipe or a terminal, and two real workers.

The workers are shared by all tests of this module: no test here ends or slows one.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis
import soundfile

from tests.e2e.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e

#: Enough that two workers need seconds: time to look at the bar, and to interrupt it.
MANY = 300
DEADLINE_S = 60.0
ROWS, COLUMNS = 30, 110

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SUMMARY = {"batch", "state", "total", "succeeded", "failed", "rejected", "report", "output"}
REPORT_LINE = {
    "line", "id", "state", "uri", "sha256", "duration_s", "attempt", "worker", "error",
}  # fmt: skip
LANE = {"pool", "lane", "primary", "epoch"}
WORKER = {"id", "host", "pid", "pool", "role", "ready", "device", "heartbeat_age_s"}


@pytest.fixture(scope="module", autouse=True)
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two ready workers on an empty Redis, for the whole module."""
    with redis.Redis.from_url(os.environ["TTS_REDIS_URL"]) as client:
        client.flushall()
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start("w1", "w2")
        yield
    finally:
        cluster.stop()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "ttsctl", *words]


def ttsctl(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with pipes for stdout and stderr."""
    return subprocess.run(
        command(*words),
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def events_of(stderr: str) -> list[dict[str, Any]]:
    """Return stderr as events; fails if one line of it is not one."""
    events = [json.loads(line) for line in stderr.splitlines()]
    assert all({"time", "event"} <= set(event) for event in events)
    return events


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


def path_of(uri: str) -> Path:
    return Path(urlsplit(uri).path)


def loudness_and_length_s(audio: bytes) -> tuple[float, float]:
    samples, rate_hz = soundfile.read(io.BytesIO(audio))
    return float(abs(samples).max()), len(samples) / rate_hz


def many_lines(path: Path, prefix: str, count: int = MANY) -> Path:
    """Write a batch file of short announcements, the names in the order of the lines."""
    lines = [
        {
            "id": f"{prefix}{n}",
            "text": f"请{n}号到{n % 9 + 1}号窗口。",
            "output_name": f"{prefix}{n:04}",
        }
        for n in range(1, count + 1)
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


class Terminal:
    """A program on a terminal of its own, with a keyboard and a screen."""

    def __init__(self, words: list[str], **environment: str) -> None:
        self.screen = ""
        self._raw = b""
        self._keyboard, inside = os.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        # setsid makes it the controlling terminal: so a typed Ctrl-C is a SIGINT, as for people
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *words],
            env={**os.environ, "TERM": "xterm", **environment},
            stdin=inside,
            stdout=inside,
            stderr=inside,
        )
        os.close(inside)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._keyboard, text.encode())

    def wait_for(self, seen: Callable[[str], object]) -> None:
        """Read the screen until it shows something."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not seen(self.screen):
            if not self._read(deadline_s - time.monotonic()):
                pytest.fail(f"it never showed; the screen ends with: {self.screen[-1500:]}")

    def end(self) -> int:
        """Read to the end; return the exit code."""
        deadline_s = time.monotonic() + DEADLINE_S
        while self._read(deadline_s - time.monotonic()):
            pass
        return self._process.wait(5)

    def close(self) -> None:
        """End the program if it still runs."""
        self._process.kill()
        self._process.wait(5)
        os.close(self._keyboard)

    def _read(self, within_s: float) -> bool:
        readable, _, _ = select.select([self._keyboard], [], [], max(0.0, within_s))
        try:
            data = os.read(self._keyboard, 65536) if readable else b""
        except OSError:  # EIO: the program has closed its terminal
            return False
        self._raw += data
        self.screen = _ESCAPES.sub("", self._raw.decode(errors="replace"))
        return bool(data)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Start programs on terminals; what still runs after the test is ended."""
    terminals: list[Terminal] = []

    def start(words: list[str], **environment: str) -> Terminal:
        terminals.append(Terminal(words, **environment))
        return terminals[-1]

    yield start
    for opened in terminals:
        opened.close()


def progress_on(screen: str) -> list[tuple[int, int]]:
    """Return what the bars on a screen said: done and total."""
    return [(int(done), int(total)) for done, total in re.findall(r"━ (\d+)/(\d+)  ", screen)]


# -- a batch of hundreds --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def submitted(
    two_workers: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A file of hundreds of lines, submitted through pipes and followed to its end."""
    file = many_lines(tmp_path_factory.mktemp("input") / "many.jsonl", "m")
    return file, ttsctl("submit", str(file), "--id", "many", "-o", "json")


Submitted = tuple[Path, "subprocess.CompletedProcess[str]"]


def test_a_batch_of_hundreds_succeeds(submitted: Submitted) -> None:
    """`submit` follows it to the end and exits 0; stdout is the summary and nothing else."""
    _, done = submitted
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert set(summary) >= SUMMARY
    counts = {key: summary[key] for key in ("batch", "state", "total", "succeeded", "failed")}
    assert counts == {
        "batch": "many", "state": "done", "total": MANY, "succeeded": MANY, "failed": 0,
    }  # fmt: skip


def test_progress_in_a_pipe_is_json_events(submitted: Submitted) -> None:
    """On stderr there is one event a line; progress only grows, and ends at the total."""
    events = events_of(submitted[1].stderr)
    (accepted,) = named(events, "batch.accepted")
    assert (accepted["total"], accepted["rejected"]) == (MANY, 0)
    progress = named(events, "batch.progress")
    done = [event["done"] for event in progress]
    assert len(done) >= 2
    assert done == sorted(done)
    assert (done[-1], progress[-1]["succeeded"]) == (MANY, MANY)
    assert progress[-1]["jobs_per_s"] > 0


def test_the_report_has_a_line_for_each_input_line_in_order(submitted: Submitted) -> None:
    """Line n of the report is line n of the input, with an artifact that is there."""
    file, done = submitted
    report = [
        json.loads(line)
        for line in path_of(json.loads(done.stdout)["report"]).read_bytes().splitlines()
    ]
    ids = [json.loads(line)["id"] for line in file.read_bytes().splitlines()]
    assert [line["id"] for line in report] == ids
    assert [line["line"] for line in report] == list(range(1, MANY + 1))
    assert all(set(line) >= REPORT_LINE for line in report)
    assert {line["state"] for line in report} == {"succeeded"}
    assert len({line["uri"] for line in report}) == MANY
    assert all(path_of(line["uri"]).stat().st_size > 1000 for line in report)
    assert len({line["worker"] for line in report}) == 2


def test_the_same_id_and_file_reattaches(submitted: Submitted) -> None:
    """A second submit of the same file says what the first one said, at once."""
    file, done = submitted
    again = ttsctl("submit", str(file), "--id", "many", "-o", "json")
    assert (again.returncode, json.loads(again.stdout)) == (0, json.loads(done.stdout))


def test_another_file_under_the_same_id_is_a_conflict(submitted: Submitted, tmp_path: Path) -> None:
    """Exit code 5, and the batch stays what it was."""
    done = ttsctl("submit", str(many_lines(tmp_path / "other.jsonl", "o", 2)), "--id", "many")
    assert (done.returncode, done.stdout) == (5, "")
    assert "Error: " in done.stderr
    assert "many" in done.stderr
    assert json.loads(ttsctl("batch", "show", "many", "-o", "json").stdout)["total"] == MANY


def test_fetch_copies_every_artifact_and_overwrites_none(
    submitted: Submitted, tmp_path: Path
) -> None:
    """`fetch` names the files it has; fetching again is the same; another file there is a 5."""
    folder = tmp_path / "here"
    first = ttsctl("batch", "fetch", "many", "--to", str(folder))
    again = ttsctl("batch", "fetch", "many", "--to", str(folder))

    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"m{n:04}.wav" for n in range(1, MANY + 1)]
    assert (first.returncode, again.returncode) == (0, 0)
    assert sorted(first.stdout.splitlines()) == [str(file) for file in files]
    assert loudness_and_length_s(files[0].read_bytes())[1] > 0.5
    files[1].write_bytes(b"mine")
    conflict = ttsctl("batch", "fetch", "many", "--to", str(folder))
    assert conflict.returncode == 5
    assert files[1].read_bytes() == b"mine"


def test_ls_and_show_know_the_batch(submitted: Submitted) -> None:
    """`batch ls -o id` lists it, `batch report` streams its lines, an unknown id is a 6."""
    assert "many" in ttsctl("batch", "ls", "-o", "id").stdout.split()
    assert len(ttsctl("batch", "report", "many").stdout.splitlines()) == MANY
    unknown = ttsctl("batch", "show", "never")
    assert (unknown.returncode, unknown.stdout) == (6, "")


# -- ctrl-c, and what is printed then -------------------------------------------------------------


def test_ctrl_c_on_a_terminal_detaches_and_its_command_reattaches(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """A bar moves; Ctrl-C exits 130 and names a command; run, it shows the bar to the end."""
    file = many_lines(tmp_path / "bar.jsonl", "b")
    first = terminal(command("submit", str(file), "--id", "bar"))
    first.wait_for(lambda screen: any(0 < done < MANY for done, _ in progress_on(screen)))
    assert re.search(r"[\d.]+ jobs/s  \d+ s audio/s  \S+ left", first.screen)

    first.type("\x03")

    assert first.end() == 130
    found = re.search(r"Look again with: (.+)", first.screen)
    assert found is not None
    again = terminal(
        shlex.split(found[1]),
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )
    assert again.end() == 0
    assert progress_on(again.screen)[-1] == (MANY, MANY)
    assert re.search(rf"succeeded +{MANY}\b", again.screen)
    states = [json.loads(line) for line in ttsctl("batch", "report", "bar").stdout.splitlines()]
    assert [(line["line"], line["state"], line["attempt"]) for line in states] == [
        (n, "succeeded", 1) for n in range(1, MANY + 1)
    ]


def test_ctrl_c_in_a_pipe_detaches_with_an_event(tmp_path: Path) -> None:
    """SIGINT exits 130 with an event that holds the command; run, it ends with 0."""
    file = many_lines(tmp_path / "pipe.jsonl", "p")
    with subprocess.Popen(
        command("submit", str(file), "--id", "pipe", "-o", "id"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        before = []
        for line in process.stderr:
            before.append(line)
            if json.loads(line)["event"] == "batch.progress":
                break
        process.send_signal(signal.SIGINT)
        out, after = process.communicate(timeout=DEADLINE_S)
    events = events_of("".join(before) + after)

    assert process.returncode == 130
    assert out == "pipe\n"
    (detached,) = named(events, "batch.detached")
    assert detached["batch"] == "pipe"
    last_seen = named(events, "batch.progress")[-1]
    assert last_seen["done"] < MANY
    program, *words = shlex.split(detached["reattach"])
    assert program == "ttsctl"
    done = ttsctl(*words, "-o", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["succeeded"] == MANY


# -- exit codes -----------------------------------------------------------------------------------

BAD_LINES = (
    '\ufeff{"id": "one", "text": "第一行。", "output_name": "x"}\r\n'
    "\r\n"
    '{"id": "three", "text": "……"}\r\n'
    '{"id": "four", "text": "第四行。", "output_name": "x"}\r\n'
    "{broken\r\n"
    '{"id": "six", "text": "The sixth."}'
)


def test_bad_lines_are_reported_and_the_good_ones_spoken(tmp_path: Path) -> None:
    """Exit code 3; each bad line with number, field and reason, in the report at its place."""
    file = tmp_path / "bad.jsonl"
    file.write_text(BAD_LINES, encoding="utf-8", newline="")

    done = ttsctl("submit", str(file), "--id", "bad", "-o", "json")

    assert done.returncode == 3
    told = named(events_of(done.stderr), "line.rejected")
    assert [event["line"] for event in told] == [3, 4, 5]
    summary = json.loads(done.stdout)
    assert (summary["total"], summary["succeeded"], summary["rejected"]) == (5, 2, 3)
    report = [json.loads(line) for line in path_of(summary["report"]).read_bytes().splitlines()]
    assert [(line["line"], line["state"]) for line in report] == [
        (1, "succeeded"), (3, "rejected"), (4, "rejected"), (5, "rejected"), (6, "succeeded"),
    ]  # fmt: skip
    errors = [json.loads(line) for line in ttsctl("batch", "errors", "bad").stdout.splitlines()]
    assert errors == [line for line in report if line["error"]]
    assert [error["error"]["field"] for error in errors] == ["text", "output_name", "line"]
    assert all(error["error"]["reason"] for error in errors)


def test_strict_refuses_the_file_whole(tmp_path: Path) -> None:
    """Exit code 2 and every bad line named; no batch comes of it."""
    file = tmp_path / "strict.jsonl"
    file.write_text(BAD_LINES, encoding="utf-8", newline="")

    done = ttsctl("submit", str(file), "--id", "strict", "--strict")

    assert (done.returncode, done.stdout) == (2, "")
    assert all(f"line {n}: " in done.stderr for n in (3, 4, 5))
    assert ttsctl("batch", "show", "strict").returncode == 6


def test_a_wait_that_ends_too_early_is_seven(tmp_path: Path) -> None:
    """--timeout-s ends the following with 7 and the command that looks again; the work goes on."""
    file = many_lines(tmp_path / "slow.jsonl", "s", 3)

    # nobody serves this pool, so nothing ends
    done = ttsctl("submit", str(file), "--id", "slow", "--timeout-s", "0.5", TTS_POOL="unserved")

    assert done.returncode == 7
    (stopped,) = named(events_of(done.stderr), "batch.wait_timed_out")
    assert stopped["reattach"] == "ttsctl batch watch slow"
    assert json.loads(ttsctl("batch", "show", "slow", "-o", "json").stdout)["state"] == "running"
    assert ttsctl("batch", "wait", "slow", "--timeout-s", "0.2").returncode == 7


@pytest.mark.parametrize(
    "words", [("submit", "FILE"), ("say", "你好"), ("status",), ("batch", "ls"), ("events",)]
)
def test_no_redis_is_eight(words: tuple[str, ...], tmp_path: Path) -> None:
    """Without a Redis every command ends with 8, one line, and no password in it."""
    file = many_lines(tmp_path / "none.jsonl", "n", 2)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://:secret@127.0.0.1:{nobody.getsockname()[1]}/0"
        done = ttsctl(*(str(file) if w == "FILE" else w for w in words), TTS_REDIS_URL=url)
    assert (done.returncode, done.stdout) == (8, "")
    assert re.fullmatch(r"Error: no Redis at redis://.*127\.0\.0\.1:\d+/0.*\n", done.stderr)
    assert "secret" not in done.stderr


def test_a_wrong_setting_is_two() -> None:
    """A TTS_ variable that cannot be right ends every command with 2 and its name, in one line."""
    done = ttsctl("status", TTS_HEARTBEAT_S="-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"Error: .*TTS_HEARTBEAT_S.*\n", done.stderr)


# -- say ------------------------------------------------------------------------------------------


def test_say_writes_an_audible_file(tmp_path: Path) -> None:
    """--file writes sound in the format of its suffix, and stdout names the file.

    Subtitles are beside it.
    """
    target = tmp_path / "arrival.mp3"
    text = "列车即将进站，请站在安全线以内。"
    done = ttsctl("say", text, "--file", str(target), "--loudness-lufs", "-20", "--subtitles=srt")
    assert (done.returncode, done.stdout) == (0, f"{target}\n")
    peak, length_s = loudness_and_length_s(target.read_bytes())
    assert soundfile.info(target).format == "MP3"
    assert 0.05 < peak <= 1.0
    assert 1.0 < length_s < 15.0
    assert text in (tmp_path / "arrival.srt").read_text(encoding="utf-8")


def test_say_into_a_pipe_is_the_audio_alone() -> None:
    """`--file -` gives WAV bytes on stdout, so that a player can follow the pipe."""
    done = subprocess.run(
        command("say", "-", "--file", "-"),
        input=b"Mind the gap.",
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout[:4] == b"RIFF"
    peak, length_s = loudness_and_length_s(done.stdout)
    assert peak > 0.05
    assert length_s > 0.3


def test_say_without_a_file_says_where_the_sound_is() -> None:
    """The artifact's path is on stdout; -o json is a report line."""
    spoken = path_of(ttsctl("say", "请排队。").stdout.strip())
    assert loudness_and_length_s(spoken.read_bytes())[0] > 0.05
    record = json.loads(ttsctl("say", "请排队。", "-o", "json").stdout)
    assert set(record) >= REPORT_LINE
    assert (record["state"], record["attempt"], record["error"]) == ("succeeded", 1, None)


def unsayable(folder: Path) -> tuple[str, ...]:
    """Return a text that espeak refuses when it comes to it, with its options."""
    file = folder / "clicks.jsonl"
    file.write_text('{"phrase": "gif", "ipa": "ʘǃʘ"}', encoding="utf-8")
    assert ttsctl("lexicon", "add", "clicks", str(file)).returncode == 0
    return "gif", "--lexicon", "clicks"


def test_say_nothing_is_refused(tmp_path: Path) -> None:
    """A text without anything to speak ends with 2 at the door, a failed job with 1.

    What nobody there can do, with 8.
    """
    assert ttsctl("say", "……").returncode == 2
    failed = ttsctl("say", *unsayable(tmp_path))
    assert failed.returncode == 1
    assert "ʘ" in failed.stderr
    refused = ttsctl("say", "你好", "--voice", "nobody")
    assert refused.returncode == 8
    assert "voice nobody is asked for, and default has the voices en, f1" in refused.stderr


# -- status, events -------------------------------------------------------------------------------


def test_status_has_the_promised_shape() -> None:
    """One primary that is one of the two workers, a standby, both queues with their lengths."""
    status = json.loads(ttsctl("status", "-o", "json").stdout)
    assert set(status) >= {"lanes", "workers", "queues"}
    (lane,) = [lane for lane in status["lanes"] if lane["pool"] == "default"]
    assert set(lane) >= LANE
    assert lane["epoch"] >= 1
    assert all(set(worker) >= WORKER for worker in status["workers"])
    roles = {worker["role"]: worker["id"] for worker in status["workers"]}
    assert set(roles) == {"primary", "standby"}
    assert roles["primary"] == lane["primary"]
    assert all(worker["ready"] is True for worker in status["workers"])
    assert all(worker["heartbeat_age_s"] < 5 for worker in status["workers"])
    assert {"tts.online.default.0", "tts.batch.default"} <= set(status["queues"])
    assert all(isinstance(length, int) for length in status["queues"].values())


def test_status_on_a_terminal_is_a_table(terminal: Callable[..., Terminal]) -> None:
    """People see both workers, who is primary, and the queues."""
    shown = terminal(command("status"))
    assert shown.end() == 0
    for word in ("w1@test/", "w2@test/", "primary", "standby", "tts.batch.default"):
        assert word in shown.screen


def test_events_are_json_lines_and_can_be_followed(tmp_path: Path) -> None:
    """`events -o jsonl` tells how the cluster came up; --follow tells what happens next."""
    text = unsayable(tmp_path)
    past = events_of(ttsctl("events", "-o", "jsonl").stdout)
    assert {"worker.joined", "worker.ready", "lease.acquired"} <= {e["event"] for e in past}
    with subprocess.Popen(
        command("events", "--follow", "-o", "jsonl"), stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        for _ in past:
            following.stdout.readline()
        ttsctl("say", *text)
        news = json.loads(following.stdout.readline())
        following.send_signal(signal.SIGINT)
        assert following.wait(30) == 130
    assert news["event"] == "job.failed"
    assert "lexicon" in news["reason"]


def test_doctor_finds_a_working_cluster_healthy() -> None:
    """Nothing fails where everything runs, and each finding has its remedy field."""
    done = ttsctl("doctor", "-o", "json")
    findings = json.loads(done.stdout)
    assert done.returncode == 0, [f for f in findings if f["verdict"] == "fail"]
    by_check = {finding["check"]: finding["verdict"] for finding in findings}
    assert by_check["workers"] == by_check["primary"] == by_check["storage"] == "ok"
