"""One `ttsctl up`, from taking the lock to leaving nothing behind."""

from __future__ import annotations

import logging
import os
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis

from tts_tasks.errors import ConflictError, UnavailableError
from tts_tasks.redis_connection import connect, unavailable_is_clear
from ttsctl.supervisor.journal import Journal, log
from ttsctl.supervisor.logs import open_log
from ttsctl.supervisor.plan import configured_redis_url
from ttsctl.supervisor.procfs import identify
from ttsctl.supervisor.signals import SignalInbox
from ttsctl.supervisor.state import UpLock, read_state
from ttsctl.supervisor.supervisor import Parts, Supervisor
from ttsctl.supervisor.teardown import LEFTOVER_PATIENCE_S, end_leftovers, lock_path

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tts_tasks.settings import Settings
    from ttsctl.supervisor.plan import UpOptions
    from ttsctl.supervisor.state import UpState


def run_up(
    settings: Settings,
    options: UpOptions,
    *,
    announce: Callable[[UpState], None],
    parts: Parts | None = None,
) -> signal.Signals:
    """Run one cluster in the foreground until a signal ends it, and return that signal.

    ``announce`` is called once everything is ready. Only from the main thread. Raises
    `ConflictError` when an `up` already runs in this TTS_HOME, `ConfigurationError` and
    `UnavailableError` when it cannot be started; nothing is left running then.
    """
    home = settings.home
    (home / "run").mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = UpLock(lock_path(home))
    if not lock.acquire():
        raise already_running(settings.up_state_path)
    try:
        with SignalInbox() as signals, _logging_to(home / "logs" / "up.log"):
            _clear_up_after_a_killed_one(settings.up_state_path)
            redis_url = configured_redis_url(os.environ)
            if redis_url:
                _check_reachable(redis_url)
            supervisor = Supervisor(
                settings,
                options,
                up_id=uuid.uuid4().hex,
                identity=identify(os.getpid()),
                redis_url=redis_url,
                signals=signals,
                journal=Journal(),
                parts=parts or Parts(),
            )
            try:
                return supervisor.run(announce)
            finally:
                end_leftovers(supervisor.state.id)
                settings.up_state_path.unlink(missing_ok=True)
    finally:
        lock.release()


def already_running(state_path: Path) -> ConflictError:
    """Return the error that says which `up` runs, and how to look at it and to stop it."""
    state = read_state(state_path)
    which = ""
    if state is not None:
        which = f" (pid {state.pid}, {len(state.workers)} workers, since {state.started_at})"
    return ConflictError(
        f"`ttsctl up` already runs in {state_path.parent.parent}{which}: "
        "look with `ttsctl status`, stop it with `ttsctl down`"
    )


def _clear_up_after_a_killed_one(state_path: Path) -> None:
    """End what an `up` that was killed may have left: its Redis still writes, a child hangs."""
    state = read_state(state_path)
    if state is not None and (ended := end_leftovers(state.id, patience_s=LEFTOVER_PATIENCE_S)):
        log.info("ended %d processes of an earlier `up` that was killed", ended)


def _check_reachable(redis_url: str) -> None:
    client = connect(redis_url)
    try:
        with unavailable_is_clear(redis_url):
            client.ping()
    except redis.RedisError as error:
        raise UnavailableError(f"TTS_REDIS_URL answers, but not as Redis should: {error}") from None
    finally:
        client.close()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Write the supervisor's log to a file, for as long as it runs."""
    with open_log(path) as raw:
        handler = logging.StreamHandler(os.fdopen(os.dup(raw.fileno()), "w", encoding="utf-8"))
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.setLevel(logging.INFO)
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.stream.close()
