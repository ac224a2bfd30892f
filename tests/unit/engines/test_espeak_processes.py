"""No helper of espeak outlives the worker it belongs to, and none dies with a mere thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tts_workers.engines.espeak import EspeakEngine

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 30.0


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {DEADLINE_S} s: {what}")
        threading.Event().wait(0.01)


def _is_gone(pid: int) -> bool:
    """Say whether a process has ended; one that only waits to be reaped has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def _start_worker(script: str, tmp_path: Path) -> subprocess.Popen[str]:
    """Start a process that stands for a worker's child; it prints when it is where it should be."""
    file = tmp_path / "worker.py"
    file.write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, str(file)], env=environment, stdout=subprocess.PIPE, text=True
    )


IDLE_WORKER = """
import time
from tts_workers.engines.espeak import EspeakEngine
engine = EspeakEngine()
engine.load("cpu")
print(engine.helper_pid, flush=True)
time.sleep(600)
"""

# Its espeakng_loader, beside the script, never returns: the renderer is caught in the act.
BUSY_WORKER = """
import threading, time
from tts_workers.engines.espeak_process import HelperProcess
helper = HelperProcess()
threading.Thread(target=lambda: helper.ask({"op": "describe"}, 600), daemon=True).start()
while helper.pid is None:
    time.sleep(0.01)
print(helper.pid, flush=True)
time.sleep(600)
"""


def test_idle_helper_ends_with_a_killed_worker(tmp_path: Path) -> None:
    """SIGKILL of the worker ends its idle helper."""
    worker = _start_worker(IDLE_WORKER, tmp_path)
    assert worker.stdout is not None
    helper_pid = int(worker.stdout.readline())
    assert not _is_gone(helper_pid)

    worker.kill()
    worker.communicate()

    _wait_until(lambda: _is_gone(helper_pid), "the idle helper ends")


@pytest.mark.parametrize("victim", ["worker", "helper"])
def test_busy_renderer_ends_with_a_killed_worker(tmp_path: Path, victim: str) -> None:
    """SIGKILL of the worker, or of the helper alone, ends the renderer in mid-utterance."""
    loader = "import time\ndef get_library_path():\n    time.sleep(600)\n"
    (tmp_path / "espeakng_loader.py").write_text(loader)
    worker = _start_worker(BUSY_WORKER, tmp_path)
    assert worker.stdout is not None
    helper_pid = int(worker.stdout.readline())
    _wait_until(lambda: bool(_children(helper_pid)), "a renderer is forked")
    (renderer_pid,) = _children(helper_pid)

    os.kill(worker.pid if victim == "worker" else helper_pid, signal.SIGKILL)

    _wait_until(lambda: _is_gone(renderer_pid), "the renderer ends")
    _wait_until(lambda: _is_gone(helper_pid), "the helper ends")
    worker.kill()
    worker.communicate()


def test_helper_survives_the_thread_that_loaded_it() -> None:
    """An engine loaded in a thread that ends keeps its helper (PDEATHSIG alone would kill it)."""
    engine = EspeakEngine()
    loader = threading.Thread(target=engine.load, args=("cpu",))
    loader.start()
    loader.join()
    helper_pid = engine.helper_pid
    assert helper_pid is not None

    capabilities = engine.capabilities()
    engine.load("cpu")

    assert engine.helper_pid == helper_pid
    assert engine.capabilities() == capabilities
    engine.close()


def test_close_ends_the_helper_and_its_pipes() -> None:
    """Closing ends the helper process and leaves no file descriptor behind."""
    descriptors = _descriptors()
    engine = EspeakEngine()
    engine.load("cpu")
    helper_pid = engine.helper_pid
    assert helper_pid is not None

    engine.close()
    engine.close()

    assert _is_gone(helper_pid)
    assert _descriptors() == descriptors


def test_ctrl_c_reaches_the_worker_only() -> None:
    """The helper is in a session of its own, away from the terminal's signals."""
    engine = EspeakEngine()
    engine.load("cpu")
    assert engine.helper_pid is not None

    assert os.getsid(engine.helper_pid) == engine.helper_pid != os.getsid(0)
    engine.close()
