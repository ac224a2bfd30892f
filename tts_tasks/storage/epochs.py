"""Up to where a lane's epochs have been used, told by the storage that the artifacts are in.

The counter of epochs lives in Redis, and Redis may lose it. Epochs are marked in blocks, by
objects that are only ever created: a mark cannot go back, whoever writes it however late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tts_tasks.storage.base import SIDECAR_FOLDER

if TYPE_CHECKING:
    from tts_tasks.storage.base import Storage

#: Epochs under one mark: so many failovers cost one small object.
BLOCK = 1000


class EpochMarks:
    """The marks of one lane. After a mark for block n, epochs up to ``n × BLOCK`` count as used.

    Invariant: before a job is claimed under an epoch, a mark covers that epoch (`cover`); and a
    Redis that has lost its counter gives out none before the candidate has read the marks, after
    the loss (`floor`). So an epoch that an artifact has seen is not given out again, unless the
    data are lost once more between that reading and the acquisition; the pair is new even then.
    Proved by ``tests/contract/test_storage_contract.py``.
    """

    def __init__(self, storage: Storage, lane_key: str) -> None:
        self._storage = storage
        self._folder = f"{SIDECAR_FOLDER}/epochs/{lane_key}"
        self._marked = 0  #: blocks that are known to be marked

    def floor(self) -> int:
        """Return the highest epoch that may have been used; raises like `Storage.stat`."""
        while self._storage.stat(self._name(self._marked + 1)) is not None:
            self._marked += 1
        return self._marked * BLOCK

    def cover(self, epoch: int) -> None:
        """Mark an epoch as used, before anything is claimed under it."""
        while self._marked * BLOCK < epoch:
            # in order and without a gap: `floor` stops at the first block that is not marked
            self._storage.create(self._name(self._marked + 1), b"")
            self._marked += 1

    def check_writable(self) -> None:
        """See that marks can be made; raises like `Storage.replace`.

        Without them nothing is claimed, so a worker that cannot make any is of no use. The mark for
        block 0 says nothing else.
        """
        self._storage.replace(self._name(0), b"")

    def _name(self, block: int) -> str:
        return f"{self._folder}/{block}"
