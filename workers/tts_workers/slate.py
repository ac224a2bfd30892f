"""A page of memory on which a child writes what it has in hand, for its parent to read.

Writing costs neither process a system call, which matters where a line of a batch takes less than
a millisecond. Only the newest writing counts; the parent looks when it wants to know, also after
the child has died: what it wrote last is there, however it ended. Proved by
``tests/unit/test_slate.py``.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from typing import Final

#: Number of the writing, length, and CRC-32 of what follows and of the number.
_HEADER: Final = struct.Struct("<QII")
_PLACE_BYTES: Final = 16_384
#: The newest and the one before: a writer that is killed in the middle leaves the one before.
_PLACES: Final = 2


class Slate:
    """The child's end. One thread writes at a time."""

    def __init__(self) -> None:
        #: what the parent's `SlateView` is made of; to be closed by who has sent it
        self.fd = os.memfd_create("tts-slate")
        os.ftruncate(self.fd, _PLACES * _PLACE_BYTES)
        self._memory = mmap.mmap(self.fd, _PLACES * _PLACE_BYTES)
        self._number = 0

    def write(self, text: bytes) -> None:
        """Put this in place of what was written; raises ValueError for what has no room."""
        self._number += 1
        written = _HEADER.pack(self._number, len(text), _check(self._number, text)) + text
        if len(written) > _PLACE_BYTES:
            raise ValueError(f"{len(text)} bytes are too long for a slate")
        start = self._number % _PLACES * _PLACE_BYTES
        self._memory[start : start + len(written)] = written


class SlateView:
    """The parent's end."""

    def __init__(self, fd: int) -> None:
        """Read what is written to ``fd``, which may be closed then."""
        self._memory = mmap.mmap(fd, _PLACES * _PLACE_BYTES, prot=mmap.PROT_READ)
        self._number = 0

    def read(self) -> bytes | None:
        """Return what was written last; None: nothing since it was read last.

        A place in which the writer is just busy is passed over: the next look finds it whole.
        """
        newest: tuple[int, bytes] = self._number, b""
        for place in range(_PLACES):
            start = place * _PLACE_BYTES
            number, length, check = _HEADER.unpack_from(self._memory, start)
            if number <= newest[0] or length > _PLACE_BYTES - _HEADER.size:
                continue
            start += _HEADER.size
            text = self._memory[start : start + length]
            if _check(number, text) == check:
                newest = number, text
        if newest[0] == self._number:
            return None
        self._number, text = newest
        return text


def _check(number: int, text: bytes) -> int:
    return zlib.crc32(text, number & 0xFFFFFFFF)
