"""The checker of the chaos runs is itself checked: a good history, and one broken for each rule."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.checker import check
from tests.chaos.schedule import KINDS, steps

if TYPE_CHECKING:
    from collections.abc import Callable

Record = dict[str, Any]
History = list[Record]

W1, W2, W3 = "w1life1@chaos/aa", "w2life2@chaos/bb", "w3life3@chaos/cc"
LANE = "default.0"
ONLINE, SECOND, LINE = f"{LANE}:job1", f"{LANE}:job2", "batch-1:1"


def event(at_s: float, name: str, **fields: Any) -> Record:
    return {"at_s": at_s, "kind": "event", "id": f"{at_s}", "event": name, "fields": fields}


def acquired(at_s: float, holder: str, epoch: int) -> Record:
    return event(at_s, "lease.acquired", lane=LANE, holder=holder, epoch=epoch)


def demoted(at_s: float, holder: str, epoch: int) -> Record:
    fields = {"lane": LANE, "holder": holder, "epoch": epoch, "reason": "the deadline passed"}
    return event(at_s, "lease.demoted", **fields)


def fault(
    number: int, begin_s: float, end_s: float, name: str, *effects: str, **facts: Any
) -> History:
    begin = {"at_s": begin_s, "kind": "fault", "phase": "begin", "number": number, "fault": name}
    begin |= {"effects": list(effects), "node": None, **facts}
    end = {"at_s": end_s, "kind": "fault", "phase": "end", "number": number, "fault": name}
    return [begin, end]


def outcome(job: str, *, attempt: int, worker: str, lease: str = "", batch: str = "") -> Record:
    return {
        "at_s": 90.0,
        "kind": "outcome",
        "job": job,
        "batch": batch,
        "text": "请到窗口办理。",
        "state": "succeeded",
        "attempt": attempt,
        "worker": worker,
        "lease": lease,
        "name": f"{job.partition(':')[2]}.wav",
        "sha256": "5a" * 32,
        "duration_s": 1.5,
        "error": None,
        "answered": None if batch else True,
    }


def artifact(job: str, when: str) -> Record:
    return {
        "at_s": 91.0,
        "kind": "artifact",
        "when": when,
        "name": f"{job.partition(':')[2]}.wav",
        "sha256": "5a" * 32,
        "duration_s": 1.5,
        "sidecar": {"job": job, "sha256": "5a" * 32},
    }


def submitted(job: str) -> Record:
    return {"at_s": 35.0, "kind": "submitted", "job": job, "outcome": "accepted", "text": "x"}


@pytest.fixture
def good() -> History:
    """A primary is paused in the middle of a job, overtaken, refused; the next one is killed."""
    lease_2 = f"2:{W2}"
    return [
        {
            "at_s": 0.0,
            "kind": "run",
            "seed": 7,
            "minutes": 1,
            "network": "netns",
            "kinds": ["pause-both-long", "kill-parent"],
            "renew_deadline_s": 2.0,
        },
        *(
            {"at_s": 1.0, "kind": "started", "worker": name, "node": f"{name}life{n}@chaos"}
            for n, name in enumerate(("w1", "w2", "w3"), start=1)
        ),
        acquired(5.0, W1, 1),
        {"at_s": 5.1, "kind": "lease", "lane": LANE, "epoch": 1, "holder": W1},
        {"at_s": 10.0, "kind": "phase", "phase": "control"},
        {"at_s": 30.0, "kind": "phase", "phase": "faults"},
        *(submitted(job) for job in (ONLINE, SECOND, LINE)),
        *fault(
            1, 40.0, 46.0, "pause-both-long", "parent-paused", "stale",
            node="w1life1@chaos", job=ONLINE,
        ),
        event(43.0, "lease.deposed", lane=LANE, holder=W1, epoch=1, by=W2, reason="silent"),
        acquired(43.1, W2, 2),
        {"at_s": 43.2, "kind": "lease", "lane": LANE, "epoch": 2, "holder": W2},
        event(43.2, "job.recovered", job=ONLINE, attempt=1, worker=W1),
        event(43.3, "worker.dead", worker=W1, silent_s=3.0, jobs=[ONLINE], messages=1),
        demoted(46.1, W1, 1),
        event(46.2, "job.stale_refused", job=ONLINE, attempt=1, worker=W1),
        *fault(2, 60.0, 61.0, "kill-parent", "killed-parent", "killed-child", node="w2life2@chaos"),
        {"at_s": 60.1, "kind": "ended", "node": "w2life2@chaos", "code": -9, "ordered": True},
        acquired(60.3, W3, 3),
        {"at_s": 80.0, "kind": "phase", "phase": "end"},
        outcome(ONLINE, attempt=2, worker=W2, lease=lease_2),
        outcome(SECOND, attempt=1, worker=W2, lease=lease_2),
        outcome(LINE, attempt=1, worker=W3, batch="batch-1"),
        *(artifact(job, when) for job in (ONLINE, SECOND, LINE) for when in ("seen", "end")),
        {
            "at_s": 92.0,
            "kind": "batch",
            "batch": "batch-1",
            "succeeded": 1,
            "failed": 0,
            "ended_lines": [1],
            "report": [{"line": 1, "state": "succeeded", "sha256": "5a" * 32}],
        },
    ]  # fmt: skip


def first(history: History, kind: str, **fields: Any) -> Record:
    """Return the first record of a kind that has these fields."""
    return next(
        r for r in history if r["kind"] == kind and all(r.get(k) == v for k, v in fields.items())
    )


def names(history: History) -> set[str]:
    return {violation.invariant for violation in check(history).violations}


def test_a_good_history_is_good(good: History) -> None:
    """Nothing is found where nothing is broken, and the counts are right."""
    verdict = check(good)
    assert not verdict.violations
    assert verdict.good
    assert (verdict.jobs, verdict.takeovers, verdict.refusals, verdict.redone) == (3, 2, 1, 1)
    assert verdict.faults == {"pause-both-long": 1, "kill-parent": 1}


def give_the_epoch_to_a_second(history: History) -> None:
    history.append({"at_s": 43.3, "kind": "lease", "lane": LANE, "epoch": 2, "holder": W3})


def let_a_healthy_worker_believe_on(history: History) -> None:
    history.remove(first(history, "ended"))
    history.append(demoted(61.0, W2, 2))
    first(history, "fault", number=2, phase="begin")["effects"] = []


def let_a_cut_worker_lead_on(history: History) -> None:
    history += [*fault(3, 62.0, 70.0, "partition-both", "cut", node="w3life3@chaos")]
    history.append(demoted(66.0, W3, 3))


def let_the_overtaken_attempt_end_the_job(history: History) -> None:
    first(history, "outcome", job=ONLINE)["attempt"] = 1


def refuse_the_newest_attempt(history: History) -> None:
    history.append(event(47.0, "job.stale_refused", job=ONLINE, attempt=2, worker=W2))


def let_a_standby_claim_online_work(history: History) -> None:
    first(history, "outcome", job=SECOND)["worker"] = W3


def invent_a_lease(history: History) -> None:
    first(history, "outcome", job=SECOND)["lease"] = f"9:{W2}"


def refuse_nothing(history: History) -> None:
    history.remove(first(history, "event", event="job.stale_refused"))


def forget_an_accepted_job(history: History) -> None:
    history.remove(first(history, "outcome", job=SECOND))
    history[:] = [r for r in history if r.get("name") != "job2.wav"]


def leave_a_job_running(history: History) -> None:
    first(history, "outcome", job=SECOND)["state"] = "running"


def publish_nothing(history: History) -> None:
    history[:] = [r for r in history if r["kind"] != "artifact" or r["name"] != "job2.wav"]


def fail_without_a_word(history: History) -> None:
    first(history, "outcome", job=SECOND).update(state="failed", name=None, sha256=None)
    history[:] = [r for r in history if r["kind"] != "artifact" or r["name"] != "job2.wav"]


def let_the_caller_wait(history: History) -> None:
    first(history, "outcome", job=SECOND)["answered"] = False


def publish_twice(history: History) -> None:
    history.append(artifact(SECOND, "end") | {"name": "again.wav"})


def publish_for_nobody(history: History) -> None:
    history.append(artifact(f"{LANE}:nobody", "end"))


def end_a_line_twice(history: History) -> None:
    first(history, "batch")["ended_lines"] = [1, 1]


def give_two_jobs_one_artifact(history: History) -> None:
    first(history, "outcome", job=SECOND)["name"] = "job1.wav"


def change_an_artifact(history: History) -> None:
    first(history, "artifact", name="job2.wav", when="seen")["sha256"] = "00" * 32


def remove_an_artifact(history: History) -> None:
    history.append(artifact(SECOND, "seen") | {"name": "gone.wav"})


def name_another_hash(history: History) -> None:
    first(history, "artifact", name="job2.wav", when="end")["sidecar"]["sha256"] = "00" * 32


def cut_an_artifact_short(history: History) -> None:
    first(history, "artifact", name="job2.wav", when="seen")["duration_s"] = None


def leave_a_segment_out(history: History) -> None:
    for record in history:
        if record.get("name") == "job2.wav":
            record["sha256"] = "77" * 32
            record["duration_s"] = 1.0
            if "sidecar" in record:
                record["sidecar"]["sha256"] = "77" * 32


def misreport_the_length(history: History) -> None:
    first(history, "outcome", job=SECOND)["duration_s"] = 2.5


def show_a_half_written_file(history: History) -> None:
    history.append({"at_s": 50.0, "kind": "stray", "when": "seen", "name": "job3.wav.part"})


def misreport_a_batch(history: History) -> None:
    first(history, "batch")["report"][0]["state"] = "failed"


def miscount_a_batch(history: History) -> None:
    first(history, "batch")["succeeded"] = 2


def speak_once_too_often(history: History) -> None:
    first(history, "outcome", job=SECOND)["attempt"] = 3


def take_back_too_much(history: History) -> None:
    history.append(event(43.2, "job.recovered", job=SECOND, attempt=1, worker=W1))
    first(history, "outcome", job=SECOND)["attempt"] = 2


def fail_over_without_a_fault(history: History) -> None:
    history += [demoted(19.9, W1, 1), acquired(20.0, W1, 1)]


def let_a_worker_end(history: History) -> None:
    node = "w3life3@chaos"
    history.append({"at_s": 70.0, "kind": "ended", "node": node, "code": 1, "ordered": False})


def plan_a_fault_that_never_came(history: History) -> None:
    first(history, "run")["kinds"].append("half-open")


BROKEN: list[tuple[str, Callable[[History], None]]] = [
    ("epoch-of-two", give_the_epoch_to_a_second),
    ("two-primaries", let_a_healthy_worker_believe_on),
    ("led-past-deadline", let_a_cut_worker_lead_on),
    ("stale-effect", let_the_overtaken_attempt_end_the_job),
    ("stale-effect", refuse_the_newest_attempt),
    ("stale-effect", let_a_standby_claim_online_work),
    ("stale-effect", invent_a_lease),
    ("nothing-refused", refuse_nothing),
    ("lost", forget_an_accepted_job),
    ("lost", leave_a_job_running),
    ("lost", publish_nothing),
    ("lost", fail_without_a_word),
    ("unanswered", let_the_caller_wait),
    ("doubled", publish_twice),
    ("doubled", publish_for_nobody),
    ("doubled", end_a_line_twice),
    ("doubled", give_two_jobs_one_artifact),
    ("changed", change_an_artifact),
    ("changed", remove_an_artifact),
    ("changed", name_another_hash),
    ("not-whole", cut_an_artifact_short),
    ("not-whole", leave_a_segment_out),
    ("not-whole", misreport_the_length),
    ("stray", show_a_half_written_file),
    ("report", misreport_a_batch),
    ("report", miscount_a_batch),
    ("unexplained-work", speak_once_too_often),
    ("unexplained-work", take_back_too_much),
    ("failover-in-control", fail_over_without_a_fault),
    ("ended-by-itself", let_a_worker_end),
    ("untried", plan_a_fault_that_never_came),
]


@pytest.mark.parametrize(("invariant", "spoil"), BROKEN, ids=[s.__name__ for _, s in BROKEN])
def test_a_broken_history_is_named(
    good: History, invariant: str, spoil: Callable[[History], None]
) -> None:
    """Each invariant, broken in a history that is otherwise good, is found and named."""
    spoil(good)
    assert invariant in names(good)


def test_every_invariant_has_a_broken_history() -> None:
    """The checker's docstring lists the invariants; none is without a history that breaks it."""
    from tests.chaos import checker

    text = checker.__doc__ or ""
    listed = {line.split("``")[1] for line in text.splitlines() if line.startswith("``")}
    assert listed == {invariant for invariant, _ in BROKEN}


def test_a_pause_excuses_a_late_end_but_only_until_it_is_over(good: History) -> None:
    """A worker that slept may end its belief when it wakes, not a second later."""
    assert not names(good)
    first(good, "event", event="lease.demoted")["at_s"] = 47.2
    assert {"two-primaries", "led-past-deadline"} <= names(good)


def test_an_unknown_end_is_not_a_failure(good: History) -> None:
    """A worker whose demotion nobody recorded is bounded by its deadline, and not accused."""
    good.remove(first(good, "event", event="lease.demoted"))
    assert not names(good)


@pytest.mark.parametrize(
    ("effect", "demoted_s", "is_excused"),
    [("cut", 62.4, True), ("connections-lost", 62.4, True), ("child-paused", 62.4, False)],
)
def test_what_excuses_an_overlap(
    good: History, effect: str, demoted_s: float, is_excused: bool
) -> None:
    """A holder that cannot hear may believe up to its deadline; one whose child slept may not."""
    good.remove(first(good, "ended"))
    first(good, "fault", number=2, phase="begin").update(effects=[effect], at_s=60.1)
    first(good, "fault", number=2, phase="end")["at_s"] = 66.0
    good.append(demoted(demoted_s, W2, 2))
    assert ("two-primaries" not in names(good)) is is_excused


def test_a_fault_excuses_nobody_but_the_worker_that_it_hurt(good: History) -> None:
    """A cut of one worker says nothing of another's belief."""
    good.remove(first(good, "ended"))
    cut = {"effects": ["cut"], "node": "w3life3@chaos", "at_s": 60.1}
    first(good, "fault", number=2, phase="begin").update(cut)
    good.append(demoted(61.0, W2, 2))
    assert "two-primaries" in names(good)


def test_an_unknown_submission_is_neither_lost_nor_forgiven(good: History) -> None:
    """It may be absent from the ledger; if it is there, it must have its outcome."""
    unknown = submitted(f"{LANE}:job9") | {"outcome": "unknown"}
    good.append(unknown)
    verdict = check(good)
    assert (verdict.good, verdict.unknown) == (True, 1)
    running = outcome(f"{LANE}:job9", attempt=1, worker=W2, lease=f"2:{W2}")
    good.append(running | {"state": "running"})
    assert names(good) == {"lost"}


def test_the_checker_changes_nothing(good: History) -> None:
    """A history can be judged again."""
    before = copy.deepcopy(good)
    check(good)
    assert good == before


def test_a_seed_makes_a_schedule_and_its_first_round_holds_every_kind() -> None:
    """The same seed gives the same faults; another seed gives others."""

    def taken(seed: int) -> list[Any]:
        schedule = steps(seed)
        return [next(schedule) for _ in range(2 * len(KINDS))]

    assert taken(7) == taken(7)
    assert taken(7) != taken(8)
    assert {step.kind for step in taken(7) if step.round == 0} == set(KINDS)
