"""The leases on this host's GPUs.

Rule: two workers of one host never share a GPU by accident. It is enforced by `GpuLocks.acquire`
and proved by ``tests/unit/test_gpu.py::test_kill_frees_the_gpu`` and its neighbours.

A lease is an flock on a file named after the GPU's UUID. The kernel drops it at any death of the
holder, so it needs no time to live, and one kernel cannot grant it twice. Containers share it when
they mount one directory and name it in ``TTS_GPU_LOCK_DIR``.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tts_tasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

#: A lock file is a one-line record; anything larger is somebody else's file and is left alone.
_MAX_RECORD_BYTES: Final = 1024


class GpuLock:
    """A held lease on one GPU. It lasts until `release` or the end of this process.

    There is no finaliser on purpose: a dropped reference must not free a GPU that is in use.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd: int | None = fd
        _held.add(self)

    def release(self) -> None:
        """Give the GPU back; may be called twice."""
        fd, self._fd = self._fd, None
        _held.discard(self)
        if fd is not None:
            os.close(fd)


_held: set[GpuLock] = set()


def _close_in_forked_child() -> None:
    # A child that outlives the worker must not keep its GPU leased: exec closes the descriptor
    # (O_CLOEXEC), fork alone does not.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_close_in_forked_child)


def default_lock_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return TTS_GPU_LOCK_DIR, else the host's directory for locks that all users share.

    The choice hangs on what the directory is and not on who asks (nor on TMPDIR): every user of
    the host must come to the same answer. Both defaults belong to root and are sticky, so nobody
    can replace another user's lock file.
    """
    given = (os.environ if environ is None else environ).get("TTS_GPU_LOCK_DIR")
    if given:
        return Path(given)
    run_lock = Path("/run/lock")
    try:
        mode = run_lock.stat().st_mode
    except OSError:
        mode = 0
    shared = stat.S_ISDIR(mode) and mode & stat.S_ISVTX and mode & stat.S_IWOTH
    return run_lock if shared else Path("/tmp")  # noqa: S108 - opened safely, see _open


def sharing_allowed(environ: Mapping[str, str] | None = None) -> bool:
    """Read TTS_GPU_SHARED; raises `ConfigurationError` for anything but a yes or a no."""
    value = (os.environ if environ is None else environ).get("TTS_GPU_SHARED", "").strip().lower()
    if value not in {"", "0", "1", "false", "true", "no", "yes"}:
        raise ConfigurationError(f"TTS_GPU_SHARED={value!r}: must be 1 or 0")
    return value in {"1", "true", "yes"}


@dataclass(frozen=True, slots=True)
class GpuLocks:
    """The leases on this host's GPUs: one lock file each in ``directory``.

    ``shared`` lets several workers that all ask for it use one GPU on purpose
    (``TTS_GPU_SHARED=1``); a worker that did not ask still keeps its GPU for itself.
    """

    owner: str  #: the worker's name, for the messages others will read
    directory: Path = field(default_factory=default_lock_dir)
    shared: bool = field(default_factory=sharing_allowed)

    def acquire(self, gpu_uuid: str) -> GpuLock | None:
        """Lease the GPU without waiting; None if another worker has it."""
        path = self.path(gpu_uuid)
        while True:
            fd = self._open(path)
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return None
            except OSError as error:
                os.close(fd)
                raise _lock_error(path, error) from error
            if _is_still_at(fd, path):
                break
            os.close(fd)  # a cleaner removed the file between open and lock: it locks nothing now
        self._write_record(fd)
        return GpuLock(path, fd)

    def holder(self, gpu_uuid: str) -> str:
        """Say who has leased the GPU, as far as its record tells; for messages only."""
        try:
            fd = os.open(self.path(gpu_uuid), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return "an unknown process"
        with open(fd, "rb") as file:  # noqa: PTH123 - the descriptor was opened without symlinks
            raw = file.read(_MAX_RECORD_BYTES)
        try:
            record = json.loads(raw)
            worker, pid, host = record["worker"], int(record["pid"]), record["host"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return "an unknown process"
        return f"worker {_printable(worker)} (pid {pid} on {_printable(host)})"

    def path(self, gpu_uuid: str) -> Path:
        """Return the GPU's lock file."""
        return self.directory / f"tts-gpu-{re.sub('[^A-Za-z0-9-]', '_', gpu_uuid)}.lock"

    def _open(self, path: Path) -> int:
        # Opening with O_CREAT another user's file in a sticky directory is refused by the kernel
        # (fs.protected_regular), so opening and creating are two steps. Without O_CREAT, and with
        # O_NOFOLLOW and the checks on what was opened, a planted link or FIFO gains nothing.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            while True:
                try:
                    fd = os.open(path, flags)
                    break
                except FileNotFoundError:
                    self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                try:
                    fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
                    os.fchmod(fd, 0o666)  # every user's worker takes the same lock
                    break
                except FileExistsError:
                    continue
        except OSError as error:
            raise _lock_error(path, error) from error
        state = os.fstat(fd)
        if (
            stat.S_ISREG(state.st_mode)
            and state.st_nlink <= 1
            and (state.st_size <= _MAX_RECORD_BYTES)
        ):
            return fd
        os.close(fd)
        raise ConfigurationError(
            f"{path} is not a lock file of this program: remove it or set TTS_GPU_LOCK_DIR"
        )

    def _write_record(self, fd: int) -> None:
        record = {"worker": self.owner[:200], "pid": os.getpid(), "host": socket.gethostname()}
        line = json.dumps(record, ensure_ascii=False).encode(errors="replace") + b"\n"
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, line[:_MAX_RECORD_BYTES], 0)
        except OSError as error:
            # The lock holds without its record; only messages get poorer.
            log.warning("the record of a GPU lock could not be written: %s", error)


def _is_still_at(fd: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)


def _printable(value: object) -> str:
    return "".join(char if char.isprintable() else "?" for char in str(value))[:200]


def _lock_error(path: Path, error: OSError) -> ConfigurationError:
    what = "is a symbolic link" if error.errno == errno.ELOOP else str(error.strerror)
    return ConfigurationError(
        f"cannot lock {path}: {what}: remove it, or set TTS_GPU_LOCK_DIR to a directory that "
        "every worker of this host can write"
    )
