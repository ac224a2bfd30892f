"""What a lane takes and what it refuses, and that its load is counted exactly.

Run on a real Redis, on a cluster, and on the ledger in memory.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tts_tasks import client, keys, synthesize
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.errors import DeadlineError, QueueFullError, RequestError
from tts_tasks.ledger import Claim, ClaimRefused, JobLedger, JobMeta, LaneLoad, Refusal, Terms
from tts_tasks.redis_connection import connect
from tts_tasks.requests import SpeechRequest
from tts_tasks.settings import get_settings
from tts_tasks.testing import ALL_KNOWN, FakeClock, MemoryCoordinator, MemoryLedger, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tts_tasks.coordination.base import Coordinator, Lease

LANE = "default.0"
QUEUE = "tts.online.default.0"


@dataclass
class Store:
    """The ledger and the leases of one store, and how its time is moved."""

    ledger: JobLedger | MemoryLedger
    coordinator: Coordinator
    field: Callable[[str, str, int], object]  #: set a time of a job: id, field, ms from now
    forget: Callable[[str], object]  #: remove an ended job, as its retention does
    lose_data: Callable[[], object]
    open_jobs: Callable[[], set[str]]

    def lead(self, lane_key: str = LANE, worker: str = "w1") -> Lease:
        lease = self.coordinator.acquire(lane_key, worker, 600, ALL_KNOWN)
        assert lease is not None
        return lease

    def accept(
        self,
        name: str,
        chars: int = 10,
        *,
        deadline_s: float | None = None,
        terms: Terms | None = None,
        delay_s: float = 0.0,
        lane_key: str = LANE,
    ) -> str:
        job_id = f"{lane_key}:{name}"
        request = SpeechRequest(text="字" * chars, deadline_s=deadline_s)
        meta = JobMeta(queue=QUEUE, name=f"{name}.wav", lane_key=lane_key)
        self.ledger.accept([(job_id, request, meta)], delay_s=delay_s, terms=terms)
        return job_id

    def ask(self, job_id: str, lease: Lease, worker: str = "w1") -> Claim | ClaimRefused:
        nonce = secrets.token_hex(4)
        return self.ledger.claim(job_id, worker, lease, max_strikes=3, nonce=nonce)

    def claim(self, job_id: str, lease: Lease, worker: str = "w1") -> Claim:
        answer = self.ask(job_id, lease, worker)
        assert isinstance(answer, Claim), answer
        return answer

    def speak(self, name: str, lease: Lease, *, chars: int, took_ms: int) -> None:
        """Have a job of so many characters spoken in so long."""
        claim = self.claim(self.accept(name, chars), lease)
        self.field(claim.job_id, "claimed_ms", -took_ms)
        assert self.ledger.finish(claim, "succeeded", {}, retention_s=60)


def in_redis(url: str) -> Store:
    redis_client, ledger = connect(url), JobLedger(url)

    def set_time(job_id: str, name: str, by_ms: int) -> None:
        key, now_ms = keys.job(job_id), ledger.now_ms()
        if name == "claimed_ms":  # its lane counts since when it runs
            claimed_ms = int(redis_client.hget(key, name) or 0)
            load = keys.load(keys.split_job_id(job_id)[0])
            redis_client.hincrby(load, "running_since_ms", now_ms + by_ms - claimed_ms)
        redis_client.hset(key, name, now_ms + by_ms)

    return Store(
        ledger,
        RedisCoordinator(url, timeout_s=2.0),
        field=set_time,
        forget=lambda job_id: redis_client.delete(keys.job(job_id)),
        lose_data=redis_client.flushall,
        open_jobs=lambda: set(redis_client.zrange(keys.open_jobs(QUEUE), 0, -1)),
    )


def in_memory() -> Store:
    clock = FakeClock(1_000_000.0)
    store = MemoryStore(clock)

    def set_time(job_id: str, name: str, by_ms: int) -> None:
        job, at_ms = store.jobs[job_id], store.now_ms() + by_ms
        if name == "claimed_ms":
            store.loads[job["meta"].lane_key].running_since_ms += at_ms - job[name]
        job[name] = at_ms

    return Store(
        MemoryLedger(store),
        MemoryCoordinator(store=store),
        field=set_time,
        forget=lambda job_id: store.jobs.pop(job_id, None),
        lose_data=store.lose_data,
        open_jobs=lambda: set(store.open_jobs[QUEUE]),
    )


@pytest.fixture(params=["redis", "cluster", "memory"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each kind of store in turn, empty."""
    if request.param == "memory":
        return in_memory()
    if request.param == "cluster":
        return in_redis(request.getfixturevalue("redis_cluster").url)
    return in_redis(request.getfixturevalue("redis_url"))


# -- a full lane -----------------------------------------------------------------------------------


def test_a_full_lane_refuses_and_leaves_nothing_behind(store: Store) -> None:
    """What waits is bounded; a refused job is in no index and not in the ledger."""
    terms = Terms(max_waiting=2)
    store.accept("a", terms=terms)
    store.accept("b", terms=terms)
    with pytest.raises(QueueFullError, match="try again in 1 s") as refused:
        store.accept("c", terms=terms)
    assert (refused.value.estimate_s, refused.value.retry_after_s) == (None, 1.0)
    assert store.ledger.get(f"{LANE}:c") is None
    assert store.open_jobs() == {f"{LANE}:a", f"{LANE}:b"}
    load = store.ledger.load(LANE)
    assert (load.waiting_jobs, load.waiting_chars) == (2, 20)


def test_accepting_again_is_neither_counted_nor_refused(store: Store) -> None:
    """The same task id, however often, and however full the lane is by now."""
    terms = Terms(max_waiting=1)
    for _ in range(3):
        store.accept("a", terms=terms, deadline_s=0.001)
    assert store.ledger.load(LANE).waiting_jobs == 1


def test_a_claimed_job_makes_room_and_a_released_one_takes_it_back(store: Store) -> None:
    """Who runs does not wait."""
    lease, terms = store.lead(), Terms(max_waiting=1)
    first = store.claim(store.accept("a", terms=terms), lease)
    store.accept("b", terms=terms)
    store.ledger.release(first.job_id, "w1", None, strike=True)
    assert store.ledger.load(LANE) == LaneLoad(waiting_jobs=2, waiting_chars=20)
    with pytest.raises(QueueFullError):
        store.accept("c", terms=terms)


def test_a_new_attempt_runs_from_its_own_claim_on(store: Store) -> None:
    """The same worker's child died; what it had done is lost."""
    lease = store.lead()
    job_id = store.claim(store.accept("a"), lease).job_id
    store.field(job_id, "claimed_ms", -5000)
    store.claim(job_id, lease)
    record = store.ledger.get(job_id)
    assert record is not None
    load = store.ledger.load(LANE)
    assert load == LaneLoad(0, 0, 1, 10, running_since_ms=record.claimed_ms)


def test_lanes_are_full_each_for_itself(store: Store) -> None:
    """One lane's crowd refuses nobody on another."""
    terms = Terms(max_waiting=1)
    store.accept("a", terms=terms)
    store.accept("a", terms=terms, lane_key="default.1")
    assert store.ledger.load("default.1").waiting_jobs == 1


def test_a_job_for_later_waits_from_its_claim_on(store: Store) -> None:
    """What is to be spoken tomorrow (`countdown`, `eta`) keeps nobody out today."""
    lease, terms = store.lead(), Terms(max_waiting=1)
    store.accept("a", terms=terms, delay_s=60)
    assert store.ledger.load(LANE).waiting_jobs == 0
    store.accept("b", terms=terms)
    claim = store.claim(f"{LANE}:a", lease)
    load = store.ledger.load(LANE)
    assert (load.waiting_jobs, load.running_jobs, load.running_chars) == (1, 1, 10)
    store.ledger.release(claim.job_id, "w1", None, strike=False)
    assert store.ledger.load(LANE).waiting_jobs == 2


def test_lines_of_a_batch_are_not_counted(store: Store) -> None:
    """They wait elsewhere, and without a bound."""
    meta = JobMeta(queue="tts.batch.default", name="b1/1.wav", batch="b1", line=1)
    jobs = [("b1:1", SpeechRequest(text="你好"), meta)]
    store.ledger.accept(jobs, terms=Terms(max_waiting=1))
    answer = store.ledger.claim("b1:1", "w1", None, max_strikes=3, nonce="n")
    assert isinstance(answer, Claim)
    assert store.ledger.finish(answer, "succeeded", {}, retention_s=60)
    assert store.ledger.load("b1") == LaneLoad()


# -- deadlines -------------------------------------------------------------------------------------


def test_a_lane_that_has_measured_nothing_takes_every_deadline(store: Store) -> None:
    """Nobody knows better."""
    store.accept("a", 1000, deadline_s=0.5, terms=Terms(takeover_s=3))
    assert store.ledger.load(LANE).waiting_jobs == 1


def test_a_deadline_that_cannot_be_met_is_refused_with_an_estimate(store: Store) -> None:
    """What waits and the job itself, at the measured pace; the same job with more time is taken."""
    lease = store.lead()
    store.speak("measured", lease, chars=100, took_ms=10_000)
    store.accept("waits", 30)
    with pytest.raises(DeadlineError, match="try again in 1 s") as refused:
        store.accept("a", 20, deadline_s=4)
    assert refused.value.estimate_s == pytest.approx(5, rel=0.05)
    assert refused.value.retry_after_s == pytest.approx(1, abs=0.3)
    assert store.open_jobs() == {f"{LANE}:waits"}
    store.accept("a", 20, deadline_s=6)


def test_a_text_that_alone_takes_longer_is_not_to_be_tried_again(store: Store) -> None:
    """No wait would help it."""
    store.speak("measured", store.lead(), chars=100, took_ms=10_000)
    with pytest.raises(DeadlineError, match="the text alone") as refused:
        store.accept("a", 20, deadline_s=1)
    assert refused.value.retry_after_s is None


def test_the_estimate_counts_the_rest_of_what_runs(store: Store) -> None:
    """Of a job of 4 s that began 3 s ago, one is left; of an overdue one nothing."""
    lease = store.lead()
    store.speak("measured", lease, chars=100, took_ms=10_000)
    claim = store.claim(store.accept("runs", 40), lease)
    for ago_ms, rest_s in ((0, 4.0), (3000, 1.0), (9000, 0.0)):
        store.field(claim.job_id, "claimed_ms", -ago_ms)
        with pytest.raises(DeadlineError) as refused:
            store.accept("a", 10, deadline_s=0.5)
        assert refused.value.estimate_s == pytest.approx(rest_s + 1, rel=0.1)


def test_the_estimate_counts_a_takeover_where_nobody_leads(store: Store) -> None:
    """Somebody must take the lane before anything is spoken."""
    lease = store.lead()
    store.speak("measured", lease, chars=100, took_ms=10_000)
    terms = Terms(takeover_s=3)
    store.accept("led", 10, deadline_s=2, terms=terms)
    store.claim(f"{LANE}:led", lease)
    store.coordinator.remove(LANE, lease)
    with pytest.raises(DeadlineError) as refused:
        store.accept("a", 10, deadline_s=2, terms=terms)
    assert refused.value.estimate_s == pytest.approx(5, rel=0.05)


def test_a_full_lane_says_when_it_would_have_been_done(store: Store) -> None:
    """And to try again when the running job is done."""
    lease = store.lead()
    store.speak("measured", lease, chars=100, took_ms=10_000)
    store.claim(store.accept("runs", 60), lease)
    store.accept("waits", 20)
    with pytest.raises(QueueFullError) as refused:
        store.accept("a", 10, terms=Terms(max_waiting=1))
    assert refused.value.estimate_s == pytest.approx(9, rel=0.05)
    assert refused.value.retry_after_s == pytest.approx(6, rel=0.05)


def test_one_odd_job_is_not_taken_for_the_pace(store: Store) -> None:
    """Neither an adopted book nor a word that sat through an outage."""
    lease = store.lead()
    for n in range(5):
        store.speak(f"n{n}", lease, chars=100, took_ms=10_000)
    assert store.ledger.load(LANE).char_s == pytest.approx(0.1, rel=0.1)
    store.speak("adopted", lease, chars=100_000, took_ms=5)
    assert (store.ledger.load(LANE).char_s or 0) > 0.05
    for n in range(5, 10):
        store.speak(f"n{n}", lease, chars=100, took_ms=10_000)
    store.speak("outage", lease, chars=1, took_ms=600_000)
    assert (store.ledger.load(LANE).char_s or 0) < 0.2


def test_an_idle_lane_does_not_believe_an_old_measurement(store: Store) -> None:
    """Else a lane that was slow once would refuse for ever; while it works, new ones will come."""
    lease = store.lead()
    store.speak("measured", lease, chars=100, took_ms=10_000)
    busy = store.accept("busy")
    if isinstance(store.ledger, MemoryLedger):
        store.ledger.store.loads[LANE].paced_at_ms -= 3_600_000
    else:
        store.ledger._client.hincrby(keys.load(LANE), "paced_at_ms", -3_600_000)
    with pytest.raises(DeadlineError):
        store.accept("a", 20, deadline_s=1)
    claim = store.claim(busy, lease)
    store.ledger.finish(claim, "failed", {}, retention_s=60)
    store.accept("a", 20, deadline_s=1)


def test_a_job_whose_deadline_has_passed_is_not_given_to_anybody(store: Store) -> None:
    """It can then be ended; nothing of it waits any more."""
    lease = store.lead()
    job_id = store.accept("a", deadline_s=60)
    claim = store.claim(job_id, lease)
    store.ledger.release(job_id, "w1", claim.attempt, strike=False)
    store.field(job_id, "deadline_ms", -1500)
    answer = store.ask(job_id, lease)
    assert isinstance(answer, ClaimRefused)
    assert answer.reason is Refusal.EXPIRED
    assert 1500 <= int(answer.detail) < 10_000
    record = store.ledger.get(job_id)
    assert record is not None
    assert (record.state, record.attempt) == ("accepted", 1)
    assert store.ledger.claims_of("w1") == []
    assert store.ledger.give_up(record, "w1", {"error": {}}, retention_s=60)
    assert store.ledger.load(LANE) == LaneLoad()


def test_a_job_that_has_begun_in_time_is_finished(store: Store) -> None:
    """Its claim asked again after a lost reply is still a claim, and its end is taken."""
    lease = store.lead()
    job_id = store.accept("a", deadline_s=60)
    claims = []
    for _ in range(2):
        answer = store.ledger.claim(job_id, "w1", lease, max_strikes=3, nonce="same")
        assert isinstance(answer, Claim)
        claims.append(answer)
        store.field(job_id, "deadline_ms", -1500)
    assert claims[0] == claims[1]
    assert store.ledger.finish(claims[0], "succeeded", {}, retention_s=60)


# -- the door of this process ----------------------------------------------------------------------


def test_a_client_is_refused_at_once_and_nothing_is_rung(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`TTS_MAX_ONLINE_JOBS` holds for `delay` and `submit_job`; a task id twice is one job."""
    tight = get_settings().model_copy(update={"max_online_jobs": 1})
    monkeypatch.setattr("tts_tasks.tasks.get_settings", lambda: tight)
    synthesize.apply_async(("你好",), task_id="one")
    for refused in (lambda: synthesize.delay("再见"), lambda: client.submit_job(two())):
        with pytest.raises(QueueFullError):
            refused()
    synthesize.apply_async(("你好",), task_id="one")
    assert redis_client.llen(QUEUE) == 2
    assert JobLedger(redis_url).load(LANE).waiting_jobs == 1


def two() -> SpeechRequest:
    return SpeechRequest(text="二", deadline_s=5)


def test_a_client_hands_the_deadline_on(redis_url: str, redis_client: redis.Redis) -> None:
    """It is kept with the job, by Redis's clock; a deadline beside a countdown makes no sense."""
    before_ms = JobLedger(redis_url).now_ms()
    job_id = client.submit_job(two())
    left_ms = int(redis_client.hget(keys.job(job_id), "deadline_ms") or 0) - before_ms
    assert 5000 <= left_ms < 10_000
    with pytest.raises(RequestError, match="countdown"):
        synthesize.apply_async(("二",), {"deadline_s": 5}, countdown=1)


# -- the load is the truth -------------------------------------------------------------------------

LANES = ("default.0", "default.1")
WORKERS = ("w1", "w2")


class Lanes(RuleBasedStateMachine):
    """Anything happens to jobs, in any order; the load is what the jobs themselves say."""

    make: Callable[[], Store]

    def __init__(self) -> None:
        super().__init__()
        self.store = type(self).make()
        self.leases = {lane: self.store.lead(lane) for lane in LANES}
        self.ids: dict[str, None] = {}
        self.delayed: set[str] = set()
        self.claims: list[Claim] = []

    @rule(
        lane=st.sampled_from(LANES),
        number=st.integers(0, 2),
        chars=st.integers(1, 50),
        deadline_s=st.sampled_from([None, 0.5, 1e6 / 3600]),
        delay_s=st.sampled_from([0.0, 0.0, 0.0, 60.0]),
        bound=st.sampled_from([0, 2]),
    )
    def accept(self, lane: str, number: int, **kwargs: Any) -> None:
        """Also again, with another text."""
        bound, name = kwargs.pop("bound"), str(number)
        known = self.store.ledger.get(f"{lane}:{name}") is not None
        waiting = self.store.ledger.load(lane).waiting_jobs
        terms = Terms(max_waiting=bound, takeover_s=1)
        try:
            job_id = self.store.accept(name, lane_key=lane, terms=terms, **kwargs)
        except QueueFullError:
            assert not known
            assert bound
            assert waiting >= bound
        except DeadlineError:
            assert not known
            assert kwargs["deadline_s"]
        else:
            later = bool(kwargs["delay_s"])
            assert known or later or not bound or waiting < bound
            self.ids[job_id] = None
            if not known and later:
                self.delayed.add(job_id)

    def job(self, which: int) -> list[str]:
        """Return one of the known jobs, if there is any."""
        known = list(self.ids)
        return [known[which % len(known)]] if known else []

    @rule(
        which=st.integers(0, 5), worker=st.sampled_from(WORKERS), again=st.sampled_from([0, 1, 2])
    )
    def claim(self, which: int, worker: str, again: int) -> None:
        """By either worker; once more after a lost reply, or anew after its child died."""
        for job_id in self.job(which):
            lease = self.leases[keys.split_job_id(job_id)[0]]
            nonce = secrets.token_hex(4)
            for _ in range(1 + bool(again)):
                answer = self.store.ledger.claim(job_id, worker, lease, max_strikes=3, nonce=nonce)
                nonce = nonce if again == 1 else secrets.token_hex(4)
            if isinstance(answer, Claim):
                self.claims.append(answer)
                self.delayed.discard(job_id)

    @rule(which=st.integers(0, 5), ago_ms=st.integers(1, 5000))
    def deadline_passes(self, which: int, ago_ms: int) -> None:
        """Of whatever job."""
        for job_id in self.job(which):
            if self.store.ledger.get(job_id) is not None:
                self.store.field(job_id, "deadline_ms", -ago_ms)

    @rule(which=st.integers(0, 5), ago_ms=st.integers(1, 5000))
    def runs_for_a_while(self, which: int, ago_ms: int) -> None:
        """Of whatever job that runs."""
        for job_id in self.job(which):
            record = self.store.ledger.get(job_id)
            if record is not None and record.state == "running":
                self.store.field(job_id, "claimed_ms", -ago_ms)

    @rule(which=st.integers(0, 20), state=st.sampled_from(["succeeded", "failed"]))
    def finish(self, which: int, state: str) -> None:
        """By any attempt there has been, the overtaken and the ended ones too."""
        for claim in self.claims[-(1 + which % 4) :][:1]:
            self.store.ledger.finish(claim, state, {"of": claim.attempt}, retention_s=60)

    @rule(which=st.integers(0, 20), worker=st.sampled_from(WORKERS), any_attempt=st.booleans())
    def release(self, which: int, worker: str, any_attempt: bool) -> None:
        """By whoever believes that the job is this worker's."""
        for claim in self.claims[-(1 + which % 4) :][:1]:
            attempt = None if any_attempt else claim.attempt
            self.store.ledger.release(claim.job_id, worker, attempt, strike=any_attempt)

    @rule(which=st.integers(0, 5), worker=st.sampled_from(WORKERS))
    def give_up(self, which: int, worker: str) -> None:
        """A job that nobody, or only this worker, has."""
        for job_id in self.job(which):
            record = self.store.ledger.get(job_id)
            if record is not None:
                self.store.ledger.give_up(record, worker, {"error": {}}, retention_s=60)

    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        """Whatever has become of it."""
        for job_id in self.job(which):
            record = self.store.ledger.get(job_id)
            if record is not None:
                ended = self.store.ledger.cancel(record, retention_s=60)
                assert ended == (record.state if record.ended else "cancelled")

    @rule()
    def retention_passes(self) -> None:
        """Ended jobs are forgotten, and their ids may come again."""
        for job_id in list(self.ids):
            record = self.store.ledger.get(job_id)
            if record is not None and record.ended:
                self.store.forget(job_id)
                del self.ids[job_id]
                self.delayed.discard(job_id)

    @rule(really=st.integers(0, 9))
    def the_store_is_emptied(self, really: int) -> None:
        """Not too often, or nothing else would be seen."""
        if really == 0:
            self.store.lose_data()
            self.leases = {lane: self.store.lead(lane) for lane in LANES}
            self.ids.clear()
            self.delayed.clear()

    @invariant()
    def the_load_is_the_truth(self) -> None:
        """Counted anew from the jobs."""
        for lane in LANES:
            truth = LaneLoad()
            for job_id in self.ids:
                record = self.store.ledger.get(job_id)
                if record is None or record.meta.lane_key != lane or job_id in self.delayed:
                    continue
                chars = len(record.request["text"])
                if record.state == "accepted":
                    truth = replace(
                        truth,
                        waiting_jobs=truth.waiting_jobs + 1,
                        waiting_chars=truth.waiting_chars + chars,
                    )
                elif record.state == "running":
                    truth = replace(
                        truth,
                        running_jobs=truth.running_jobs + 1,
                        running_chars=truth.running_chars + chars,
                        running_since_ms=truth.running_since_ms + record.claimed_ms,
                    )
            assert replace(self.store.ledger.load(lane), char_s=None) == truth


def run_lanes(make: Callable[[], Store], *, max_examples: int) -> None:
    machine = type("MadeLanes", (Lanes,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_the_load_in_memory_is_the_truth_whatever_happens() -> None:
    """Accepting, claiming, releasing, ending, expiring, forgetting, in any order."""
    run_lanes(in_memory, max_examples=100)


def test_the_load_in_redis_is_the_truth_whatever_happens(redis_url: str) -> None:
    """The same of the scripts."""

    def emptied() -> Store:
        store = in_redis(redis_url)
        store.lose_data()
        return store

    run_lanes(emptied, max_examples=25)
