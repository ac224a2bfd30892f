"""What a child writes on its slate, its parent reads whole: the newest, or the one before."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest

from tts_workers.slate import Slate, SlateView

#: Writes texts of one character each, of many lengths, until it is killed.
WRITER = """
import socket, sys
from tts_workers.slate import Slate
slate = Slate()
with socket.socket(fileno=int(sys.argv[1])) as parent:
    socket.send_fds(parent, [b"."], [slate.fd])
    n = 0
    while True:
        n += 1
        slate.write(str(n % 10).encode() * (n % 3000))
"""


@pytest.fixture
def slate() -> Slate:
    """A slate with nothing on it."""
    return Slate()


def test_the_newest_is_read_once(slate: Slate) -> None:
    """Of what was written between two looks only the last is seen, and then nothing new."""
    view = SlateView(slate.fd)
    assert view.read() is None
    for text in (b"one", b"two", b"three"):
        slate.write(text)
    assert view.read() == b"three"
    assert view.read() is None
    slate.write(b"")
    assert view.read() == b""


def test_the_same_text_again_is_news(slate: Slate) -> None:
    """A child that does the same thing again has got on."""
    view = SlateView(slate.fd)
    for _ in range(2):
        slate.write(b"same")
        assert view.read() == b"same"


def test_what_was_half_written_is_passed_over(slate: Slate) -> None:
    """Where a writer was killed in the middle, what it wrote before that is read."""
    view = SlateView(slate.fd)
    slate.write(b"whole")
    slate.write(b"broken")
    with mmap.mmap(slate.fd, 0) as memory:
        memory[memory.find(b"broken")] = ord("X")
    assert view.read() == b"whole"


def test_what_has_no_room_is_refused(slate: Slate) -> None:
    """A text that is too long is an error, and what was there stays."""
    view = SlateView(slate.fd)
    slate.write(b"short")
    with pytest.raises(ValueError, match="20000 bytes are too long for a slate"):
        slate.write(b"x" * 20_000)
    assert view.read() == b"short"


def test_a_busy_writer_is_always_read_whole() -> None:
    """Whatever moment the parent looks at, and when the child is killed, a text is of one piece."""
    import socket

    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", WRITER, str(theirs.fileno())]
    with ours, theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as writer:
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        view = SlateView(fd)
        os.close(fd)
        texts: list[bytes] = []
        while len(texts) < 200:  # it writes so fast that most looks find both places busy
            texts += [text for text in (view.read(),) if text]
        writer.kill()
        writer.wait(30)
        texts += [text for text in (view.read(),) if text]
    assert all(len(set(text)) == 1 for text in texts)
