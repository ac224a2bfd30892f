"""The checker: a history in, a verdict out. A pure function, tested with broken histories.

Invariants, by the names that a verdict gives them:

``epoch-of-two``         no epoch of a lane was held by two
``two-primaries``        beliefs of two holders are disjoint but for recorded excuses (`beliefs`)
``led-past-deadline``    no belief outlives its lease, or a cut, by more than the renew deadline
``stale-effect``         no attempt that was taken back ended its job, and none that was the newest
                         was refused for it; online work was claimed only under a lease that its
                         worker had acquired
``nothing-refused``      where stale work was provoked and its job was taken over, something of it
                         was refused
``lost``                 what was accepted was published or reported as failed
``unanswered``           who waits for an online job that ended gets its result
``doubled``              one artifact a job, one job an artifact, one end a line of a batch
``changed``              an artifact that was seen stays as it was; sidecar and result name its hash
``not-whole``            it decodes, has the length that was reported, and sounds like its equals
``stray``                nothing but artifacts and reports is ever visible in the storage
``report``               the report of a batch says what the ledger says
``unexplained-work``     attempts beyond the first are explained by deaths and recoveries
``failover-in-control``  without faults there is no failover, no failed job, no second attempt
``ended-by-itself``      no worker ended that nobody had ended
``untried``              every kind of fault that was planned was carried out
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.beliefs import overdue, unexcused_overlaps
from tests.chaos.history import History, Record, node_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REFUSALS = ("job.stale_refused", "job.not_leader", "lease.renewal_failed")
_ENDED = ("succeeded", "failed")
_LENGTH_TOLERANCE_S = 0.01
_CONTROL_FORBIDS = ("worker.dead", "worker.stuck", "lease.deposed", "lease.demoted", "job.failed")


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that the history breaks, and where."""

    invariant: str
    detail: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker says of a run."""

    violations: list[Violation]
    faults: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    failed: int = 0
    takeovers: int = 0
    refusals: int = 0
    redone: int = 0  #: attempts beyond the first
    unknown: int = 0  #: submissions of which nobody can say whether they were accepted

    @property
    def good(self) -> bool:
        """Whether nothing was broken."""
        return not self.violations

    def count(self, invariant: str) -> int:
        """Return how often an invariant is broken."""
        return sum(violation.invariant == invariant for violation in self.violations)


def check(records: Iterable[Record]) -> Verdict:
    """Judge the history of a run that has ended."""
    history = History(records)
    checks = {
        "epoch-of-two": _epochs_of_two,
        "two-primaries": unexcused_overlaps,
        "led-past-deadline": overdue,
        "stale-effect": _stale_effects,
        "nothing-refused": _missing_refusals,
        "lost": _lost,
        "unanswered": _unanswered,
        "doubled": _doubled,
        "changed": _changed,
        "not-whole": _not_whole,
        "stray": _strays,
        "report": _wrong_reports,
        "unexplained-work": _unexplained_work,
        "failover-in-control": _failovers_in_control,
        "ended-by-itself": _ended_by_themselves,
        "untried": _untried,
    }
    outcomes = history.outcomes.values()
    return Verdict(
        violations=[
            Violation(name, detail) for name, find in checks.items() for detail in find(history)
        ],
        faults=Counter(fault.name for fault in history.faults),
        jobs=len(outcomes),
        failed=sum(outcome["state"] == "failed" for outcome in outcomes),
        takeovers=max(0, sum(1 for _ in history.events("lease.acquired")) - 1),
        refusals=sum(1 for _ in history.events(*REFUSALS)),
        redone=sum(max(0, outcome["attempt"] - 1) for outcome in outcomes),
        unknown=sum(record["outcome"] == "unknown" for record in history.of("submitted")),
    )


# -- leadership -----------------------------------------------------------------------------------


def _epochs_of_two(history: History) -> Iterator[str]:
    holders: dict[tuple[str, int], set[str]] = defaultdict(set)
    for event in history.events("lease.acquired"):
        fields = event["fields"]
        holders[fields["lane"], int(fields["epoch"])].add(fields["holder"])
    for seen in history.of("lease"):
        holders[seen["lane"], int(seen["epoch"])].add(seen["holder"])
    for (lane, epoch), names in sorted(holders.items()):
        if len(names) > 1:
            yield f"epoch {epoch} of lane {lane}: {', '.join(sorted(names))}"


def _stale_effects(history: History) -> Iterator[str]:
    taken_back = {
        (e["fields"]["job"], int(e["fields"]["attempt"]))
        for e in history.events("job.recovered", "job.attempt_failed")
    }
    refused = {
        (e["fields"]["job"], int(e["fields"].get("attempt", 0)))
        for e in history.events("job.stale_refused")
    }
    leases = {f"{e['epoch']}:{e['holder']}" for e in history.of("lease")}
    leases |= {
        f"{e['fields']['epoch']}:{e['fields']['holder']}" for e in history.events("lease.acquired")
    }
    for job, outcome in history.outcomes.items():
        if outcome["state"] == "succeeded" and (job, outcome["attempt"]) in taken_back:
            yield f"{job}: attempt {outcome['attempt']} was taken back and ended the job after all"
        if outcome["state"] == "succeeded" and (job, outcome["attempt"]) in refused:
            yield f"{job}: attempt {outcome['attempt']}, the newest, was refused: an older one won"
        if outcome["batch"] or not outcome["lease"]:
            continue
        holder = outcome["lease"].partition(":")[2]
        if outcome["lease"] not in leases:
            yield f"{job}: claimed under lease {outcome['lease']}, which nobody ever had"
        elif outcome["state"] == "succeeded" and outcome["worker"] != holder:
            yield f"{job}: claimed by {outcome['worker']} under the lease of {holder}"


def _missing_refusals(history: History) -> Iterator[str]:
    """Only scenarios count in which the job was really taken over while its worker slept."""
    recovered = {
        (e["fields"]["job"], node_of(e["fields"]["worker"]))
        for e in history.events("job.recovered")
    }
    stale = [
        fault
        for fault in history.faults_with("stale")
        if fault.node and (fault.facts.get("job"), fault.node) in recovered
    ]
    refused = {
        node_of(str(e["fields"].get("worker") or e["fields"].get("holder")))
        for e in history.events(*REFUSALS)
    }
    if stale and not any(fault.node in refused for fault in stale):
        names = ", ".join(f"{fault.name} of {fault.node}" for fault in stale)
        yield f"{len(stale)} workers were overtaken in the middle of a job, none refused: {names}"


# -- jobs -----------------------------------------------------------------------------------------


def _lost(history: History) -> Iterator[str]:
    accepted = {r["job"] for r in history.of("submitted") if r["outcome"] == "accepted"}
    for job in sorted(accepted | set(history.outcomes)):
        outcome = history.outcomes.get(job)
        if outcome is None:
            yield f"{job}: was accepted, and the ledger does not know it"
        elif outcome["state"] not in _ENDED:
            yield f"{job}: still {outcome['state']} (attempt {outcome['attempt']})"
        elif outcome["state"] == "failed" and not (outcome["error"] or {}).get("code"):
            yield f"{job}: failed without saying why"
        elif outcome["state"] == "succeeded" and outcome["name"] not in history.artifacts:
            yield f"{job}: succeeded, and there is no {outcome['name']}"


def _unanswered(history: History) -> Iterator[str]:
    accepted = {r["job"] for r in history.of("submitted") if r["outcome"] == "accepted"}
    for job, outcome in history.outcomes.items():
        if job in accepted and outcome["state"] in _ENDED and outcome["answered"] is False:
            yield f"{job}: {outcome['state']}, and its caller still waits"


def _doubled(history: History) -> Iterator[str]:
    by_job: dict[str, list[str]] = defaultdict(list)
    for name, artifact in history.artifacts.items():
        owner = (artifact["sidecar"] or {}).get("job")
        if owner not in history.outcomes:
            yield f"{name}: is an artifact of {owner or 'nobody'}, which the ledger does not know"
        else:
            by_job[owner].append(name)
    for job, names in by_job.items():
        if len(names) > 1:
            yield f"{job}: {len(names)} artifacts: {', '.join(sorted(names))}"
    by_name: dict[str, list[str]] = defaultdict(list)
    for job, outcome in history.outcomes.items():
        if outcome["state"] == "succeeded":
            by_name[outcome["name"]].append(job)
    for name, jobs in by_name.items():
        if len(jobs) > 1:
            yield f"{name}: is the artifact of {len(jobs)} jobs: {', '.join(jobs)}"
    for batch in history.of("batch"):
        ends: Counter[int] = Counter(batch["ended_lines"])
        for line, times in ends.items():
            if times > 1:
                yield f"{batch['batch']}: line {line} ended {times} times"


def _changed(history: History) -> Iterator[str]:
    for seen in history.of("artifact"):
        now = history.artifacts.get(seen["name"])
        if now is None:
            yield f"{seen['name']}: was there and is gone"
        elif now["sha256"] != seen["sha256"]:
            yield f"{seen['name']}: was {seen['sha256'][:12]} and is {now['sha256'][:12]}"
    for name, artifact in history.artifacts.items():
        sidecar = artifact["sidecar"] or {}
        if sidecar.get("sha256") != artifact["sha256"]:
            yield f"{name}: its sidecar names {str(sidecar.get('sha256'))[:12]}"
    for job, outcome in history.outcomes.items():
        published = history.artifacts.get(outcome["name"]) if outcome["name"] else None
        if published is not None and published["sha256"] != outcome["sha256"]:
            yield f"{job}: its result names {str(outcome['sha256'])[:12]}, not the artifact"


def _not_whole(history: History) -> Iterator[str]:
    for record in history.of("artifact"):
        if record["duration_s"] is None:
            yield f"{record['name']}: cannot be decoded ({record['when']})"
    sounds: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in history.outcomes.values():
        if outcome["state"] == "succeeded":
            sounds[outcome["text"]][outcome["sha256"]] += 1
    for job, outcome in history.outcomes.items():
        artifact = history.artifacts.get(outcome["name"]) if outcome["name"] else None
        if artifact is None or artifact["duration_s"] is None:
            continue
        if abs(artifact["duration_s"] - (outcome["duration_s"] or 0.0)) > _LENGTH_TOLERANCE_S:
            yield f"{job}: {artifact['duration_s']} s long, reported as {outcome['duration_s']} s"
        # the engine is deterministic: one text, one sound
        if outcome["sha256"] != sounds[outcome["text"]].most_common(1)[0][0]:
            yield f"{job}: sounds different from other jobs with its text"


def _strays(history: History) -> Iterator[str]:
    for name in sorted({record["name"] for record in history.of("stray")}):
        yield f"{name}: is visible and is neither artifact nor report"


def _wrong_reports(history: History) -> Iterator[str]:
    by_batch: dict[str, dict[int, Record]] = defaultdict(dict)
    for outcome in history.outcomes.values():
        if outcome["batch"]:
            line = int(outcome["job"].rpartition(":")[2])
            by_batch[outcome["batch"]][line] = outcome
    for batch in history.of("batch"):
        jobs, name = by_batch[batch["batch"]], batch["batch"]
        states = Counter(outcome["state"] for outcome in jobs.values())
        if (batch["succeeded"], batch["failed"]) != (states["succeeded"], states["failed"]):
            counted = f"{batch['succeeded']} succeeded, {batch['failed']} failed"
            yield f"{name}: counts {counted}; its jobs say {dict(states)}"
        reported = [(line["line"], line["state"], line["sha256"]) for line in batch["report"]]
        wanted = [(n, jobs[n]["state"], jobs[n]["sha256"]) for n in sorted(jobs)]
        if reported != wanted:
            yield f"{name}: its report of {len(reported)} lines is not what {len(wanted)} jobs say"


def _unexplained_work(history: History) -> Iterator[str]:
    """An attempt is explained by the event that took the one before back, or rang again.

    The same worker may also claim anew after its child's death before anything took the job back:
    one job a child that died. While the store is away events may be missing: then one a worker.
    """
    explained: Counter[str] = Counter()
    for event in history.events("job.recovered", "job.attempt_failed", "job.yielded"):
        explained[event["fields"]["job"]] += 1
    for event in history.events("job.rung_again"):
        explained.update(event["fields"]["jobs"])
    beyond = {
        job: outcome["attempt"] - 1 - explained[job]
        for job, outcome in history.outcomes.items()
        if outcome["attempt"] - 1 > explained[job]
    }
    deaths = len(history.faults_with("killed-child")) + sum(
        1 for _ in history.events("worker.stuck")
    )
    nodes = {record["worker"] for record in history.of("started")}
    # who dies may have had several lines of a batch in hand, of which it had begun one
    given_back = sum(e["fields"]["lines"] for e in history.events("batch.recovered"))
    allowed = deaths + given_back + len(nodes) * len(history.faults_with("store-away"))
    if sum(beyond.values()) > allowed:
        yield f"{sum(beyond.values())} attempts nothing explains, {allowed} allowed: {beyond}"
    yield from _too_much_recovered(history)


def _too_much_recovered(history: History) -> Iterator[str]:
    """A worker has one job in hand: each of its deaths takes back one at most."""
    recovered = Counter(e["fields"]["worker"] for e in history.events("job.recovered"))
    deaths: Counter[str] = Counter()
    for event in history.events("worker.dead", "worker.stuck", "worker.left"):
        deaths[node_of(event["fields"]["worker"])] += 1
    for fault in history.faults_with("killed-child", "killed-parent", "store-away"):
        deaths.update([fault.node] if fault.node else {node_of(worker) for worker in recovered})
    for worker, times in recovered.items():
        if times > deaths[node_of(worker)]:
            yield f"{worker}: {times} jobs taken back, {deaths[node_of(worker)]} deaths"


# -- the run --------------------------------------------------------------------------------------


def _failovers_in_control(history: History) -> Iterator[str]:
    if history.control is None:
        return
    begin_s, end_s = history.control
    for event in history.events(*_CONTROL_FORBIDS, "lease.acquired", "job.recovered"):
        if begin_s <= event["at_s"] < end_s:
            yield f"{event['event']} {event['fields']}"


def _ended_by_themselves(history: History) -> Iterator[str]:
    for record in history.of("ended"):
        if not record["ordered"]:
            yield f"{record['node']}: exit code {record['code']}"


def _untried(history: History) -> Iterator[str]:
    done = {fault.name for fault in history.faults}
    yield from (name for name in history.run["kinds"] if name not in done)
