"""A checker that cannot fail is worthless: bugs put in on purpose, and what the simulation says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.simulation.client import Client
from tests.simulation.network import Link
from tests.simulation.run import run_seed
from tests.simulation.runtime import Killed
from tts_tasks import keys
from tts_tasks.coordination.base import EpochFloor
from tts_tasks.storage import Published
from tts_tasks.testing import MemoryBatchBook, MemoryCoordinator, MemoryLedger, MemoryStorage
from tts_tasks.testing import ledger as testing_ledger
from tts_tasks.testing import segments as testing_segments
from tts_workers import agent, decision, job_runner, shift_stages
from tts_workers.decision import Demote, Remove
from tts_workers.lease_keeper import LeaseKeeper
from tts_workers.line_recovery import LineRecovery
from tts_workers.recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.coordination import Lease
    from tts_tasks.ledger import JobRecord
    from tts_tasks.ledger.batch_records import LineEnding
    from tts_workers.attempts import Publication

#: Each bug shows in far fewer seeds than this.
SEEDS = 1500


def replace_effect(
    monkeypatch: pytest.MonkeyPatch, store: type, name: str, effect: Callable[..., Any]
) -> None:
    """Let the store do something else; the checker goes by the effect's name."""
    effect.__name__ = name
    monkeypatch.setattr(store, name, effect)


def expect(
    what: str,
    *,
    forgetful: bool = False,
    poisoned: bool = False,
    only: tuple[str, ...] = (),
    tolerated: tuple[str, ...] = (),
    before_each: Callable[[], None] = lambda: None,
    first: int = 1,
) -> None:
    """Run seed after seed until one shows the bug; it must be shown as what it is.

    ``only``: the events that show it soonest; ``tolerated``: other consequences of the bug, which
    may come first; ``first``: the seed to begin with, where few of them show it.
    """
    for seed in range(first, first + SEEDS):
        before_each()
        violation = run_seed(seed, forgetful=forgetful, poisoned=poisoned, only=only).violation
        if what in violation:
            return
        assert not violation or any(one in violation for one in tolerated), violation
    pytest.fail(f"no run of {SEEDS} seeds was refused for it")


def test_a_removal_that_does_not_compare_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain DEL takes the successor's lease away."""

    def remove(self: MemoryCoordinator, lane_key: str, lease: Lease) -> bool:
        return self.store.leases.pop(lane_key, None) is not None

    replace_effect(monkeypatch, MemoryCoordinator, "_store_remove", remove)
    expect("but had seen")


def test_a_lane_that_is_taken_though_it_is_held_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SET without NX makes a second primary."""
    original = MemoryCoordinator._store_acquire

    def acquire(self: MemoryCoordinator, lane_key: str, *args: Any) -> Lease | None:
        if args[0].startswith("w1"):
            self.store.leases.pop(lane_key, None)
        return original(self, lane_key, *args)

    decide = decision.decide

    def greedy(view: decision.View, now_s: float) -> list[decision.Action]:
        actions = decide(view, now_s)
        return actions or [decision.Acquire()] if view.ready and not view.leadership else actions

    replace_effect(monkeypatch, MemoryCoordinator, "_store_acquire", acquire)
    monkeypatch.setattr(agent, "decide", greedy)
    expect("was granted while")


def test_a_fence_of_numbers_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that lost its counter gives a number out twice; the pair it cannot."""
    claim, acquire = MemoryLedger._store_claim, MemoryCoordinator._store_acquire

    def claim_by_number(
        self: MemoryLedger, job_id: str, worker: str, lease: Any, *args: Any
    ) -> Any:
        held = self.store.lease("default.0")
        same = held is not None and lease is not None and held.epoch == lease.epoch
        return claim(self, job_id, worker, held if same else lease, *args)

    own_epochs: dict[str, int] = {}

    def acquire_with_own_floor(
        self: MemoryCoordinator, lane: str, holder: str, ttl_ms: int, _: EpochFloor
    ) -> Any:
        floor = EpochFloor(own_epochs.get(holder, 0), complete=True)
        lease = acquire(self, lane, holder, ttl_ms, floor)
        own_epochs[holder] = lease.epoch if lease else own_epochs.get(holder, 0)
        return lease

    replace_effect(monkeypatch, MemoryLedger, "_store_claim", claim_by_number)
    replace_effect(monkeypatch, MemoryCoordinator, "_store_acquire", acquire_with_own_floor)
    expect(
        "got the online job",
        forgetful=True,
        only=("restart_store", "cut"),
        tolerated=("artifacts of epoch",),
        before_each=own_epochs.clear,
    )


def test_a_store_that_forgets_its_epochs_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the floor an epoch under which something was published is given out again."""
    acquire = MemoryCoordinator._store_acquire

    def without_floor(
        self: MemoryCoordinator, lane: str, holder: str, ttl_ms: int, _: EpochFloor
    ) -> Any:
        return acquire(self, lane, holder, ttl_ms, EpochFloor(complete=True))

    replace_effect(monkeypatch, MemoryCoordinator, "_store_acquire", without_floor)
    expect("artifacts of epoch", forgetful=True, tolerated=("was granted twice",))


def test_a_deadline_that_is_counted_from_the_reply_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pause between the effect and the reply lets the belief outlive the lease."""
    lead = LeaseKeeper._lead

    def from_the_reply(self: LeaseKeeper, lease: Lease, _: float) -> None:
        lead(self, lease, self._clock())

    monkeypatch.setattr(LeaseKeeper, "_lead", from_the_reply)
    expect("longer than its renewal allows")


def test_a_primary_that_never_stops_by_itself_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 6: without the store, leadership must end at the deadline."""
    decide = decision.decide

    def without_deadline(view: decision.View, now_s: float) -> list[decision.Action]:
        if view.leadership is not None:
            forever = replace(view.leadership, deadline_s=float("inf"))
            view = replace(view, leadership=forever)
        return decide(view, now_s)

    monkeypatch.setattr(agent, "decide", without_deadline)
    monkeypatch.setattr(LeaseKeeper, "demote_if_overdue", lambda _: None)
    expect("past its deadline")


def test_a_primary_that_gives_its_lease_away_first_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stop believing, then release: never the other way round."""
    decide = decision.decide

    def release_first(view: decision.View, now_s: float) -> list[decision.Action]:
        actions = decide(view, now_s)
        if [type(action) for action in actions[:2]] == [Demote, Remove]:
            actions[:2] = actions[1::-1]
        return actions

    monkeypatch.setattr(agent, "decide", release_first)
    expect("believes in it")


def test_a_claim_without_a_lease_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 1: online work is granted to the holder of the lease at that moment."""
    original = MemoryLedger._store_claim

    def claim(self: MemoryLedger, job_id: str, worker: str, _: Any, *args: Any) -> Any:
        return original(self, job_id, worker, self.store.lease("default.0"), *args)

    replace_effect(monkeypatch, MemoryLedger, "_store_claim", claim)
    expect(
        "got the online job",
        forgetful=True,
        only=("restart_store", "pause_child"),
        tolerated=("artifacts of epoch",),
    )


def test_a_claim_of_what_another_works_on_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 2: of two workers with the same message one gets the job."""
    original = MemoryLedger._store_claim

    def claim(self: MemoryLedger, job_id: str, worker: str, *args: Any) -> Any:
        job = self.store.job(job_id)
        if job is not None and job["state"] == "running":
            job.update(state="accepted")
        return original(self, job_id, worker, *args)

    replace_effect(monkeypatch, MemoryLedger, "_store_claim", claim)
    expect("works on")


def test_an_end_by_an_old_attempt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 3: only the newest attempt appends and finishes."""

    def is_newest(job: dict[str, Any], attempt: int, worker: str) -> bool:
        return bool(job["state"] == "running")

    for module in (testing_ledger, testing_segments):
        monkeypatch.setattr(module, "is_newest", is_newest)
    expect(
        "stale progress",
        only=("pause_worker", "cut"),
        tolerated=("ended default", "was taken from"),
    )


def test_an_artifact_that_is_overwritten_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 4: created if absent, never replaced."""

    def create(self: MemoryStorage, name: str, data: bytes) -> bool:
        self.objects[name] = data
        return True

    replace_effect(monkeypatch, MemoryStorage, "_store_create", create)
    expect("was published twice", only=("pause_worker", "reset"))


def says_that_it_published(_: Any, publications: list[Publication], __: Any) -> list[Published]:
    artifacts = [one.artifact for one in publications]
    return [
        Published(one.name, "memory:", "0" * 64, len(one.data), False, one.details)
        for one in artifacts
    ]


def test_a_job_that_ends_before_its_artifact_is_there_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Publish, then finish: a death in between must not leave a success without its sound."""
    monkeypatch.setattr(job_runner, "publish_all", says_that_it_published)
    expect("without its artifact")


def test_a_message_that_nobody_rings_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 2: what is accepted is spoken, whatever becomes of its message."""
    monkeypatch.setattr(Recovery, "reconcile", lambda *_, **__: 0)
    expect("lost: ")


def test_a_dead_worker_whose_work_is_never_given_back_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With neither recovery nor reconciler a job stays with the dead."""
    monkeypatch.setattr(Recovery, "_release_claims", lambda *_: [])
    monkeypatch.setattr(MemoryLedger, "unheard", lambda *_, **__: [])
    expect("lost: ")


# -- lines of batches ---------------------------------------------------------------------------


def test_an_end_of_a_line_by_an_old_attempt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 3 for lines: who comes late ends nothing."""
    original = MemoryBatchBook._store_finish_one

    def finish(self: MemoryBatchBook, batch_id: str, worker: str, ending: LineEnding) -> bool:
        job = self.store.jobs.get(keys.batch_job_id(batch_id, ending.line))
        if job is None or job["state"] != "running":
            return original(self, batch_id, worker, ending)
        newest = replace(ending, attempt=job["attempt"])
        return original(self, batch_id, job["worker"], newest)

    monkeypatch.setattr(MemoryBatchBook, "_store_finish_one", finish)
    expect("has it", only=("pause_worker", "cut"))


def test_a_line_that_is_taken_and_stays_ready_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 2 for lines: of two workers one gets a line."""
    original = MemoryBatchBook._store_take

    def take(self: MemoryBatchBook, batch_id: str, *args: Any) -> Any:
        book = self.store.books.get(batch_id)
        ready = [*book.ready] if book else []
        taken = original(self, batch_id, *args)
        if book is not None:
            book.ready[:] = ready
        return taken

    replace_effect(monkeypatch, MemoryBatchBook, "_store_take", take)
    expect("works on")


def test_a_line_that_is_given_back_and_not_ready_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is taken from a worker is for the next one."""
    original = MemoryBatchBook._store_release

    def release(self: MemoryBatchBook, batch_id: str, *args: Any) -> Any:
        book = self.store.books.get(batch_id)
        ready = [*book.ready] if book else []
        answers = original(self, batch_id, *args)
        if book is not None:
            book.ready[:] = ready
        return answers

    replace_effect(monkeypatch, MemoryBatchBook, "_store_release", release)
    expect("lost: report of b")


def test_a_chunk_that_is_fed_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who feeds it once more, after a lost reply or beside another, must change nothing."""
    original = MemoryBatchBook._store_feed

    def feed(self: MemoryBatchBook, batch_id: str, chunk: int, lines: Any) -> bool:
        book = self.store.books.get(batch_id)
        if book is not None:
            book.fed = chunk - 1
        return original(self, batch_id, chunk, lines)

    replace_effect(monkeypatch, MemoryBatchBook, "_store_feed", feed)
    expect("works on", tolerated=("has ended",))


def test_a_seal_of_a_batch_that_is_lost_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its submitter must learn of it, to submit it again."""
    original = MemoryBatchBook._store_seal

    def seal(self: MemoryBatchBook, batch_id: str, *args: Any) -> None:
        if batch_id in self.store.books:
            original(self, batch_id, *args)

    monkeypatch.setattr(MemoryBatchBook, "_store_seal", seal)
    monkeypatch.setattr(Client, "submit_again", lambda _: None)
    expect("lost: report of b", forgetful=True, tolerated=("lost: ",))


def test_lines_that_nobody_rings_for_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given back, or was fed by somebody whose ring was lost, is rung for."""
    monkeypatch.setattr(Recovery, "_ring_for_work", lambda *_: None)
    expect("lost: report of b")


def test_a_batch_that_nobody_settles_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushed, fed and reported, though its submitter and its last worker have died."""
    monkeypatch.setattr(Recovery, "settle_batches", lambda _: None)
    expect("lost: report of b")


def test_lines_of_a_dead_child_that_are_never_given_back_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With neither recovery nor reconciler they stay with the dead."""
    monkeypatch.setattr(LineRecovery, "release", lambda *_: (0, set()))
    monkeypatch.setattr(LineRecovery, "reconcile", lambda *_, **__: 0)
    expect("lost: report of b")


def test_a_take_that_comes_after_its_worker_was_recovered_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No list of claims leads to it any more; somebody must look at the lines themselves."""
    do = Link._do

    def do_late(link: Link, effect: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Let one taker in ten die with its take on the way, which the store does much later."""
        process, world = link._process, link._world
        is_take = effect.__name__ == "_store_take" and process.alive and world.faults.active
        if is_take and world.runtime.rng.random() < 0.1:
            link._do_later(effect, args, 10.0)
            process.kill()
            raise Killed
        return do(link, effect, args)

    monkeypatch.setattr(Link, "_do", do_late)
    assert run_seed(1, only=("kill_worker",)).violation == ""
    monkeypatch.setattr(LineRecovery, "reconcile", lambda *_, **__: 0)
    expect("lost: report of b", only=("kill_worker",))


def test_a_list_of_claims_that_is_struck_off_too_early_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line that is spoken may kill its worker while it looks for more."""

    def let_go(self: MemoryBatchBook, batch_id: str, worker: str) -> bool:
        self._ask(self.store.claims[worker].discard, batch_id)
        if not self.held_by(batch_id, worker):
            return True
        self._ask(self._store_note, worker, batch_id)
        return False

    monkeypatch.setattr(MemoryBatchBook, "let_go", let_go)
    monkeypatch.setattr(LineRecovery, "reconcile", lambda *_, **__: 0)
    expect("lost: report of b", poisoned=True)


def test_a_line_that_ends_before_its_artifact_is_there_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Store, then end: as with a job."""
    monkeypatch.setattr(shift_stages, "publish_all", says_that_it_published)
    expect("without its artifact")


def test_a_blame_for_whatever_a_dead_worker_held_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the line that was spoken may have killed it."""
    original = LineRecovery._give_back

    def give_back(
        self: LineRecovery, batch_id: str, worker: str, lines: dict[int, JobRecord], why: Any
    ) -> int:
        for job in lines.values():
            self._strike(job, worker, why)
        return original(self, batch_id, worker, lines, why)

    monkeypatch.setattr(LineRecovery, "_give_back", give_back)
    expect("is blamed", poisoned=True)


def test_a_poison_that_is_never_blamed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would kill one worker after the other."""
    monkeypatch.setattr(LineRecovery, "_strike", lambda *_: None)
    expect("lost: report of b", poisoned=True)
