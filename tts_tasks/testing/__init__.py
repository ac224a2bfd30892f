"""Stand-ins for tests, public: a clock that is moved by hand, and every store in memory.

They pass the same contract suites as the real stores. `MemoryCoordinator`, `MemoryLedger` and
`MemoryBatchBook` are clients of one `MemoryStore`, which is what one Redis would hold; a `Wire`
between a client and the store is where a test lets requests or replies go missing.
"""

from tts_tasks.testing.batch_book import MemoryBatchBook
from tts_tasks.testing.clock import FakeClock
from tts_tasks.testing.coordinator import ALL_KNOWN, MemoryCoordinator
from tts_tasks.testing.ledger import MemoryLedger
from tts_tasks.testing.segments import MemorySegments
from tts_tasks.testing.storage import MemoryStorage
from tts_tasks.testing.store import MemoryStore, Wire

__all__ = [
    "ALL_KNOWN",
    "FakeClock",
    "MemoryBatchBook",
    "MemoryCoordinator",
    "MemoryLedger",
    "MemorySegments",
    "MemoryStorage",
    "MemoryStore",
    "Wire",
]
