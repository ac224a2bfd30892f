"""Child processes of the supervisor: how one is launched, how it ends, when it is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.waiting import eventually
from ttsctl.supervisor import launcher
from ttsctl.supervisor.logs import tail
from ttsctl.supervisor.processes import Backoff, Child, ChildSpec, exit_words, launch
from ttsctl.supervisor.procfs import identify

DEADLINE_S = 20.0
LAUNCHER = str(Path(launcher.__file__).absolute())


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
    eventually(child.reap, what="the child did not end")

    helper = int(log_path.read_text(encoding="ascii"))
    assert child.last_ending == "ended with signal SIGKILL"
    assert child.due_at is not None

    def gone() -> bool:
        with suppress(ProcessLookupError):
            return not identify(helper).is_running()
        return True

    eventually(gone, what="the helper outlived its worker")


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
