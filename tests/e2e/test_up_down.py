"""`ttsctl up` and `ttsctl down` with real processes: a real Redis, and workers of the test's own.

The supervised workers are small programs, so that their faults can be chosen; the supervisor, the
detached process, the signals and the sweep are the product's.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from tts_tasks.cluster import cluster_status
from tts_tasks.errors import ConflictError, UnavailableError
from tts_tasks.events import EventLog
from tts_tasks.settings import Settings
from ttsctl.supervisor.detached import start_detached
from ttsctl.supervisor.plan import UpOptions
from ttsctl.supervisor.procfs import processes_with_environment
from ttsctl.supervisor.state import UpState, read_state
from ttsctl.supervisor.teardown import take_down

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0

WORKER = """
import os, pathlib, signal, subprocess, sys, time
behaviour = os.environ.get("FAKE_WORKER", "")
home = pathlib.Path(os.environ["TTS_HOME"])

def on_term(*_):
    if behaviour == "stubborn":
        return
    with open(home / "order", "a") as order:
        order.write("worker\\n")
    os._exit(0)

signal.signal(signal.SIGTERM, on_term)
signal.signal(signal.SIGQUIT, lambda *_: os._exit(3))
if behaviour == "broken":
    sys.exit("no such device")
if behaviour == "litter":
    ignore = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-I", "-S", "-c", ignore], start_new_session=True)
if behaviour != "slow":
    (home / f"ready-{os.getpid()}").touch()
while True:
    time.sleep(600)
"""

DRIVER = """
import os, signal, sys
from functools import partial
from tts_tasks.settings import Settings
from ttsctl.supervisor import detached, plan, processes, service, supervisor

WORKER = {worker!r}
SETTINGS = Settings()

def workers(settings, options, environment):
    specs = []
    for number, gpu in enumerate(options.gpus, 1):
        log_path = settings.home / "logs" / f"w{{number}}.log"
        command = [sys.executable, "-I", "-S", "-c", WORKER, gpu]
        spawn = partial(processes.launch, command, environment=environment,
                        directory=settings.home, log_path=log_path)
        steps = (processes.StopStep(signal.SIGTERM, options.stop_timeout_s),
                 processes.StopStep(signal.SIGQUIT, 5.0),
                 processes.StopStep(signal.SIGKILL, 5.0, whole_group=True))
        node = plan.node_name(f"w{{number}}", settings.home)
        specs.append(processes.ChildSpec(f"w{{number}}", spawn, log_path, steps, node=node))
    return specs

def ready(settings, pids):
    return all((settings.home / f"ready-{{pid}}").exists() for pid in pids.values())

parts = supervisor.Parts(workers=workers, ready=ready)
if sys.argv[1] == "serve":
    sys.exit(detached.serve(SETTINGS, parts=parts))
options = plan.UpOptions(gpus=("cpu", "cpu"), flower=False, stop_timeout_s=60.0)
ended_by = service.run_up(
    SETTINGS, options, announce=lambda state: print("ready", flush=True), parts=parts
)
print(ended_by.name, flush=True)
"""


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds; fail with ``what`` after a generous deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Site:
    """One TTS_HOME of the test, and the ways to run `up` in it."""

    def __init__(self, home: Path, driver: Path) -> None:
        self.home = home
        self.driver = driver
        self.settings = Settings(home=home)
        self.options = UpOptions(gpus=("cpu", "cpu"), flower=False, wait_s=DEADLINE_S)

    def command(self, mode: str) -> list[str]:
        """Return the command of the test's driver."""
        return [sys.executable, str(self.driver), mode]

    def up(self, options: UpOptions | None = None) -> UpState:
        """Run `up --detach`."""
        return start_detached(
            self.settings, options or self.options, serve_command=self.command("serve")
        )

    def foreground(self) -> subprocess.Popen[str]:
        """Run `up` in the foreground and return once it says that it is ready."""
        environment = {**os.environ, "TTS_HOME": str(self.home)}
        process = subprocess.Popen(
            self.command("foreground"), env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def down(self) -> None:
        """Run `down`."""
        take_down(self.home, timeout_s=DEADLINE_S, say=lambda _: None)

    def state(self) -> UpState:
        """Return what `up` has written down now."""
        state = read_state(self.settings.up_state_path)
        assert state is not None
        return state


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Give a home of its own, and leave nothing running in it whatever the test did."""
    paths = [str(ROOT / part) for part in (".", "workers", "gateway", "cli")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("TTS_REDIS_URL", raising=False)
    driver = tmp_path / "driver.py"
    driver.write_text(textwrap.dedent(DRIVER).format(worker=WORKER), encoding="utf-8")
    site = Site(tmp_path / "home", driver)
    yield site
    with suppress(ConflictError):
        site.down()


def running(state: UpState) -> list[int]:
    """Return the pids of all processes that carry the mark of an `up`."""
    return [process.pid for process in processes_with_environment("TTS_UP_ID", state.id)]


def test_nothing_is_left_running_after_down(site: Site) -> None:
    """After `down` no process that `up` has started exists, nor `up` itself, nor its state."""
    state = site.up()
    assert len(running(state)) == 3
    assert state.redis_pid in running(state)

    report = take_down(site.home, timeout_s=DEADLINE_S, say=lambda _: None)

    assert report.was_running
    assert not report.killed
    assert not running(state)
    assert not state.supervisor.is_running()
    assert not site.settings.up_state_path.exists()


def test_kill_9_of_up_leaves_no_orphan(site: Site) -> None:
    """When `up` gets SIGKILL, every process it has started ends without anybody's help."""
    state = site.up()
    assert len(running(state)) == 3

    state.supervisor.send(signal.SIGKILL)

    eventually(lambda: not running(state), "orphans of a killed `up` still run")


def test_down_after_kill_9_ends_what_no_death_signal_reaches(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`down` finds and ends a deaf grandchild in a session of its own that a killed `up` left."""
    monkeypatch.setenv("FAKE_WORKER", "litter")
    state = site.up()
    eventually(lambda: len(running(state)) == 5, "the workers have not littered")
    state.supervisor.send(signal.SIGKILL)
    eventually(lambda: len(running(state)) == 2, "the workers and Redis still run")

    report = take_down(site.home, timeout_s=1.0, say=lambda _: None)

    assert not report.was_running
    assert report.leftovers == 2
    assert not running(state)


def test_the_next_up_clears_up_after_a_killed_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An `up` after a killed one first ends what that one left, and keeps its data."""
    first = site.up()
    redis.Redis.from_url(first.redis_url).set("kept", "yes")
    first.supervisor.send(signal.SIGKILL)
    eventually(lambda: not first.supervisor.is_running(), "`up` survived SIGKILL")

    second = site.up()

    assert not running(first)
    assert redis.Redis.from_url(second.redis_url).get("kept") == b"yes"


def test_data_survives_down_and_up_at_the_same_address(site: Site) -> None:
    """What Redis held before `down` is there after the next `up`, under the same URL."""
    first = site.up()
    redis.Redis.from_url(first.redis_url).set("kept", "yes")
    site.down()

    second = site.up()

    assert second.redis_url == first.redis_url
    assert redis.Redis.from_url(second.redis_url).get("kept") == b"yes"


def test_a_second_up_is_a_conflict(site: Site) -> None:
    """While an `up` runs, another one says which and how to look, and disturbs nothing."""
    state = site.up()

    with pytest.raises(ConflictError, match=rf"pid {state.pid}.*ttsctl status.*ttsctl down"):
        site.up()

    assert len(running(state)) == 3


def test_a_worker_that_dies_is_started_again(site: Site) -> None:
    """A killed worker gets a successor, which the state names and the event stream reports."""
    state = site.up()
    victim = state.workers[0].pid
    assert victim is not None

    os.kill(victim, signal.SIGKILL)

    eventually(
        lambda: site.state().workers[0].pid not in {None, victim}, "the worker was not restarted"
    )
    assert site.state().workers[1] == state.workers[1]
    client = redis.Redis.from_url(state.redis_url, decode_responses=True)
    endings = [e for e in EventLog(client).read() if e["event"] == "up.process_ended"]
    assert [(e["process"], e["reason"]) for e in endings] == [("w1", "ended with signal SIGKILL")]


def test_a_killed_redis_comes_back_where_it_was(site: Site) -> None:
    """After kill -9 of Redis it runs again under the same URL, with what was synced before."""
    state = site.up()
    client = redis.Redis.from_url(state.redis_url)
    client.set("kept", "yes")
    client.waitaof(1, 0, 5000)
    assert state.redis_pid is not None

    os.kill(state.redis_pid, signal.SIGKILL)
    eventually(
        lambda: site.state().redis_pid not in {None, state.redis_pid}, "Redis was not restarted"
    )

    def kept() -> bool:
        try:
            return bool(client.get("kept") == b"yes")
        except redis.RedisError:
            return False

    eventually(kept, "Redis has lost its data or its address")
    assert site.state().workers == state.workers


def test_a_worker_that_cannot_start_fails_up_with_its_log(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` gives up when a worker keeps ending, shows the end of its log, and stops the rest."""
    monkeypatch.setenv("FAKE_WORKER", "broken")

    with pytest.raises(UnavailableError, match=r"(?s)exit status 1, 3 times.*no such device"):
        site.up()

    assert not site.settings.up_state_path.exists()


def test_workers_that_do_not_become_ready_fail_up_and_are_stopped(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` waits for readiness, not for processes: it fails after --wait-s and leaves nothing."""
    monkeypatch.setenv("FAKE_WORKER", "slow")

    with pytest.raises(UnavailableError, match=r"not ready after 1 s.*--wait-s"):
        site.up(UpOptions(gpus=("cpu",), flower=False, wait_s=1.0))

    log = (site.home / "logs" / "up.log").read_text(encoding="utf-8")
    assert "started w1" in log
    assert "stopped w1" in log
    assert not site.settings.up_state_path.exists()


def test_ctrl_c_stops_workers_before_redis(site: Site) -> None:
    """SIGINT in the foreground ends the workers first, then Redis, and `up` last."""
    up = site.foreground()
    state = site.state()

    up.send_signal(signal.SIGINT)
    out, _ = up.communicate(timeout=DEADLINE_S)

    assert out == "SIGINT\n"
    assert up.returncode == 0
    assert not running(state)
    log = (site.home / "logs" / "up.log").read_text(encoding="utf-8")
    order = [line.split()[3] for line in log.splitlines() if " stopped " in line]
    assert sorted(order[:2]) == ["w1", "w2"]
    assert order[2:] == ["redis"]
    assert (site.home / "order").read_text(encoding="utf-8") == "worker\nworker\n"


def test_a_second_ctrl_c_hurries(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that would take a minute to stop are ended at once by another Ctrl-C."""
    monkeypatch.setenv("FAKE_WORKER", "stubborn")
    up = site.foreground()
    state = site.state()
    up_log = site.home / "logs" / "up.log"

    up.send_signal(signal.SIGINT)
    eventually(lambda: "stopping" in up_log.read_text(encoding="utf-8"), "it does not stop")
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=DEADLINE_S)

    assert not running(state)
    assert "stopped w1 (ended with exit status 3)" in up_log.read_text(encoding="utf-8")


def test_up_outlives_the_terminal_it_was_detached_from(site: Site) -> None:
    """A detached `up` is in a session of its own, without a terminal."""
    state = site.up()

    assert os.getsid(state.pid) == state.pid
    terminal = Path(f"/proc/{state.pid}/stat").read_text(encoding="utf-8").split()[6]
    assert terminal == "0"


def test_the_password_is_in_no_command_line_and_no_readable_file(site: Site) -> None:
    """Redis's password is in files of mode 0600 under directories of mode 0700, and in no `ps`."""
    state = site.up()
    password = redis.Redis.from_url(state.redis_url).connection_pool.connection_kwargs["password"]

    for pid in [*running(state), state.pid]:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        assert password not in command
    holders = [
        path
        for path in site.home.rglob("*")
        if path.is_file() and password.encode() in path.read_bytes()
    ]
    assert {path.name for path in holders} == {"up.json", "endpoint.json", "redis.conf"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}
    assert stat.S_IMODE((site.home / "run").stat().st_mode) == 0o700


def test_a_configured_redis_is_used_and_none_is_started(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TTS_REDIS_URL no server is started, and `down` leaves the configured one alone."""
    from ttsctl.supervisor.redis_server import EmbeddedRedis

    with EmbeddedRedis(tmp_path / "other", appendonly=False) as other:
        monkeypatch.setenv("TTS_REDIS_URL", other.url)

        state = site.up()
        assert state.redis_url == other.url
        assert state.redis_pid is None
        assert len(running(state)) == 2
        site.down()

        assert redis.Redis.from_url(other.url).ping()


def test_a_configured_redis_that_is_not_there_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreachable TTS_REDIS_URL fails `up` at once, without its password in the message."""
    monkeypatch.setenv("TTS_REDIS_URL", "redis://:secret@127.0.0.1:1/0")

    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1") as caught:
        site.up()

    assert "secret" not in str(caught.value)


def test_down_with_nothing_running_says_so(site: Site) -> None:
    """`down` where nothing runs is no error, and makes no files."""
    report = take_down(site.home, timeout_s=1.0, say=lambda _: None)

    assert not report.was_running
    assert report.leftovers == 0
    assert not site.home.exists()


def test_down_ends_an_up_that_hangs(site: Site) -> None:
    """A stopped (SIGSTOP) `up` is killed after --timeout-s, and its processes end with it."""
    state = site.up()
    state.supervisor.send(signal.SIGSTOP)

    report = take_down(site.home, timeout_s=0.2, say=lambda _: None)

    assert report.was_running
    assert report.killed
    assert not running(state)


def ttsctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real command line."""
    return subprocess.run(
        [sys.executable, "-m", "ttsctl", *arguments], capture_output=True, text=True, check=False
    )


def test_real_workers_come_up_and_leave_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line brings up Celery workers and Flower, and `down` ends all they started."""
    monkeypatch.setenv("TTS_HOME", str(site.home))

    done = ttsctl("up", "--detach", "--gpu", "cpu", "--workers", "2")

    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    state = site.state()
    assert state.flower_url is not None
    assert state.flower_url in done.stderr
    with urllib.request.urlopen(f"{state.flower_url}/healthcheck") as answer:  # noqa: S310
        assert answer.read() == b"OK"
    status = cluster_status(settings=Settings(home=site.home))
    assert {w["pid"] for w in status["workers"] if w["ready"]} == {w.pid for w in state.workers}
    assert ttsctl("up").returncode == 5

    done = ttsctl("down")

    assert (done.returncode, done.stderr.split()[-1]) == (0, "stopped")
    assert not running(state)


def test_kill_9_of_up_leaves_no_orphan_of_real_workers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's pool children, their engines and Flower end too when `up` gets SIGKILL.

    The workers are of two pools.
    """
    monkeypatch.setenv("TTS_HOME", str(site.home))
    done = ttsctl("up", "-d", "--gpu", "cpu", "--pool", "zh:paced:1", "--pool", "en:espeak:1")
    assert done.returncode == 0, done.stderr
    state = site.state()
    pools = cluster_status(settings=Settings(home=site.home))["pools"]
    assert [(pool["pool"], pool["engine"]) for pool in pools] == [("en", "espeak"), ("zh", "paced")]
    assert len(running(state)) > 4

    state.supervisor.send(signal.SIGKILL)

    eventually(lambda: not running(state), "orphans of a killed `up` still run")
    done = ttsctl("down")
    assert done.returncode == 0
    assert "had been killed" in done.stderr
