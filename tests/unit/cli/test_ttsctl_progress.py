"""Progress: the counts and rates, the bar on a terminal, the events in a pipe."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
import time

import pytest

from ttsctl.output import table_lines
from ttsctl.progress import (
    EventReporter,
    TalkingReporter,
    Tally,
    TerminalReporter,
    clock_text,
    reporter_for,
    standing_text,
)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    """Return a clock that stands still until it is set."""
    return Clock()


@pytest.fixture
def tally(cluster, clock):
    """Return the tally of a batch of ten lines, one of them rejected."""
    cluster.accepted, cluster.outcomes = True, "s" * 9 + "r"
    return Tally(cluster.batch_status("demo"), clock=clock)


def test_rates_and_time_left_come_from_the_recent_past(tally, clock):
    """Four jobs of 3 s sound in 2 s: 2 jobs/s, 6 s of sound a second, 2.5 s for the other five."""
    for _ in range(4):
        tally.add("succeeded", 3.0)
    clock.now += 2
    standing = tally.standing()
    assert (standing.done, standing.total, standing.rejected) == (5, 10, 1)
    assert (standing.jobs_per_s, standing.audio_s_per_s, standing.left_s) == (2.0, 6.0, 2.5)


def test_a_rate_falls_when_nothing_happens(tally, clock):
    """What is older than the window is forgotten; without a rate no time left is claimed."""
    tally.add("succeeded", 3.0)
    clock.now += 31
    standing = tally.standing()
    assert (standing.jobs_per_s, standing.audio_s_per_s, standing.left_s) == (0.0, 0.0, None)


def test_jobs_that_ended_before_we_came_are_no_speed(cluster, clock):
    """Re-attaching to a batch that is half done does not show a dream rate."""
    cluster.accepted, cluster.outcomes, cluster.finished = True, "ssss", 2
    tally = Tally(cluster.batch_status("demo"), clock=clock)
    for _ in range(3):
        tally.add("succeeded", 1.0)
    clock.now += 1
    assert (tally.standing().done, tally.standing().jobs_per_s) == (3, 1.0)


def test_a_standing_reads_as_a_line(tally, clock):
    """Counts, failures, rates and time left stand in the line; at the end no time is left."""
    tally.add("failed", None)
    clock.now += 1
    assert standing_text(tally.standing()) == (
        "2/10  1 failed  1 rejected  1.0 jobs/s  0 s audio/s  0:08 left"
    )
    for _ in range(8):
        tally.add("succeeded", 1.0)
    assert "left" not in standing_text(tally.standing())


@pytest.mark.parametrize(("span_s", "text"), [(0, "0:00"), (71.4, "1:11"), (3671, "1:01:11")])
def test_spans_read_as_clocks(span_s, text):
    """Minutes and seconds, hours when there are any."""
    assert clock_text(span_s) == text


@pytest.fixture
def terminal():
    """Return a stream on a pseudo-terminal, and a function that reads what it showed."""
    master, slave = pty.openpty()
    stream = open(slave, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - a descriptor

    def shown() -> str:
        stream.close()
        chunks = []
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # the other end is closed and all is read
                break
            if not chunk:
                break
            chunks.append(chunk)
        return b"".join(chunks).decode("utf-8")

    yield stream, shown
    stream.close()
    os.close(master)


def test_a_terminal_gets_a_bar(terminal, tally, monkeypatch):
    """On a terminal a bar with counts is drawn, and the messages are for people."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream, shown = terminal
    reporter = reporter_for(stream)
    assert isinstance(reporter, TerminalReporter)
    with reporter.following(tally):
        tally.add("succeeded", 1.0)
        reporter.say("line.rejected", "line 3 rejected: \x1b[2Jtext", line=3)
    text = shown()
    assert "━" in text
    assert "2/10" in text
    assert "line 3 rejected: \\x1b[2Jtext" in text
    assert '"event"' not in text


def test_the_bar_leaves_stdout_alone(terminal, tally, capsys, monkeypatch):
    """What a command writes to stdout while the bar is drawn goes to stdout."""
    monkeypatch.setenv("TERM", "xterm")
    stream, shown = terminal
    with reporter_for(stream).following(tally):
        sys.stdout.write("data\n")
    assert capsys.readouterr().out == "data\n"
    assert "data" not in shown()


def test_words_without_a_bar_where_results_have_the_screen(terminal, tally, monkeypatch):
    """While results are written to the same terminal no bar is drawn, but what matters is said."""
    monkeypatch.setenv("TERM", "xterm")
    stream, shown = terminal
    reporter = TalkingReporter(stream)
    with reporter.following(tally):
        reporter.say("batch.detached", "Look again with: ttsctl batch watch demo")
    text = shown()
    assert "ttsctl batch watch demo" in text
    assert "━" not in text


def test_accepting_is_counted_on_a_terminal(terminal, monkeypatch):
    """While lines are accepted their number is shown."""
    monkeypatch.setenv("TERM", "xterm")
    stream, shown = terminal
    reporter = reporter_for(stream)
    with reporter.accepting() as accepted:
        accepted(12_345)
    assert "accepted 12,345 lines" in shown()


def test_a_dumb_terminal_gets_events(terminal, monkeypatch):
    """A terminal that cannot redraw a line is treated as a pipe."""
    monkeypatch.setenv("TERM", "dumb")
    stream, _ = terminal
    assert isinstance(reporter_for(stream), EventReporter)


def events_of(stream: io.StringIO) -> list[dict]:
    """Return the events written so far."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_events_are_few_and_the_last_one_is_final(tally):
    """A thousand results within an interval are one event, told at the end."""
    stream = io.StringIO()
    with EventReporter(stream, interval_s=3600).following(tally):
        for _ in range(9):
            tally.add("succeeded", 1.0)
    (event,) = events_of(stream)
    assert (event["event"], event["done"], event["total"]) == ("batch.progress", 10, 10)


def test_news_is_told_while_a_slow_job_runs(tally):
    """The events come from a clock, not from the results: nothing waits for the next result."""
    stream = io.StringIO()
    with EventReporter(stream, interval_s=0.01).following(tally):
        tally.add("succeeded", 1.0)
        deadline = time.monotonic() + 20
        while not any(event["done"] == 2 for event in events_of(stream)):
            assert time.monotonic() < deadline, "no event while following"
            time.sleep(0.005)


def test_accepting_events_are_rate_limited(clock):
    """The accept phase tells its count at most once an interval."""
    stream = io.StringIO()
    with EventReporter(stream, interval_s=1.0, clock=clock).accepting() as accepted:
        for count in range(1, 31):
            clock.now += 0.1
            accepted(count * 500)
    counts = [event["accepted"] for event in events_of(stream)]
    assert 2 <= len(counts) <= 3
    assert counts == sorted(counts)


def test_events_are_ascii_json_with_text_of_any_script():
    """A message in Chinese comes through any log's encoding."""
    stream = io.StringIO()
    EventReporter(stream).say("line.rejected", "第三行", error="空")
    assert stream.getvalue().isascii()
    assert events_of(stream)[0]["message"] == "第三行"


def test_wide_characters_keep_the_columns_aligned():
    """A Chinese name takes two cells a character, so the next column still lines up."""
    lines = table_lines(("NAME", "N"), [("银行", 1), ("bank-1", 2)])
    assert lines[1] == "银行    1"
    assert lines[2] == "bank-1  2"
