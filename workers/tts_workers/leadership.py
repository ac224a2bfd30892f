"""What the parent told its child last: whether it serves, as whom, and who else could work."""

from __future__ import annotations

import threading
from typing import Any

from tts_tasks.coordination.base import Lease


class BelievedLease:
    """Kept up to date by the link; only the store decides whether it is true."""

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
