"""What `ttsctl up` runs, written down under ``$TTS_HOME/run``, and the lock that says it runs."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

from ttsctl.supervisor.procfs import ProcessIdentity

if TYPE_CHECKING:
    from pathlib import Path

#: Environment variable by which every process that an `up` has started is known, whoever is its
#: parent now. Its value is `UpState.id`.
UP_ID_VARIABLE = "TTS_UP_ID"


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker: its short name, its Celery node name, and the pid it has now (None: between)."""

    name: str
    node: str
    pid: int | None


@dataclass(frozen=True, slots=True)
class UpState:
    """What one `ttsctl up` runs. Holds Redis's password, so it is only ever in a 0600 file."""

    id: str
    pid: int
    start_time_ticks: int
    boot_id: str
    started_at: str  #: ISO 8601, UTC
    redis_url: str = field(default="", repr=False)
    redis_pid: int | None = None
    flower_url: str | None = None
    flower_pid: int | None = None
    workers: tuple[WorkerState, ...] = ()

    @property
    def supervisor(self) -> ProcessIdentity:
        """The process that runs it all."""
        return ProcessIdentity(self.pid, self.start_time_ticks, self.boot_id)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; raises ValueError when it is anything else."""
        try:
            values: dict[str, Any] = json.loads(text)
            workers = tuple(WorkerState(**_known(WorkerState, w)) for w in values.pop("workers"))
            state = cls(**_known(cls, values), workers=workers)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not the state of a `ttsctl up`: {error}") from None
        numbers = (state.pid, state.start_time_ticks)
        if not all(isinstance(number, int) and number > 0 for number in numbers) or not state.id:
            raise ValueError("not the state of a `ttsctl up`: pid, start_time_ticks or id is wrong")
        return state

    def to_json(self) -> str:
        """Write it as JSON, without ``redis_url`` as long as there is none."""
        values = asdict(self)
        if not self.redis_url:
            del values["redis_url"]  # readers take a missing address for "look elsewhere"
        return json.dumps(values, indent=1)

    def with_changes(self, **changes: Any) -> Self:
        """Return it with some fields changed."""
        return replace(self, **changes)


def _known(kind: type[UpState | WorkerState], values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a later version may have added: `down` must understand what it can."""
    names = {item.name for item in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def read_state(path: Path) -> UpState | None:
    """Return the state in ``path``; None without one, or when it cannot be understood."""
    try:
        return UpState.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_state(path: Path, state: UpState) -> None:
    """Write the state, mode 0600, so that a reader sees the old one or the new one, whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(state.to_json() + "\n")
    draft.replace(path)


class UpLock:
    """The right to run `up` in one TTS_HOME: at most one process has it, and death frees it.

    Proved by `test_a_second_up_is_a_conflict`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        """Take the lock; False when another process has it."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back; may be repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
