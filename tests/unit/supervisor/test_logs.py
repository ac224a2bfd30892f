"""Logs of the supervised processes are kept in bounds, and their last lines are shown."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from ttsctl.supervisor.logs import open_log, tail

if TYPE_CHECKING:
    from pathlib import Path


def test_a_log_is_appended_to_and_set_aside_when_it_is_large(tmp_path: Path) -> None:
    """A log at its limit becomes NAME.1 at the next start, and three old ones are kept."""
    path = tmp_path / "logs" / "w1.log"
    for number in range(6):
        with open_log(path, max_bytes=5) as log:
            log.write(f"{number}a".encode())
        with open_log(path, max_bytes=5) as log:
            log.write(b"bcd")

    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["w1.log", "w1.log.1", "w1.log.2", "w1.log.3"]
    assert path.read_bytes() == b"5abcd"
    assert path.with_name("w1.log.3").read_bytes() == b"2abcd"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    """The tail holds the last lines, survives bytes that are no text; without a log it is empty."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100_000 + b"\none\n\xff two\nthree\n\n")

    assert tail(path, lines=2) == "\ufffd two\nthree"
    assert tail(tmp_path / "none") == ""
