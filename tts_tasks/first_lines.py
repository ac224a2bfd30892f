"""Who was the first to have a name, however many there are."""

from __future__ import annotations

import sqlite3
from typing import Final

from tts_tasks.errors import StorageError

#: What is kept in memory, in kB; the rest is in a temporary file, which has no name.
_CACHE_KB: Final = 8192


class FirstLines:
    """The first line of a file with each key: a dictionary whose memory does not grow with it.

    Raises `StorageError` where the folder for temporary files (``TMPDIR``) has no room for it.
    """

    def __init__(self) -> None:
        # An empty name: in memory at first, then in a temporary file that goes with the connection.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            f"PRAGMA cache_size = -{_CACHE_KB}",
            "CREATE TABLE first (key TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID",
            "BEGIN",
        ):
            self._database.execute(statement)

    def close(self) -> None:
        """Let everything go."""
        self._database.close()

    def claim(self, key: str, line: int) -> int:
        """Return the line that was the first with this key: this one, if there was none."""
        try:
            added = self._database.execute("INSERT OR IGNORE INTO first VALUES (?, ?)", (key, line))
            if added.rowcount:
                return line
            found = self._database.execute("SELECT line FROM first WHERE key = ?", (key,))
            return int(found.fetchone()[0])
        except sqlite3.OperationalError as error:
            raise _no_room(error) from error

    def free(self, key: str) -> None:
        """Let the next line that comes be the first with this key."""
        try:
            self._database.execute("DELETE FROM first WHERE key = ?", (key,))
        except sqlite3.OperationalError as error:
            raise _no_room(error) from error


def _no_room(error: sqlite3.OperationalError) -> StorageError:
    return StorageError(
        f"the ids of a large batch need a temporary file: {error}; free space in the folder for "
        "temporary files, or point TMPDIR elsewhere"
    )
