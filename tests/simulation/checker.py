"""What must never happen, looked at after every effect; and what must have happened in the end.

It keeps its own account of the lease, of attempts and of artifacts, from the effects that it sees:
it does not ask the code that it checks.

**Belief.** A worker believes that it leads while its agent holds a leadership, its own clock is
before the deadline, and its process is not paused. Claimed is: the beliefs of two workers are
disjoint, except after the older one's lease was taken out of the store before its time - deposed
by another worker, lapsed after a jump of the store's clock, or lost with the store's data. Each
exception must follow a fault that touched that worker or the store, and must end: at the deadline
at the latest, and within `OVERLAP_S` if nothing hindered the worker meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from tests.simulation.client import POISON
from tts_tasks import keys
from tts_tasks.ledger import Claim, Refusal

if TYPE_CHECKING:
    from tests.simulation.client import Batch
    from tests.simulation.runtime import Process
    from tests.simulation.worker import Worker
    from tests.simulation.world import World
    from tts_tasks.coordination import Lease
    from tts_tasks.ledger.batch_records import Run
    from tts_workers.decision import Leadership

#: A thread that is due runs within this time, if its process is not paused.
PROMPT_S = 0.06
#: A worker that nothing hinders learns within this time that its lease is gone: a reading is due
#: every quarter of a heartbeat, and each of its requests may be slow.
OVERLAP_S = 1.2
#: For so long a fault explains what follows it.
AFTERMATH_S = 12.0
_CHECK_EVERY_S = 0.1


class Violation(AssertionError):  # noqa: N818 - it is not an error of the simulation's
    """An invariant is broken."""


@dataclass
class Belief:
    """A worker's leadership, as it told its own process last."""

    worker: Worker
    leadership: Leadership
    overlaps_since_s: float | None = None
    hindered: bool = False  #: when the overlap began

    @property
    def lease(self) -> Lease:
        return self.leadership.lease

    def is_live(self) -> bool:
        process = self.worker.process
        in_time = self.worker.clock() < self.leadership.deadline_s
        return process.alive and not process.paused and in_time


class Checker:
    """The account of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runtime = world.runtime
        self._lane_key = world.lane_key
        self._beliefs: dict[str, Belief] = {}
        self._disturbed_s: dict[Process | None, float] = {}
        self._ends: dict[str, str] = {}  #: lease → why it left the store early
        self._prolonged_s: dict[str, float] = {}  #: lease → when the store did it last
        self._jumped_s = self._lost_s = float("-inf")
        self._lease: tuple[Lease, float] | None = None
        self._holder_of_epoch: dict[int, str] = {}
        self._epochs: list[int] = []
        self._granted: dict[str, int] = {}  #: every lease, in order
        #: Those that somebody learned of. One whose grant was never heard of is nobody's.
        self._believed: set[str] = set()
        self._highest_epoch = 0  #: that the store has granted since it was empty
        self._losses = 0  #: of the store's data
        self._published_epoch = 0  #: that an artifact was made under
        self._running: dict[str, tuple[str, int]] = {}  #: job → newest attempt, while it runs
        self._laid_down: dict[str, tuple[str, int]] = {}  #: line → attempt, not ready again yet
        self._attempts: dict[str, int] = {}
        self._ended: dict[str, tuple[str, int]] = {}  #: job → by whom
        self._artifacts: dict[str, str] = {}  #: name → sha256
        self.counts = dict.fromkeys(
            (
                "acquired",
                "takeovers",
                "refused",
                "not_leader",
                "overlaps",
                "deposed",
                "published",
                "epochs_again",
            ),
            0,
        )
        self.longest_overlap_s = 0.0
        self._runtime.spawn(self._runtime.world, self._look_at_deadlines, name="checker")

    def fail(self, what: str) -> NoReturn:
        """Report a violation: the run ends with it."""
        self._runtime.log("CHECKER", what)
        error = Violation(f"{self._runtime.now_s - self._world.started_s:.4f} s: {what}")
        self._runtime.errors.append(error)
        raise error

    # -- what faults tell -----------------------------------------------------------------------

    def disturbed(self, process: Process | None) -> None:
        """Note that a fault has touched a process; None: the store."""
        self._disturbed_s[process] = self._runtime.now_s

    def clock_jumped(self) -> None:
        """Note that the store's clock jumped: leases may lapse early, or late."""
        self._jumped_s = self._runtime.now_s
        self.disturbed(None)

    def data_lost(self) -> None:
        """Note that the store has lost everything, its counters too."""
        self._losses += 1
        self._lost_s = self._runtime.now_s
        if self._lease is not None:
            self._ends[str(self._lease[0])] = "lost"
        self._lease = None
        self._holder_of_epoch.clear()
        self._highest_epoch = 0
        self._running.clear()
        self._laid_down.clear()
        self._attempts.clear()
        self._ended.clear()

    def _is_explained(self, worker: Worker) -> bool:
        last_s = max(
            self._disturbed_s.get(worker.process, float("-inf")),
            self._disturbed_s.get(None, float("-inf")),
        )
        return self._world.faults.count > 0 and self._runtime.now_s - last_s < AFTERMATH_S

    # -- effects on the store -------------------------------------------------------------------

    def after(self, process: Process, effect: str, args: tuple[Any, ...], answer: Any) -> None:
        """Look at what an effect has done."""
        check = getattr(self, f"_after{effect}", None)
        if check is not None:
            check(process, args, answer)
        raw = self._world.store.leases.get(self._lane_key)
        if effect in ("_store_acquire", "_store_renew", "_store_remove"):
            self._lease = raw
        elif raw != self._lease:
            self.fail(f"{effect} changed the lease from {self._lease} to {raw}")

    def _standing(self) -> Lease | None:
        if self._lease is None or self._lease[1] <= self._world.store.clock():
            return None
        return self._lease[0]

    def _after_store_acquire(self, _: Process, args: tuple[Any, ...], lease: Lease | None) -> None:
        if lease is None:
            return
        held = self._standing()
        if held is not None:
            self.fail(f"{lease} was granted while {held} had the lane")
        if str(lease) in self._believed:
            self.fail(f"the pair {lease} was granted twice")
        # After two losses a candidate may hold what it has read before: only the pair is new.
        if lease.epoch <= self._published_epoch and self._losses < 2:
            self.fail(f"{lease} was granted: artifacts of epoch {self._published_epoch} exist")
        if lease.epoch <= self._highest_epoch:
            self.fail(f"epoch {lease.epoch} after {self._highest_epoch}")
        if self._lease is not None:
            self._ends.setdefault(str(self._lease[0]), "lapsed")
        self._granted[str(lease)] = self.counts["acquired"]
        self.counts["epochs_again"] += lease.epoch <= max(self._epochs, default=0)
        self._epochs.append(lease.epoch)
        self._highest_epoch = lease.epoch
        self.counts["acquired"] += 1
        self.counts["takeovers"] += bool(self._holder_of_epoch) and (
            self._holder_of_epoch[max(self._holder_of_epoch)] != lease.holder
        )
        self._holder_of_epoch[lease.epoch] = lease.holder
        self._prolonged_s[str(lease)] = self._runtime.now_s
        self._look_for_two_believers(lease)

    def _after_store_renew(self, _: Process, args: tuple[Any, ...], renewed: bool) -> None:
        if renewed and self._standing() != args[1]:
            self.fail(f"{args[1]} was renewed, but {self._standing()} stood")
        if renewed:
            self._prolonged_s[str(args[1])] = self._runtime.now_s

    def _after_store_remove(self, process: Process, args: tuple[Any, ...], removed: bool) -> None:
        lease: Lease = args[1]
        gone = self._world.store.leases.get(self._lane_key) is None
        if removed or (self._standing() is not None and gone):
            if self._standing() != lease:
                self.fail(f"{process.name} removed {self._standing()}, but had seen {lease}")
            by_holder = process.name == lease.holder
            self._ends[str(lease)] = "released" if by_holder else "deposed"
            self.counts["deposed"] += not by_holder
            belief = self._beliefs.get(lease.holder)
            if by_holder and belief and belief.lease == lease and belief.is_live():
                self.fail(f"{process.name} gave its lease away and believes in it")

    # -- rule 1 to 3: claims, progress, endings -------------------------------------------------

    def _after_store_claim(self, _: Process, args: tuple[Any, ...], answer: Any) -> None:
        job_id, worker = args[0], args[1]
        if not isinstance(answer, Claim):
            self.counts["not_leader"] += answer.reason is Refusal.NOT_LEADER
            return
        held = self._standing()
        if answer.meta.lane_key and (held is None or held.holder != worker or held != args[2]):
            self.fail(f"{worker} got the online job {job_id} under {args[2]}, while {held} stood")
        self._has_got(job_id, worker, answer.attempt)

    def _has_got(self, job_id: str, worker: str, attempt: int) -> None:
        if job_id in self._ended:
            self.fail(f"{worker} got {job_id}, which has ended")
        running = self._running.get(job_id)
        if running is not None and running[0] != worker:
            self.fail(f"{worker} got {job_id}, which {running} works on")
        if running != (worker, attempt) and attempt <= self._attempts.get(job_id, 0):
            self.fail(f"attempt {attempt} of {job_id} was given out twice")
        self._attempts[job_id] = attempt
        self._running[job_id] = (worker, attempt)

    def _after_store_append(self, _: Process, args: tuple[Any, ...], done: bool) -> None:
        claim: Claim = args[0]
        newest = self._running.get(claim.job_id) == (claim.worker, claim.attempt)
        if done and not newest:
            self.fail(f"stale progress of {claim.job_id} by {claim.worker} was taken")
        self.counts["refused"] += not done

    def _after_store_finish(self, _: Process, args: tuple[Any, ...], done: bool) -> None:
        job_id, ending = args
        self._has_ended(job_id, (ending.worker, ending.attempt), done=done)

    def _has_ended(self, job_id: str, asker: tuple[str, int], *, done: bool) -> None:
        if not done:
            self.counts["refused"] += 1
            return
        worker, attempt = asker
        running = self._running.get(job_id)
        gives_up = attempt < 0 and (running is None or running[0] == worker)
        repeats = self._ended.get(job_id) == asker
        if not (repeats or (job_id not in self._ended and (running == asker or gives_up))):
            self.fail(f"{asker} ended {job_id}, but {running or self._ended.get(job_id)} has it")
        self._running.pop(job_id, None)
        self._ended.setdefault(job_id, asker)

    def _after_store_release(self, _: Process, args: tuple[Any, ...], strikes: int | None) -> None:
        job_id, worker, attempt, strike, *_ = args
        if strikes is None:
            return
        running = self._taken_from(job_id, worker, attempt, self._running.pop(job_id, None))
        if job_id in self._texts:
            self._laid_down[job_id] = running
            if strike and self._texts[job_id] != POISON and not self._world.faults.count:
                self.fail(f"{job_id} is blamed, and nothing had happened to it")

    def _taken_from(
        self, job_id: str, worker: str, attempt: int | None, running: tuple[str, int] | None
    ) -> tuple[str, int]:
        if running is None or running[0] != worker or attempt not in (None, running[1]):
            self.fail(f"{job_id} was taken from {worker} ({attempt}), but {running} has it")
        return running

    # -- the same for lines of batches ----------------------------------------------------------

    @cached_property
    def _texts(self) -> dict[str, str]:
        """The text of each line, by its job."""
        return {
            job_id: text
            for batch in self._world.client.batches
            for job_id, text in batch.job_ids.items()
        }

    def _after_book_take(
        self, _: Process, args: tuple[Any, ...], answer: tuple[Run, float] | None
    ) -> None:
        if answer is None:
            return
        batch_id, _start, asked = args
        for job in answer[0].jobs:
            job_id = keys.batch_job_id(batch_id, job.line)
            if job_id in self._laid_down:
                self.fail(f"{asked.worker} got {job_id}, which is not ready again yet")
            self._has_got(job_id, asked.worker, job.attempt)

    def _after_book_finish(self, _: Process, args: tuple[Any, ...], answers: list[bool]) -> None:
        batch_id, worker, endings = args
        for ending, done in zip(endings, answers, strict=True):
            asker = (worker, ending.attempt)
            self._has_ended(keys.batch_job_id(batch_id, ending.line), asker, done=done)

    def _after_book_release(
        self, _: Process, args: tuple[Any, ...], answers: list[int | None]
    ) -> None:
        batch_id, worker, lines, untried = args
        for (line, attempt, _strike), strikes in zip(lines, answers, strict=True):
            if strikes is not None:
                job_id = keys.batch_job_id(batch_id, line)
                had = self._laid_down.pop(job_id, None) or self._running.pop(job_id, None)
                self._taken_from(job_id, worker, attempt, had)
                if untried:  # the next attempt gets its number
                    self._attempts[job_id] -= 1

    def _after_book_skip(self, _: Process, args: tuple[Any, ...], done: bool) -> None:
        batch_id, _chunk, _counts, lines = args
        if done:  # they had ended before the store lost its data
            self._ended.update((keys.batch_job_id(batch_id, line), ("", 0)) for line in lines)

    # -- rule 4: artifacts ----------------------------------------------------------------------

    def _after_store_create(self, _: Process, args: tuple[Any, ...], created: bool) -> None:
        name, data = args
        if name.endswith(".wav.json"):
            epoch = json.loads(data)["details"].get("epoch", 0)
            self._published_epoch = max(self._published_epoch, epoch)
        if not name.endswith(".wav"):
            return
        sha256 = hashlib.sha256(self._world.objects[name]).hexdigest()
        if created and name in self._artifacts:
            self.fail(f"{name} was published twice")
        self.counts["published"] += created
        if self._artifacts.setdefault(name, sha256) != sha256:
            self.fail(f"{name} was changed")

    # -- belief ---------------------------------------------------------------------------------

    def believes(self, worker: Worker, leadership: Leadership | None) -> None:
        """Take in what a worker believes from now on."""
        belief = self._beliefs.get(worker.id)
        if leadership is not None:
            self._believed.add(str(leadership.lease))
            self._check_deadline(worker, leadership)
        if belief is not None and leadership is not None and belief.lease == leadership.lease:
            belief.leadership = leadership
            return
        if belief is not None:
            self._end_overlap(self._beliefs.pop(worker.id))
        if leadership is not None:
            belief = self._beliefs[worker.id] = Belief(worker, leadership)
            if belief.is_live():
                self._look_for_two_believers()

    def _check_deadline(self, worker: Worker, leadership: Leadership) -> None:
        """Rule 6: counted from before the request was sent, so from before it had its effect."""
        allowed_s = self._prolonged_s[str(leadership.lease)] + self._world.settings.renew_deadline_s
        deadline_s = leadership.deadline_s - worker.clock_offset_s
        if deadline_s > allowed_s + 1e-6:
            late_s = deadline_s - allowed_s
            self.fail(f"{worker.id} leads {late_s:.4f} s longer than its renewal allows")

    def resumed(self, worker: Worker) -> None:
        """Take in that a worker's process goes on: it believes again what it believed."""
        belief = self._beliefs.get(worker.id)
        if belief is not None and belief.is_live():
            belief.overlaps_since_s = None  # counted anew: while it was paused it believed nothing
            self._look_for_two_believers()

    def _look_for_two_believers(self, granted: Lease | None = None) -> None:
        """Check all beliefs but the newest; ``granted``: a lease that is just being given out."""
        live = [belief for belief in self._beliefs.values() if belief.is_live()]
        leases = [belief.lease for belief in live] + ([granted] if granted else [])
        newest = max(leases, key=lambda lease: self._granted[str(lease)])
        for belief in live:
            if belief.lease == newest:
                continue
            if belief.overlaps_since_s is not None:
                continue
            why = self._ends.get(str(belief.lease), "")
            excused = why in ("deposed", "lost") or (
                why == "lapsed" and self._jumped_s > self._runtime.now_s - AFTERMATH_S
            )
            if not excused or not self._is_explained(belief.worker):
                why = why or "not ended"
                self.fail(f"{belief.worker.id} believes in {belief.lease} ({why}) beside {newest}")
            belief.overlaps_since_s = self._runtime.now_s
            belief.hindered = self._is_hindered(belief.worker, since_s=self._runtime.now_s)
            self.counts["overlaps"] += 1

    def _end_overlap(self, belief: Belief) -> None:
        if belief.overlaps_since_s is None:
            return
        process = belief.worker.process
        began_s, belief.overlaps_since_s = belief.overlaps_since_s, None
        if not process.alive or process.resumed_s > began_s:
            return  # who is paused believes nothing; for how long it did is not known here
        lasted_s = self._runtime.now_s - began_s
        self.longest_overlap_s = max(self.longest_overlap_s, lasted_s)
        limit_s = self._world.settings.renew_deadline_s + PROMPT_S
        if not belief.hindered and not self._is_hindered(belief.worker, since_s=began_s):
            limit_s = OVERLAP_S
        if lasted_s > limit_s:
            self.fail(f"{belief.worker.id} believed for {lasted_s:.2f} s beside its successor")

    def _is_hindered(self, worker: Worker, *, since_s: float) -> bool:
        """Whether something kept a worker from reading the store."""
        world, never = self._world, float("-inf")
        return (
            not (worker.reach.requests and worker.reach.replies)
            or world.store_down
            or world.store_paused_until_s > self._runtime.now_s
            or world.faults.hinders_requests
            or self._disturbed_s.get(worker.process, never) > since_s
            or self._disturbed_s.get(None, never) > since_s
        )

    def _look_at_deadlines(self) -> None:
        """Rule 6: nobody who runs leads past the deadline."""
        while True:
            for belief in list(self._beliefs.values()):
                process = belief.worker.process
                if process.paused or not process.alive:
                    continue
                past_s = belief.worker.clock() - belief.leadership.deadline_s
                ran_s = self._runtime.now_s - process.resumed_s
                if min(past_s, ran_s) > PROMPT_S:
                    self.fail(f"{belief.worker.id} leads {past_s:.2f} s past its deadline")
            self._runtime.sleep(_CHECK_EVERY_S)

    # -- the end --------------------------------------------------------------------------------

    def all_ended(self) -> bool:
        """Whether every job has ended, its report is written, and somebody leads."""
        submitted = len(self._world.client.submitted) + len(self._texts)
        return (
            len(self._ended) >= submitted
            and not self.missing()
            and any(belief.is_live() for belief in self._beliefs.values())
        )

    def missing(self) -> list[str]:
        """Return what has not come to its end."""
        store = self._world.store
        open_jobs = [
            f"{job_id} ({(store.job(job_id) or {'state': 'unknown'})['state']})"
            for job_id in sorted(self._world.client.submitted)
            if (store.job(job_id) or {"state": ""})["state"] not in ("succeeded", "failed")
        ]
        return open_jobs + [
            f"report of {batch.id}"
            for batch in self._world.client.batches
            if batch.id not in store.books or store.books[batch.id].report is None
        ]

    def at_end(self) -> None:
        """Nothing lost, nothing changed."""
        if missing := self.missing():
            self.fail(f"lost: {', '.join(missing)}")
        if not any(belief.is_live() for belief in self._beliefs.values()):
            self.fail("nobody leads")
        for name, sha256 in self._artifacts.items():
            if hashlib.sha256(self._world.objects[name]).hexdigest() != sha256:
                self.fail(f"{name} was changed")
        store = self._world.store
        for job_id in sorted(self._world.client.submitted):
            job = store.jobs[job_id]
            name = job["meta"].name
            if (
                job["state"] == "succeeded"
                and f'"{self._artifacts.get(name)}"' not in job["result"]
            ):
                self.fail(f"{job_id} succeeded without its artifact {name}")
            if (
                job["state"] == "failed"
                and "attempts" not in job["result"]
                and (self._world.faults.count == 0)
            ):
                self.fail(f"{job_id} failed without a fault: {job['result']}")
        for batch in self._world.client.batches:
            self._look_at_batch(batch)

    def _look_at_batch(self, batch: Batch) -> None:
        """Every line once in the report, as it ended; and nothing in anybody's hands."""
        book = self._world.store.books[batch.id]
        held = {line: worker for line, worker in book.taken.items() if worker}
        if held or book.ready or book.window:
            self.fail(f"{batch.id} is reported; held: {held}, ready: {book.ready}")
        report = self._world.objects[f"{batch.output}/{batch.id}.report.jsonl"]
        lines = [json.loads(line) for line in report.splitlines()]
        if [line["line"] for line in lines] != list(range(1, len(batch.texts) + 1)):
            self.fail(f"the report of {batch.id} has the lines {[line['line'] for line in lines]}")
        states = Counter(line["state"] for line in lines)
        if +book.ended != Counter({s: n for s, n in states.items() if s != "rejected"}):
            self.fail(f"{batch.id} counts {book.ended}, its report {states}")
        for line, text in zip(lines, batch.texts, strict=True):
            self._look_at_line(batch, line, text)

    def _look_at_line(self, batch: Batch, line: dict[str, Any], text: str) -> None:
        job_id, name = batch.job_id(line["line"]), batch.name(line["line"])
        what = (line["state"], (line["error"] or {}).get("code"))
        if what == ("succeeded", None):
            if not text or line["sha256"] != self._artifacts.get(name):
                self.fail(f"{job_id} succeeded without its artifact {name}")
        elif what == ("rejected", "rejected"):
            if text:
                self.fail(f"{job_id} was rejected")
        elif what != ("failed", "attempts_exhausted"):
            self.fail(f"{job_id} ended as {what}")
        elif text != POISON and self._world.faults.count == 0:
            self.fail(f"{job_id} failed without a fault: {line['error']}")
        if text == POISON and what[0] != "failed":
            self.fail(f"{job_id} {what[0]}, but nobody can have spoken it")
