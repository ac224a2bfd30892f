"""What the parent told its child last: the lease to believe in, and who else could work."""

from __future__ import annotations

import threading
from typing import Any

from tts_tasks.coordination.base import Lease


class BelievedLease:
    """Kept up to date by the link; only the store decides whether it is true."""

    def __init__(self) -> None:
        self._lease: Lease | None = None
        self._changed = threading.Condition()
        self.others_ready = 0  #: workers of the pool that could take a job that this one may not

    def parent_said(self, message: dict[str, Any]) -> None:
        """Take in what the parent says."""
        self.others_ready = int(message.get("others_ready", 0))
        if "lease" in message:
            with self._changed:
                record = message["lease"]
                self._lease = Lease.parse(record) if record else None
                self._changed.notify_all()

    def get(self, timeout_s: float) -> Lease | None:
        """Return the lease; waits a moment for one, as a job may be faster than the news."""
        with self._changed:
            self._changed.wait_for(lambda: self._lease is not None, timeout_s)
            return self._lease
