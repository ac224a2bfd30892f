"""`ttsctl up --detach`: the supervisor in a session of its own, which reports once and goes on.

The parent writes the options to the child's stdin as JSON; the child answers with one line of JSON
on its stdout, when everything is ready or when it has failed, and from then on has no stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

from tts_tasks import errors
from tts_tasks.errors import ConfigurationError, ConflictError, TTSError, UnavailableError
from ttsctl.supervisor.logs import open_log, tail
from ttsctl.supervisor.plan import PoolPlan, UpOptions, with_absolute_python_path
from ttsctl.supervisor.service import already_running, run_up
from ttsctl.supervisor.state import UP_ID_VARIABLE, UpLock, read_state
from ttsctl.supervisor.teardown import lock_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_tasks.settings import Settings
    from ttsctl.supervisor.state import UpState
    from ttsctl.supervisor.supervisor import Parts

SERVE_COMMAND = (sys.executable, "-m", "ttsctl.supervisor")
#: Beyond `wait_s`: time to start Redis, and to stop everything when it has failed.
_EXIT_GRACE_S = 60.0


def start_detached(
    settings: Settings, options: UpOptions, *, serve_command: Sequence[str] = SERVE_COMMAND
) -> UpState:
    """Start an `up` that outlives this process and its terminal; return once it is ready.

    Raises what the other process raised: `ConflictError`, `ConfigurationError` or
    `UnavailableError`. Ctrl-C while waiting stops what has been started, and goes on as
    KeyboardInterrupt.
    """
    (settings.home / "run").mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = UpLock(lock_path(settings.home))
    if not lock.acquire():  # said at once, though the other process would find out too
        raise already_running(settings.up_state_path)
    lock.release()
    log_path = settings.home / "logs" / "up.log"
    environment = with_absolute_python_path(os.environ)
    environment.pop(UP_ID_VARIABLE, None)
    environment["TTS_HOME"] = str(settings.home)
    with open_log(log_path) as log:
        log_start_bytes = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            serve_command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=settings.home,
            env=environment,
            start_new_session=True,
            text=True,
        )
    try:
        outcome = _exchange(process, options)
    except KeyboardInterrupt:
        process.terminate()
        process.wait(options.stop_timeout_s + _EXIT_GRACE_S)
        raise
    if outcome.get("ready"):
        state = read_state(settings.up_state_path)
        if state is not None:
            return state
    else:
        process.wait(_EXIT_GRACE_S)
    if "error" in outcome:
        raise _error(str(outcome["error"]), str(outcome.get("message", "")))
    raise UnavailableError(
        f"`ttsctl up` ended before it was ready; {log_path} ends with:\n"
        + tail(log_path, start_bytes=log_start_bytes)
    )


def serve(settings: Settings, *, parts: Parts | None = None) -> int:
    """Be the detached process: read options from stdin, run, report on stdout; an exit status."""
    options = json.load(sys.stdin)
    options["gpus"] = tuple(options["gpus"])
    options["pools"] = tuple(PoolPlan(**pool) for pool in options["pools"])

    def announce(_state: UpState) -> None:
        _report({"ready": True})

    try:
        run_up(settings, UpOptions(**options), announce=announce, parts=parts)
    except (TTSError, OSError) as error:
        _report({"error": type(error).__name__, "message": str(error)})
        return 1
    return 0


def _exchange(process: subprocess.Popen[str], options: UpOptions) -> dict[str, object]:
    """Hand over the options and wait for the one line of answer; empty if it never comes."""
    stdin, stdout = _pipe(process.stdin), _pipe(process.stdout)
    try:
        stdin.write(json.dumps(asdict(options)))
        stdin.close()
    except BrokenPipeError:
        return {}
    with stdout:
        line = stdout.readline()
    outcome: dict[str, object] = json.loads(line) if line.strip() else {}
    return outcome


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ConfigurationError("the detached process was started without pipes")
    return pipe


def _report(outcome: dict[str, object]) -> None:
    """Answer the parent, if it still listens, and let go of its pipe."""
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), (json.dumps(outcome) + "\n").encode())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _error(name: str, message: str) -> TTSError:
    for kind in (ConflictError, ConfigurationError, UnavailableError):
        if kind.__name__ == name:
            return kind(message)
    return errors.TTSError(f"{name}: {message}")
