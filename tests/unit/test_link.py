"""The line between a worker's parent and its child, with a real child process."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tts_workers.link import ChildLink, ParentLink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHILD = """
import sys
from tts_workers.link import ChildLink
heard = lambda message: link.say({"echo": message})
link = ChildLink(sys.argv[1], heard)
link.show({"event": "job", "job": "b:1"})
link.show({"event": "segment", "segment": 2, "segments": 3})
link.show({"event": "job", "job": "b:2"}, later=True)
link.show({"event": "budget", "budget_s": 5.0})
link.say({"event": "ready"})
sys.stdin.read()
"""


class Listener:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.lost: list[int] = []

    def child_said(self, pid: int, message: dict[str, Any]) -> None:
        self.messages.append(message)

    def child_lost(self, pid: int) -> None:
        self.lost.append(pid)


@pytest.fixture
def listener() -> Listener:
    """An empty notebook."""
    return Listener()


@pytest.fixture
def parent(listener: Listener) -> Iterator[ParentLink]:
    """A listening parent."""
    link = ParentLink(listener)
    yield link
    link.close()


@pytest.fixture
def child(parent: ParentLink) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that has connected."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, parent.address], stdin=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def test_the_parent_hears_the_child(
    listener: Listener, child: subprocess.Popen[bytes], eventually: Callable[..., Any]
) -> None:
    """What the child says arrives."""
    eventually(lambda: {"event": "ready"} in listener.messages)
    assert listener.lost == []


def test_a_killed_child_is_known_at_once(
    listener: Listener, child: subprocess.Popen[bytes], eventually: Callable[..., Any]
) -> None:
    """The kernel closes the line, whatever killed the child."""
    eventually(lambda: listener.messages)
    child.kill()
    eventually(lambda: listener.lost == [child.pid])


def test_what_a_child_shows_is_seen_when_somebody_looks(
    listener: Listener,
    parent: ParentLink,
    child: subprocess.Popen[bytes],
    eventually: Callable[..., Any],
) -> None:
    """The newest of each kind, once; of an earlier job nothing is left."""
    eventually(lambda: listener.messages)
    assert listener.messages == [{"event": "ready"}]
    parent.look()
    shown = [{"event": "job", "job": "b:2"}, {"event": "budget", "budget_s": 5.0}]
    assert listener.messages[1:] == shown
    parent.look()
    assert listener.messages[1:] == shown


def test_what_a_child_showed_before_it_was_killed_is_seen(
    parent: ParentLink,
    listener: Listener,
    child: subprocess.Popen[bytes],
    eventually: Callable[..., Any],
) -> None:
    """Who is told that it is lost can still look at what it had in hand."""
    eventually(lambda: listener.messages)
    told: list[dict[str, Any]] = []

    def child_lost(pid: int) -> None:
        parent.look()
        told.extend(listener.messages[1:])
        listener.lost.append(pid)

    listener.child_lost = child_lost  # type: ignore[method-assign]
    child.kill()
    eventually(lambda: listener.lost == [child.pid])
    assert told[0] == {"event": "job", "job": "b:2"}


def test_the_child_hears_the_last_word_also_when_it_comes_late(
    parent: ParentLink, listener: Listener, eventually: Callable[..., Any]
) -> None:
    """A child that starts after an election learns of the lease."""
    parent.say({"lease": "1:a"})
    parent.say({"lease": "2:a"})
    heard: list[dict[str, Any]] = []
    ChildLink(parent.address, heard.append)
    eventually(lambda: heard and heard[-1] == {"lease": "2:a"})


def test_speaking_to_a_child_that_does_not_listen_blocks_nobody(parent: ParentLink) -> None:
    """A stopped child must not hold the thread that ends leaderships."""
    import socket

    deaf = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    deaf.connect(b"\0" + parent.address.encode())
    done = threading.Event()

    def talk() -> None:
        for _ in range(5000):
            parent.say({"lease": "x" * 500})
        done.set()

    threading.Thread(target=talk, daemon=True).start()
    assert done.wait(30)
    deaf.close()
