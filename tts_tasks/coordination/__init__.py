"""Who leads and who lives: the lease of a lane and the registry of workers.

`base` holds the Protocols and their values; each store is one module beside it.
"""

from tts_tasks.coordination.base import Coordinator, EpochFloor, Lease, Orders, WorkerRecord

__all__ = ["Coordinator", "EpochFloor", "Lease", "Orders", "WorkerRecord"]
