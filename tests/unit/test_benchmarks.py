"""The pure parts of the benchmarks: percentiles, summaries, the table, the journal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.__main__ import NAMES, main
from benchmarks.failover.figures import percentile, spread, summarise
from benchmarks.failover.journal import Journal
from benchmarks.failover.rounds import Fault, Round, target_of
from benchmarks.failover.table import render

if TYPE_CHECKING:
    from pathlib import Path

ROUND = Round(
    system="ours",
    fault=Fault.KILL,
    watched_s=5.0,
    detected_s=0.1,
    leased_s=0.15,
    begun_s=0.2,
    finished_s=0.25,
    in_hand_s=0.9,
    jobs=30,
    lost=0,
    waiting=0,
    doubled=0,
    redone=1,
)


def begun_at(*times_s: float | None) -> list[Round]:
    return [replace(ROUND, begun_s=time_s) for time_s in times_s]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, 1.0), (0.5, 25.0), (0.51, 26.0), (0.99, 50.0), (1.0, 50.0)]
)
def test_a_percentile_is_a_time_that_was_measured(share: float, expected: float) -> None:
    """Nearest rank: of fifty rounds the p99 is the worst, not something between two."""
    assert percentile([float(n) for n in range(50, 0, -1)], share) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    """An empty run must not look like a good one."""
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


def test_what_was_not_seen_counts_as_longer_than_all_that_was() -> None:
    """Two of four rounds without a takeover: the median is known, the rest is not."""
    found = spread([None, 0.4, None, 0.2])
    assert (found.n, found.seen) == (4, 2)
    assert (found.p50_s, found.p99_s, found.max_s) == (0.4, None, None)


@pytest.mark.parametrize(
    ("fault", "p50_s", "p99_s"),
    [
        (Fault.KILL, 0.3, 1.0),
        (Fault.CHILD, 0.3, 1.0),
        (Fault.TERM, 0.3, 1.0),
        (Fault.SWITCHOVER, 0.3, 1.0),
        (Fault.STOP, 3.3, 4.0),
        (Fault.HANG, 3.3, 4.0),
        (Fault.PARTITION, 3.3, 4.0),
    ],
)
def test_known_deaths_are_promised_sooner_than_silent_ones(
    fault: Fault, p50_s: float, p99_s: float
) -> None:
    """At the defaults, three missed heartbeats of a second."""
    target = target_of(fault, silence_s=3.0)
    assert (target.p50_s, target.p99_s) == (pytest.approx(p50_s), pytest.approx(p99_s))


@pytest.mark.parametrize(
    ("begun_s", "met"),
    [
        ([0.2] * 49 + [1.0], True),
        ([0.2] * 49 + [1.01], False),  # p99
        ([0.31] * 50, False),  # p50
        ([0.2] * 49 + [None], False),  # nobody took over, once
    ],
)
def test_a_target_is_met_only_by_all_rounds_together(begun_s: list[float], met: bool) -> None:
    """One round in fifty decides about the p99."""
    (summary,) = summarise(begun_at(*begun_s), ours="ours", silence_s=3.0)
    assert summary.met is met


def test_only_our_own_system_has_targets() -> None:
    """A baseline promises nothing."""
    baseline = replace(ROUND, system="celery", lacks=("detection", "takeover"))
    ours, theirs = summarise([ROUND, baseline], ours="ours", silence_s=3.0)
    assert (ours.met, theirs.met) == (True, None)
    assert set(ours.times) - set(theirs.times) == {"detection", "takeover"}


def test_counts_of_all_rounds_are_added_up() -> None:
    """And rounds of another fault are another line."""
    lossy = replace(ROUND, lost=2, waiting=1, doubled=3)
    other = replace(ROUND, fault=Fault.STOP)
    kill, stop = summarise([ROUND, lossy, other], ours="ours", silence_s=3.0)
    assert kill.counts == {"jobs": 60, "lost": 2, "waiting": 1, "doubled": 3, "redone": 2}
    assert (kill.rounds, stop.rounds) == (2, 1)


def test_the_table_says_what_was_measured_and_what_was_not() -> None:
    """A time that was not seen is longer than the round was watched; a missing one is a dash."""
    unseen = replace(
        ROUND,
        system="celery",
        watched_s=120.4,
        in_hand_s=None,
        lacks=("detection", "takeover"),
        note="no primary",
    )
    rounds = [ROUND, *begun_at(0.4), unseen, unseen]
    heads, rule, ours, celery, *notes = render(
        summarise(rounds, ours="ours", silence_s=3.0)
    ).splitlines()
    assert len(heads) <= len(rule)
    assert "0.200 / 0.400 / 0.400" in ours
    assert "met: p50 <= 0.3, p99 <= 1" in ours
    assert "> 120 / > 120" in celery
    assert celery.split()[3:5] == ["-", "-"]
    assert notes == ["celery: no primary"]


def test_a_missed_target_is_told_loudly() -> None:
    """It stands in the line of its fault."""
    assert "MISSED: p50 <= 0.3" in render(summarise(begun_at(0.5), ours="ours", silence_s=3.0))


def test_the_journal_tells_what_others_began_after_a_fault(tmp_path: Path) -> None:
    """What they had begun before it, or the victim did, says nothing about the failover."""
    now_s = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    journal = Journal(tmp_path / "journal", clock=lambda: next(now_s))
    journal.write("begun", "other", job="before")  # 1.0
    journal.write("begun", "victim", job="a")  # 2.0, the fault is at 2.5
    journal.write("done", "other", job="before")
    journal.write("done", "victim", job="a")
    journal.write("begun", "victim", job="b")  # 5.0: it was stopped, and goes on
    assert journal.begun_by_others("victim", 2.5) is None
    assert journal.finished_by_others("victim", 2.5) is None
    journal.write("begun", "other", job="a")  # 6.0
    journal.write("done", "other", job="a")
    assert journal.begun_by_others("victim", 2.5) == 3.5
    assert journal.finished_by_others("victim", 2.5) == 4.5
    assert (journal.repeated("begun"), journal.repeated("done")) == (1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_tells_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever stands in them, such as a percent sign."""
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert "--" in capsys.readouterr().out
