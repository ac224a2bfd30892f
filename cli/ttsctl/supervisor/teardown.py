"""`ttsctl down`: ends what an `up` started, also when that `up` is no longer there to do it."""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tts_tasks.errors import ConflictError, UnavailableError
from ttsctl.supervisor.procfs import ProcessIdentity, processes_with_environment
from ttsctl.supervisor.state import UP_ID_VARIABLE, UpLock, read_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ttsctl.supervisor.state import UpState

_POLL_S = 0.05
#: A supervisor that was told to hurry is given so long until it is told again.
_HURRY_GRACE_S = 3.0
#: What was killed may take a while to give back a device's memory.
_KILL_GRACE_S = 10.0
_STATE_GRACE_S = 5.0
#: What the kernel ends when an `up` is killed ends within this: Redis writes its last second.
LEFTOVER_PATIENCE_S = 2.0


def lock_path(home: Path) -> Path:
    """Return the file whose lock a running `up` holds."""
    return home / "run" / "up.lock"


@dataclass(frozen=True, slots=True)
class DownReport:
    """What `down` found and did."""

    was_running: bool  #: an `up` was alive
    was_gone: bool = False  #: an `up` had ended without clearing up: it was killed
    killed: bool = False  #: it did not end by itself in time
    leftovers: int = 0  #: processes of it that had to be ended one by one


def take_down(home: Path, *, timeout_s: float, say: Callable[[str], None]) -> DownReport:
    """Stop the `up` of this TTS_HOME and return when none of its processes is left.

    Only processes that are proved to be that `up`'s are signalled: the supervisor by its pid and
    start time, the others by the mark in their environment. Raises `UnavailableError` when
    something would not end, `ConflictError` when another `up` started meanwhile, and
    PermissionError for somebody else's.
    """
    state_path = home / "run" / "up.json"
    if not lock_path(home).exists():
        return DownReport(was_running=False)
    lock = UpLock(lock_path(home))
    was_running = not lock.acquire()
    lock.release()
    state = _await_state(state_path, lock) if was_running else read_state(state_path)
    killed = False
    if state is not None and was_running:
        killed = _end_supervisor(state.supervisor, timeout_s, say)
    if not _acquire_within(lock, _KILL_GRACE_S):
        raise ConflictError(
            f"another `ttsctl up` or `ttsctl down` works in {home}: look with `ttsctl status`"
        )
    try:
        leftovers = (
            end_leftovers(state.id, patience_s=LEFTOVER_PATIENCE_S) if state is not None else 0
        )
        state_path.unlink(missing_ok=True)
    finally:
        lock.release()
    return DownReport(
        was_running=was_running,
        was_gone=state is not None and not was_running,
        killed=killed,
        leftovers=leftovers,
    )


def end_leftovers(up_id: str, *, patience_s: float = 0.0) -> int:
    """End every process that an `up` left behind; return how many had to be signalled.

    They are given ``patience_s`` to end by themselves, then SIGTERM, then SIGKILL. Raises
    `UnavailableError` when one survives even that.
    """
    if _gone_within(up_id, patience_s):
        return 0
    signalled: set[ProcessIdentity] = set()
    for number, grace_s in (
        (signal.SIGTERM, LEFTOVER_PATIENCE_S),
        (signal.SIGKILL, _KILL_GRACE_S),
    ):
        for process in processes_with_environment(UP_ID_VARIABLE, up_id):
            if process.send(number):
                signalled.add(process)
        if _gone_within(up_id, grace_s):
            return len(signalled)
    pids = [str(p.pid) for p in processes_with_environment(UP_ID_VARIABLE, up_id)]
    if pids:
        raise UnavailableError(
            f"these processes do not end, not even by SIGKILL: {', '.join(pids)}; "
            "the kernel holds them (look at `ps -o pid,stat,wchan`)"
        )
    return len(signalled)


def _end_supervisor(
    supervisor: ProcessIdentity, timeout_s: float, say: Callable[[str], None]
) -> bool:
    """Stop the supervisor, harder and harder; True if it had to be killed."""
    pidfd = supervisor.open()
    if pidfd is None:
        return False
    try:
        for number, grace_s in (
            (signal.SIGTERM, timeout_s),
            (signal.SIGTERM, _HURRY_GRACE_S),  # the second one makes it hurry
            (signal.SIGTERM, _HURRY_GRACE_S),
            (signal.SIGKILL, _KILL_GRACE_S),
        ):
            try:
                signal.pidfd_send_signal(pidfd, number)
            except ProcessLookupError:
                return False
            if _ended_within(pidfd, grace_s):
                return number == signal.SIGKILL
            say(f"`ttsctl up` (pid {supervisor.pid}) has not ended after {grace_s:g} s")
    finally:
        os.close(pidfd)
    raise UnavailableError(f"`ttsctl up` (pid {supervisor.pid}) does not end, not even by SIGKILL")


def _ended_within(pidfd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _gone_within(up_id: str, timeout_s: float) -> bool:
    return _true_within(lambda: not processes_with_environment(UP_ID_VARIABLE, up_id), timeout_s)


def _acquire_within(lock: UpLock, timeout_s: float) -> bool:
    return _true_within(lock.acquire, timeout_s)


def _await_state(path: Path, lock: UpLock) -> UpState | None:
    """Return the state of a running `up`, which may only just have begun to write it.

    None if it ended meanwhile. Raises `ConflictError` when it cannot be understood.
    """
    deadline = time.monotonic() + _STATE_GRACE_S
    while True:
        # Alive too: the file of one that was killed may lie there until the next has written.
        state = read_state(path)
        if state is not None and state.supervisor.is_running():
            return state
        if lock.acquire():
            lock.release()
            return state
        if time.monotonic() >= deadline:
            raise ConflictError(
                f"an `up` holds {lock.path}, but {path} does not say which: "
                f"find it with `fuser {lock.path}` and stop it"
            )
        time.sleep(_POLL_S)


def _true_within(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True
