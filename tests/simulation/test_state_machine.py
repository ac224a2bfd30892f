"""Hypothesis plays the world: agents that tick when told to, over stores that lose replies.

No scheduler and no time but what a rule lets pass; so that a failure shrinks to a few steps.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tts_tasks import keys
from tts_tasks.coordination.base import Lease, WorkerRecord
from tts_tasks.errors import UnavailableError
from tts_tasks.ledger import Claim, JobMeta, LoggedSegment
from tts_tasks.ledger.batch_records import LineEnding, Run
from tts_tasks.requests import SpeechRequest
from tts_tasks.settings import Settings
from tts_tasks.storage import Ownership, publish
from tts_tasks.testing import (
    FakeClock,
    MemoryBatchBook,
    MemoryCoordinator,
    MemoryLedger,
    MemorySegments,
    MemoryStorage,
    MemoryStore,
)
from tts_tasks.testing import ledger as testing_ledger
from tts_workers import agent
from tts_workers.agent import Agent
from tts_workers.decision import decide
from tts_workers.lease_keeper import LeaseKeeper

LANE = "default.0"
QUEUE = "tts.online.default.0"
BATCH, BATCH_QUEUE = "b1", "tts.batch.default"
JOBS, LINES = 4, 4
READY = {"event": "ready", "engine": "e", "fingerprint": "f", "capabilities": {}}
WORKERS = st.integers(0, 2)


def job_id_of(number: int) -> str:
    """Return the id of an online job."""
    return f"{LANE}:{number}"


class NoEvents:
    """Takes every event, keeps none."""

    def emit(self, event: str, **_: Any) -> None:
        """Take an event."""

    note = emit

    def flush(self) -> None:
        """Write nothing."""


class Rescue:
    """Gives back what the dead held; messages are no part of this."""

    def __init__(self, store: MemoryStore, wire: Wire | None = None) -> None:
        self._coordinator = MemoryCoordinator(store=store, wire=wire)
        self._ledger = MemoryLedger(store, wire=wire)
        self._book = MemoryBatchBook(store, wire=wire)

    def recover(self, worker_id: str, *, silent_s: float) -> None:
        self.give_back_claims(worker_id)
        self._coordinator.forget(worker_id)

    def give_back_claims(
        self, worker_id: str, evidence: Any = None, *, child: int | None = None
    ) -> list[str]:
        held = self._ledger.claims_of(worker_id)
        for batch in self._book.claimed_by(worker_id):
            lines = self._book.held_by(batch, worker_id)
            self._book.release(batch, worker_id, [(line, None, False) for line in lines])
        return [j for j in held if self._ledger.release(j, worker_id, None, strike=False)]

    def reconcile(self, queue: str, working_on: Any, *, at_once: bool = False) -> int:
        return 0

    def highest_epoch(self) -> int:
        """Nothing is published under an epoch here."""
        return 0

    def sweep(self) -> None:
        """There is nothing to sweep."""

    def settle_batches(self) -> None:
        """The one there is is never reported."""


class Wire:
    """Loses the next request or the next reply when told to."""

    def __init__(self) -> None:
        self.fate = ""
        self.after = 0

    def __call__(self, effect: Any, *args: Any, **kwargs: Any) -> Any:
        self.after -= 1
        fate = self.fate if self.after < 0 else ""
        if fate:
            self.fate = ""
        if fate == "request":
            raise UnavailableError("lost")
        answer = effect(*args, **kwargs)
        if fate == "reply":
            raise UnavailableError("lost")
        return answer


class Node:
    """One worker: its agent, and the claims that its child holds."""

    def __init__(self, world: World, name: str) -> None:
        self.wire = Wire()
        self.coordinator = MemoryCoordinator(store=world.store, wire=self.wire)
        self.ledger = MemoryLedger(world.store, wire=self.wire)
        self.book = MemoryBatchBook(world.store, wire=self.wire)
        self.segments = MemorySegments(world.store, wire=self.wire)
        self.claims: list[Claim] = []
        self.paused = False
        self.id = name
        self.agent = Agent(
            Settings(redis_url="redis://nowhere"),
            WorkerRecord(id=name, host="h", pid=1, pool="default", lane="0", beat=0),
            coordinator=self.coordinator,
            rescue=Rescue(world.store, self.wire),
            events=NoEvents(),  # type: ignore[arg-type]
            on_role=lambda _: None,
            clock=world.clock,
        )
        self.agent.child_said(1, READY)


class World(RuleBasedStateMachine):
    """Three workers, one store, one storage."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store_clock = FakeClock()
        self.store = MemoryStore(self.store_clock)
        self.objects: dict[str, bytes] = {}
        self.sound = itertools.count()
        self.number = itertools.count()
        self.shown: dict[str, bytes] = {}
        self.pairs: dict[str, str] = {}
        self.ended: dict[str, tuple[str, str]] = {}
        self.attempts: dict[str, int] = {}
        self.excused = False

    @initialize(led=st.booleans())
    def start(self, led: bool) -> None:
        """Begin with a primary, or without one: elections take many steps."""
        self.nodes = [self._new(slot) for slot in range(3)]
        self._submit()
        if led:
            self.go_on([0] * 8)

    def _new(self, slot: int) -> Node:
        return Node(self, f"w{slot}/{next(self.number)}")

    def _submit(self) -> None:
        """Accept all there is: online jobs, and lines of a batch, which are anybody's."""
        ledger, book = MemoryLedger(self.store), MemoryBatchBook(self.store)
        for number in range(JOBS):
            meta = JobMeta(queue=QUEUE, name=f"{number}.wav", lane_key=LANE)
            ledger.accept([(job_id_of(number), SpeechRequest(text="a"), meta)])
        book.open(BATCH, source="s", output=BATCH, queue=BATCH_QUEUE, created_ms=1)
        book.seal(BATCH, chunks=1, accepted=LINES, rejected=0)
        book.feed(BATCH, 1, [(line, 1) for line in range(1, LINES + 1)])

    # -- rules ----------------------------------------------------------------------------------

    @rule(slot=WORKERS)
    def tick(self, slot: int) -> None:
        node = self.nodes[slot]
        if not node.paused:
            try:
                node.agent.tick()
                node.agent.do_chores()
            except UnavailableError:
                return

    @rule(slots=st.lists(WORKERS, min_size=4, max_size=24))
    def go_on(self, slots: list[int]) -> None:
        """Let time pass in quarters of a heartbeat, and workers tick."""
        for slot in slots:
            self.advance(0.25)
            self.tick(slot)

    @rule(seconds=st.sampled_from([0.05, 0.25, 1.0, 2.0, 3.5]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.store_clock.advance(seconds)
        for node in self.nodes:
            if not node.paused:
                node.agent.end_what_is_overdue()  # the guard's thread, which is never late

    @rule(slot=WORKERS)
    def pause(self, slot: int) -> None:
        self.nodes[slot].paused = True

    @rule(slot=WORKERS)
    def resume(self, slot: int) -> None:
        self.nodes[slot].paused = False
        self.nodes[slot].agent.end_what_is_overdue()

    @rule(slot=WORKERS)
    def kill_and_restart(self, slot: int) -> None:
        self.nodes[slot] = self._new(slot)

    @rule(slot=WORKERS)
    def the_child_dies(self, slot: int) -> None:
        node = self.nodes[slot]
        node.agent.child_lost(1)
        node.agent.child_said(2, READY)
        node.agent.child_lost(2)
        node.agent.child_said(1, READY)

    @rule(slot=WORKERS, fate=st.sampled_from(["request", "reply"]), after=st.integers(0, 6))
    def lose(self, slot: int, fate: str, after: int) -> None:
        wire = self.nodes[slot].wire
        wire.fate, wire.after = fate, after

    @rule()
    def the_store_loses_everything(self) -> None:
        self.store.lose_data()
        self.attempts.clear()
        self.ended.clear()
        self.excused = True
        self._submit()

    @rule(seconds=st.sampled_from([-5.0, 2.0, 70.0]))
    def the_stores_clock_jumps(self, seconds: float) -> None:
        self.store_clock.advance(seconds)
        self.excused = True

    @rule(
        slot=WORKERS | st.none(),
        which=st.integers(0, JOBS - 1),
        children=st.integers(1, 2),
    )
    def claim(self, slot: int | None, which: int, children: int) -> None:
        """The child takes a job under the lease that its parent told it, true or not.

        ``slot``: whose child; None: the primary's. ``children``: how many do, one after the
        other's death.
        """
        leading = [node for node in self.nodes if node.agent.leadership is not None]
        node = (leading or self.nodes)[0] if slot is None else self.nodes[slot]
        for _ in range(children):
            self._claim(node, job_id_of(which))

    def _claim(self, node: Node, job_id: str) -> None:
        leads = node.agent.leadership
        believed = leads.lease if leads else Lease(1, node.id)
        before = self.store.lease(LANE)
        nonce = str(next(self.sound))
        try:
            answer = node.ledger.claim(job_id, node.id, believed, max_strikes=1000, nonce=nonce)
        except UnavailableError:
            return
        if isinstance(answer, Claim):
            assert not answer.meta.lane_key or (before is not None and before.holder == node.id)
            self._got(node, answer)

    @rule(slot=WORKERS, jobs=st.integers(1, 2))
    def take(self, slot: int, jobs: int) -> None:
        """The child takes lines of the batch, whoever leads."""
        node = self.nodes[slot]
        nonce = str(next(self.sound))
        limits = {"max_jobs": jobs, "max_chars": 9, "max_strikes": 1000}
        try:
            run = node.book.take(BATCH_QUEUE, node.id, nonce=nonce, **limits)
        except UnavailableError:
            return
        for job in run.jobs if run else ():
            assert self.store.books[BATCH].taken[job.line] == node.id
            meta = JobMeta(queue="", name=f"{BATCH}/{job.line}.wav", batch=BATCH, line=job.line)
            job_id = keys.batch_job_id(BATCH, job.line)
            self._got(node, Claim(job_id, node.id, job.attempt, {}, meta, 0))

    def _got(self, node: Node, claim: Claim) -> None:
        assert claim.job_id not in self.ended
        assert claim.attempt > self.attempts.get(claim.job_id, 0)
        self.attempts[claim.job_id] = claim.attempt
        node.claims.append(claim)

    @precondition(lambda self: any(node.claims for node in self.nodes))
    @rule(slot=WORKERS, which=st.integers(0, 5), segments=st.integers(0, 2))
    def finish(self, slot: int, which: int, segments: int) -> None:
        """The child publishes and ends a job, newest attempt or not."""
        node = self.nodes[slot]
        if node.claims:
            self._finish(node, node.claims[which % len(node.claims)], segments)

    @precondition(lambda self: self._overtaken())
    @rule(which=st.integers(0, 5))
    def an_old_attempt_finishes(self, which: int) -> None:
        """The child has not heard that a newer one is at work."""
        overtaken = self._overtaken()
        self._finish(*overtaken[which % len(overtaken)], 0)

    def _overtaken(self) -> list[tuple[Node, Claim]]:
        return [
            (node, claim)
            for node in self.nodes
            for claim in node.claims
            if claim.attempt < self.attempts.get(claim.job_id, 0)
        ]

    def _finish(self, node: Node, claim: Claim, segments: int) -> None:
        storage = MemoryStorage(self.objects, wire=node.wire)
        sound = str(next(self.sound)).encode()
        owner = Ownership(job=claim.job_id, sound="s")
        who = (claim.worker, str(claim.attempt))
        newest = False
        try:
            for done in range(1, segments + 1):
                segment = LoggedSegment.of(done, segments, sound, 8000)
                node.segments.append(claim, segment, "plan", None, 60)
            published = publish(storage, claim.meta.name, sound, owner, {"n": 1})
            newest = self._is_newest(claim)
            result = {"sha256": published.sha256}
            ended = self._end(node, claim, result)
        except UnavailableError:
            if newest and not self._is_newest(claim):
                self.ended[claim.job_id] = who  # only the reply was lost
            return
        if ended:
            assert newest or self.ended.get(claim.job_id) == who
            self.ended[claim.job_id] = who

    @staticmethod
    def _end(node: Node, claim: Claim, result: dict[str, Any]) -> bool:
        if not claim.meta.batch:
            return node.ledger.finish(claim, "succeeded", result, retention_s=60)
        ending = LineEnding(claim.meta.line, 1, claim.attempt, "succeeded", result)
        return node.book.finish(BATCH, claim.worker, [ending])[0]

    def _is_newest(self, claim: Claim) -> bool:
        """Look the job up without asking the code that is tested."""
        job = self.store.jobs.get(claim.job_id, {"state": "", "attempt": 0, "worker": ""})
        found = (job["state"], job["attempt"], job["worker"])
        return found == ("running", claim.attempt, claim.worker)

    @rule(slot=WORKERS)
    def is_taken_for_dead(self, slot: int) -> None:
        """Somebody gives its jobs back, though it lives."""
        Rescue(self.store).give_back_claims(self.nodes[slot].id)

    # -- invariants -----------------------------------------------------------------------------

    @invariant()
    def one_believer(self) -> None:
        """Two may believe only if the store lost a lease before its time, or a beat was missed."""
        believers = [
            (node, leads)
            for node in self.nodes
            if not node.paused
            and (leads := node.agent.leadership) is not None
            and self.clock() < leads.deadline_s
        ]
        if len(believers) < 2:
            return
        held = self.store.lease(LANE)
        standing = [leads for _, leads in believers if leads.lease == held]
        assert len(standing) <= 1
        assert self.excused or len({leads.lease.epoch for _, leads in believers}) == len(believers)
        others = [leads for _, leads in believers if leads.lease != held]
        assert all(leads.deadline_s - self.clock() <= 2.0 for leads in others)

    @invariant()
    def nobody_leads_past_the_deadline(self) -> None:
        for node in self.nodes:
            leads = node.agent.leadership
            assert node.paused or leads is None or self.clock() < leads.deadline_s

    @invariant()
    def the_lease_was_given_to_one(self) -> None:
        lease = self.store.lease(LANE)
        if lease is not None:
            assert self.pairs.setdefault(str(lease), lease.holder) == lease.holder

    @invariant()
    def each_line_is_in_one_place(self) -> None:
        """Ready, or in somebody's hands, or ended."""
        book = self.store.books[BATCH]
        ready = [line for line, _, _ in book.ready]
        held = [line for line, worker in book.taken.items() if worker]
        assert sorted(ready + held + book.done) == list(range(1, LINES + 1))

    @invariant()
    def artifacts_never_change(self) -> None:
        for name, data in self.objects.items():
            if name.endswith(".wav"):
                assert self.shown.setdefault(name, data) == data
        assert self.shown.keys() <= self.objects.keys()


TestWorld = World.TestCase
TestWorld.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def without_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeaseKeeper, "demote_if_overdue", lambda _: None)
    monkeypatch.setattr(agent, "decide", lambda view, _: decide(view, 0.0))


def claim_without_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemoryLedger._store_claim

    def claim(self: MemoryLedger, job_id: str, worker: str, _: Any, *args: Any) -> Any:
        return original(self, job_id, worker, self.store.lease(LANE), *args)

    monkeypatch.setattr(MemoryLedger, "_store_claim", claim)


def finish_without_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing_ledger, "is_newest", lambda job, *_: job["state"] == "running")


def finish_line_without_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemoryBatchBook._store_finish_one

    def finish(self: MemoryBatchBook, batch_id: str, _: str, ending: LineEnding) -> bool:
        job = self.store.jobs.get(keys.batch_job_id(batch_id, ending.line))
        if job is None:
            return False
        newest = replace(ending, attempt=job["attempt"])
        return original(self, batch_id, job["worker"], newest)

    monkeypatch.setattr(MemoryBatchBook, "_store_finish_one", finish)


def take_and_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemoryBatchBook._store_take

    def take(self: MemoryBatchBook, batch_id: str, *args: Any) -> tuple[Run, float] | None:
        book = self.store.books[batch_id]
        ready = [*book.ready]
        taken = original(self, batch_id, *args)
        book.ready[:] = ready
        return taken

    monkeypatch.setattr(MemoryBatchBook, "_store_take", take)


def release_and_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemoryBatchBook._store_release

    def release(self: MemoryBatchBook, batch_id: str, *args: Any) -> list[int | None]:
        ready = [*self.store.books[batch_id].ready]
        answers = original(self, batch_id, *args)
        self.store.books[batch_id].ready[:] = ready
        return answers

    monkeypatch.setattr(MemoryBatchBook, "_store_release", release)


def overwrite(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(self: MemoryStorage, name: str, data: bytes) -> bool:
        self.objects[name] = data
        return True

    monkeypatch.setattr(MemoryStorage, "_store_create", create)


@pytest.mark.parametrize(
    "bug",
    [
        without_deadline,
        claim_without_lease,
        finish_without_attempt,
        finish_line_without_attempt,
        take_and_leave,
        release_and_lose,
        overwrite,
    ],
)
def test_it_finds_bugs_that_are_put_in(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot fail is worthless."""
    bug(monkeypatch)
    search = settings(
        World.TestCase.settings,
        max_examples=1000,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(World, settings=search)
