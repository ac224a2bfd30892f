"""What a dead child is known to have said and left behind, with real processes that die."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks.ledger.records import EVIDENCE_BYTES, evidence_json
from tts_workers.child_traces import ChildTraces, stderr_address
from tts_workers.child_watch import Stuck
from tts_workers.evidence import LINE_CHARS, LINES_KEPT, LogForwarder, Witness, exit_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PID = 4_000_000

CHILD = """
import ctypes, logging, os, sys, time
logging.basicConfig(stream=sys.stderr, format="%(message)s")
from tts_workers.child_traces import relay_stderr, write_stacks_later
relay_stderr(sys.argv[1])
logging.getLogger("tts").warning("a record")
{end}
"""


# -- what it has said -----------------------------------------------------------------------------


@pytest.fixture
def told() -> list[dict[str, Any]]:
    """What the parent hears."""
    return []


@pytest.fixture
def logger(told: list[dict[str, Any]]) -> Iterator[logging.Logger]:
    """A logger of a child's."""
    handler = LogForwarder(told.append)
    logger = logging.getLogger("tts.test_evidence")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.removeHandler(handler)


def test_a_child_tells_what_it_logs_from_warning_on(
    logger: logging.Logger, told: list[dict[str, Any]]
) -> None:
    """Of a traceback the last line; what is long is cut; less is not told."""
    logger.info("all is well")
    logger.warning("the fan of GPU %d\nis loud", 3)
    logger.error("x" * 2000, exc_info=ValueError("bad weights\nand more"))
    first, second = told
    assert first == {
        "event": "log",
        "lines": ["WARNING tts.test_evidence: the fan of GPU 3", "is loud"],
    }
    assert second["lines"][0].startswith("ERROR tts.test_evidence: xxx")
    assert len(second["lines"][0]) == LINE_CHARS
    assert second["lines"][1:] == ["ValueError: bad weights"]


def test_a_dead_child_is_known_by_its_last_words() -> None:
    """The job, the segment that it had begun, and its newest lines."""
    witness = Witness(lambda pid: {"signal": "SIGSEGV"} if pid == PID else {})
    assert not witness.heard(PID, {"event": "job", "job": "b:1"})
    assert not witness.heard(PID, {"event": "segment", "segment": 2, "segments": 5})
    for number in range(30):
        assert witness.heard(PID, {"event": "log", "lines": [f"line {number}"]})
    evidence = witness.of_dead(PID)()
    assert evidence == {
        "reason": "the engine's process was killed by SIGSEGV at segment 2 of 5",
        "job": "b:1",
        "segment": 2,
        "segments": 5,
        "log": [f"line {number}" for number in range(10, 30)],
        "signal": "SIGSEGV",
    }
    assert len(evidence["log"]) == LINES_KEPT


def test_a_new_job_begins_before_its_first_segment() -> None:
    """What the child was at in the job before says nothing of this one."""
    witness = Witness(lambda _: {})
    for message in (
        {"event": "job", "job": "b:1"},
        {"event": "segment", "segment": 5, "segments": 5},
        {"event": "job", "job": "b:2"},
    ):
        witness.heard(PID, message)
    assert witness.of_dead(PID)() == {"reason": "the engine's process is gone", "job": "b:2"}
    assert witness.of_dead(PID)() == {"reason": "the engine's process is gone"}  # forgotten


def test_a_stuck_child_is_known_by_its_silence() -> None:
    """That its worker killed it is no news; where it hung is."""
    witness = Witness(lambda _: {"signal": "SIGKILL", "stderr": ["Timeout", "in speak"]})
    witness.heard(PID, {"event": "job", "job": "b:1"})
    witness.heard(PID, {"event": "segment", "segment": 1, "segments": 1})
    evidence = witness.of_stuck(Stuck(PID, "b:1", 3.25, 3.0))()
    assert evidence["reason"] == (
        "the engine made no progress for 3.2 s, where it may take 3.0 s, and was killed "
        "at segment 1 of 1"
    )
    assert (evidence["silent_s"], evidence["budget_s"]) == (3.25, 3.0)
    assert evidence["stderr"] == ["Timeout", "in speak"]
    assert "signal" not in evidence


@pytest.mark.parametrize(
    ("exit_code", "field"),
    [(0, {"exit_status": 0}), (70, {"exit_status": 70}), (-9, {"signal": "SIGKILL"})],
)
def test_an_exit_code_is_told_as_people_say_it(exit_code: int, field: dict[str, Any]) -> None:
    """A signal by its name."""
    assert exit_fields(exit_code) == field


def test_evidence_fits_into_a_job_whatever_it_holds() -> None:
    """The longest list loses its oldest lines; what still does not fit is its reason alone."""
    assert evidence_json(None) == ""
    text = evidence_json({"reason": "r", "log": ["é" * 400] * 20, "stderr": ["short"]})
    assert 3000 < len(text.encode()) <= EVIDENCE_BYTES
    assert "short" in text
    assert evidence_json({"reason": "x" * 20_000}) == f'{{"reason": "{"x" * 500}"}}'


# -- what it has left behind ----------------------------------------------------------------------


@pytest.fixture
def address() -> str:
    """Where the child's stderr is taken."""
    return stderr_address(f"tts-test-{os.getpid()}-{secrets.token_hex(4)}")


@pytest.fixture
def traces(address: str) -> Iterator[ChildTraces]:
    """A parent that listens."""
    traces = ChildTraces(address)
    yield traces
    traces.close()


def start(address: str, end: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(end=end), address],
        stderr=subprocess.PIPE,
        text=True,
    )


def dead(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ("os._exit(70)", {"exit_status": 70}),
        ("os.kill(os.getpid(), 9)", {"signal": "SIGKILL"}),
    ],
)
def test_the_status_is_read_without_taking_it_from_the_pool(
    traces: ChildTraces, address: str, end: str, how: dict[str, Any]
) -> None:
    """Where the event loop stands still nobody has it yet; it must be there when it goes on."""
    child = start(address, end)
    dead(child.pid)
    assert traces.of(child.pid, within_s=0.0) == how
    assert traces.of(child.pid, within_s=0.0) == how
    child.communicate()
    assert exit_fields(child.returncode) == how


def test_the_pool_is_believed_when_the_status_is_taken(traces: ChildTraces) -> None:
    """Nothing else can know it any more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert traces.of(child.pid, within_s=0.0) == {}
    traces.exited(child.pid, child.returncode)
    assert traces.of(child.pid) == {"exit_status": 0}


def test_native_words_are_kept_and_passed_on_and_logs_stay_where_they_were(
    traces: ChildTraces, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a chatty library the last lines, and what it did not end."""
    end = (
        "for n in range(300): os.write(2, b'native %d\\n' % n)\n"
        "os.write(2, b'no newline')\nos._exit(1)"
    )
    child = start(address, end)
    dead(child.pid)
    stderr = traces.of(child.pid, within_s=0.0)["stderr"]
    assert stderr == [*(f"native {n}" for n in range(281, 300)), "no newline"]
    _, logged = child.communicate()
    assert logged == "a record\n"
    assert "native 0\n" in capfd.readouterr().err


def test_of_a_fatal_error_its_beginning_is_kept(traces: ChildTraces, address: str) -> None:
    """The interpreter says which, and where; what stood before it is the library's own reason."""
    end = (
        "os.write(2, b'terminate called after throwing\\n')\n"
        "def deep(n):\n    deep(n - 1) if n else ctypes.string_at(0)\ndeep(60)"
    )
    child = start(address, end)
    dead(child.pid)
    found = traces.of(child.pid, within_s=0.0)
    child.communicate()
    assert found["signal"] == signal.Signals.SIGSEGV.name
    assert found["stderr"][0] == "terminate called after throwing"
    assert found["stderr"][1] == "Fatal Python error: Segmentation fault"
    assert "string_at" in found["stderr"][3]
    assert len(found["stderr"]) == LINES_KEPT


def test_a_step_that_hangs_says_where(
    traces: ChildTraces, address: str, eventually: Callable[..., Any]
) -> None:
    """Before its budget is over, even if it holds the interpreter; one that ends says nothing."""
    end = (
        "write_stacks_later(0.2); write_stacks_later(0)\n"
        "def sticks():\n    ctypes.PyDLL(None).sleep(60)\n"
        "write_stacks_later(0.5); sticks()"
    )
    child = start(address, end)
    try:
        stderr = eventually(
            lambda: traces.of(child.pid, within_s=0.0).get("stderr"), what="it says where"
        )
        eventually(lambda: "in sticks" in "".join(traces.of(child.pid, within_s=0.0)["stderr"]))
        assert stderr
    finally:
        child.kill()
        child.communicate()
