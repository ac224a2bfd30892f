"""A process is known by more than its pid, and found by its environment."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.waiting import eventually
from ttsctl.supervisor.procfs import (
    ProcessIdentity,
    boot_id,
    identify,
    processes_with_environment,
)


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
            lambda: b"a) R" in Path(f"/proc/{process.pid}/comm").read_bytes(),
            what="exec did not happen",
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

        eventually(lambda: found("abc") == [process.pid], what="the process was not found")
        assert found("ab") == []
        process.kill()

    assert found("abc") == []
    assert os.getpid() not in [
        p.pid for p in processes_with_environment("PATH", os.environ["PATH"])
    ]


def test_process_identity_of_a_missing_process_is_gone() -> None:
    """A process that does not exist cannot be identified, and what names it is gone."""
    with subprocess.Popen(["true"]) as process:
        pid = process.pid

    with pytest.raises(ProcessLookupError):
        identify(pid)
    assert ProcessIdentity(pid, 1, boot_id()).open() is None
