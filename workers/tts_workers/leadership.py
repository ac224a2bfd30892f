"""What a worker's parent tells its child: whether it serves, as whom, and who else could work."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tts_tasks.coordination.base import Lease

if TYPE_CHECKING:
    from tts_workers.decision import Leadership


@dataclass(frozen=True, slots=True)
class Role:
    """What the consumer and the child must know: whether this worker serves, and leads."""

    serving: bool  #: ready and not draining
    leadership: Leadership | None
    others_ready: int = 0  #: workers of the pool that could take what this one failed over

    def as_message(self) -> dict[str, Any]:
        """Return what the child is told."""
        return {
            "serving": self.serving,
            "lease": str(self.leadership.lease) if self.leadership else None,
            "others_ready": self.others_ready,
        }


class BelievedLease:
    """What a child knows of it, kept up to date by the link; only the store knows what is true."""

    def __init__(self) -> None:
        self._lease: Lease | None = None
        self._changed = threading.Condition()
        self._serving = False
        self.others_ready = 0  #: workers of the pool that could take a job that this one may not

    def parent_said(self, message: dict[str, Any]) -> None:
        """Take in what the parent says."""
        self.others_ready = int(message.get("others_ready", 0))
        if "lease" in message:
            with self._changed:
                self._serving = bool(message.get("serving", True))
                record = message["lease"]
                self._lease = Lease.parse(record) if record else None
                self._changed.notify_all()

    def parent_gone(self) -> None:
        """Learn that nobody is there any more who would say otherwise: no work is to be taken."""
        self.parent_said({"lease": None, "serving": False})

    def get(self, timeout_s: float) -> Lease | None:
        """Return the lease; waits a moment for one, as a job may be faster than the news."""
        with self._changed:
            self._changed.wait_for(lambda: self._lease is not None, timeout_s)
            return self._lease

    def serves(self, timeout_s: float = 0.0) -> bool:
        """Whether this worker is to take work; waits a moment for the news."""
        with self._changed:
            self._changed.wait_for(lambda: self._serving, timeout_s)
            return self._serving
