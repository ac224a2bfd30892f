"""A batch from its file to its report, with everything but a worker that speaks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Task, signals
from kombu.exceptions import OperationalError

from tts_tasks import client, keys, synthesize
from tts_tasks.batches import submission
from tts_tasks.batches.changes import BatchChanges
from tts_tasks.batches.expiry import remove_expired
from tts_tasks.batches.manifest import CHUNK_LINES, Manifest
from tts_tasks.batches.report import ReportParts
from tts_tasks.batches.window import Window
from tts_tasks.doorbell import WORK_TASK_NAME
from tts_tasks.errors import (
    ConflictError,
    NotFoundError,
    RequestError,
    UnavailableError,
    WaitTimeoutError,
)
from tts_tasks.events import EventLog
from tts_tasks.ledger import BatchBook, JobLedger
from tts_tasks.ledger.batch_records import LineEnding
from tts_tasks.requests import SpeechRequest
from tts_tasks.routing import route_of
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

QUEUE = "tts.batch.default"


@pytest.fixture(autouse=True)
def _nothing_in_storage(redis_url: str) -> None:
    root = Path(get_settings().storage_url.removeprefix("file://"))
    shutil.rmtree(root, ignore_errors=True)


def lines(count: int) -> list[dict[str, Any]]:
    return [{"id": f"n{n}", "text": f"{n}号"} for n in range(1, count + 1)]


class Worker:
    """Ends lines as a worker does, without a sound."""

    def __init__(self, redis_url: str, redis_client: redis.Redis) -> None:
        self.book = BatchBook(redis_url)
        self.storage = open_storage(get_settings().storage_url)
        self._window = Window(self.book, self.storage, EventLog(redis_client), retention_s=60)
        self._runs = 0

    def work(self, jobs: int = 10_000, *, bad: tuple[int, ...] = ()) -> list[int]:
        """End at most so many lines, and settle; returns them."""
        done: list[int] = []
        while len(done) < jobs:
            self._runs += 1
            run = self.book.take(
                QUEUE,
                "w1",
                nonce=f"n{self._runs}",
                max_jobs=min(100, jobs - len(done)),
                max_chars=10_000,
                max_strikes=3,
            )
            if run is None:
                break
            self.book.finish(
                run.batch,
                "w1",
                [
                    LineEnding(
                        job.line,
                        job.chunk,
                        job.attempt,
                        "failed" if job.line in bad else "succeeded",
                        {"error": {"code": "engine", "reason": "no"}}
                        if job.line in bad
                        else {"uri": f"u{job.line}"},
                    )
                    for job in run.jobs
                ],
            )
            done += [job.line for job in run.jobs]
            self._window.settle(run.batch)
        return done

    def settle(self, batch: str) -> None:
        self._window.settle(batch)


@pytest.fixture
def worker(redis_url: str, redis_client: redis.Redis) -> Worker:
    return Worker(redis_url, redis_client)


def states(batch: str) -> list[str]:
    return [line["state"] for line in client.report(batch)]


# -- the ring --------------------------------------------------------------------------------------


@pytest.fixture
def rung(redis_url: str) -> Iterator[list[tuple[str, object]]]:
    """For each message that is about to be sent: its task, and what a worker would find now."""
    book, ledger = BatchBook(redis_url), JobLedger(redis_url)
    seen: list[tuple[str, object]] = []

    def look(sender: str, headers: dict[str, Any], **_: Any) -> None:
        if sender == WORK_TASK_NAME:
            seen.append((sender, book.has_work(QUEUE)))
            return
        record = ledger.get(keys.job_id_of_task(headers["id"], "default.0"))
        seen.append((sender, record.state if record else "unknown"))

    signals.before_task_publish.connect(look)
    yield seen
    signals.before_task_publish.disconnect(look)


@pytest.mark.parametrize("count", [1, CHUNK_LINES + 1])
def test_a_batch_rings_once_when_there_is_work(
    rung: list[tuple[str, object]], redis_client: redis.Redis, count: int
) -> None:
    """Not before its lines can be taken, and not once more while the ring waits."""
    client.submit_batch(lines(count), id="b1")
    assert rung == [(WORK_TASK_NAME, True)]
    assert redis_client.llen(QUEUE) == 1


def test_no_online_job_is_rung_before_it_is_in_the_ledger(rung: list[tuple[str, object]]) -> None:
    """A worker that hears the ring must find the job."""
    synthesize.delay("你好")
    assert rung == [("tts_tasks.synthesize", "accepted")]


def test_no_waiting_job_looks_lost(redis_url: str) -> None:
    """Each message carries the time of its job's entry in the index of open ones."""
    synthesize.delay("你好")
    queue = route_of(get_settings()).online_queue
    assert JobLedger(redis_url).unheard(queue, grace_s=0, limit=10) == []


def test_work_is_accepted_though_the_broker_is_away(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the ledger, where a worker finds it and rings."""

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(Task, "apply_async", away)
    job_id = client.submit_job(SpeechRequest(text="你好"))
    record = JobLedger(redis_url).get(job_id)
    assert record is not None
    assert record.state == "accepted"

    def not_there(*_: Any) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr(submission, "ring_for_work", not_there)
    assert client.submit_batch(lines(2), id="b1").state == "running"
    assert BatchBook(redis_url).has_work(QUEUE)


# -- submitting ------------------------------------------------------------------------------------


def test_a_batch_runs_to_its_report(worker: Worker) -> None:
    """Counts, report in the order of the file, each outcome once to who follows."""
    bad = {"id": "x", "text": ""}
    status = client.submit_batch([*lines(3), bad, *lines(6)[3:]], id="b1")
    assert (status.state, status.total, status.rejected) == ("running", 7, 1)
    worker.work(bad=(2,))
    status = client.batch_status("b1")
    assert (status.state, status.succeeded, status.failed, status.ended) == ("done", 5, 1, 7)
    assert states("b1") == [
        "succeeded",
        "failed",
        *["succeeded"] * 1,
        "rejected",
        *["succeeded"] * 3,
    ]
    assert [line["id"] for line in client.report("b1")] == ["n1", "n2", "n3", "x", "n4", "n5", "n6"]
    followed = list(client.follow("b1", timeout_s=5))
    assert sorted(result.line or 0 for result in followed) == [1, 2, 3, 5, 6, 7]
    assert [result.line for result in client.follow("b1", after=4)] == [
        result.line for result in followed[4:]
    ]
    assert [line["line"] for line in client.batch_errors("b1")] == [2, 4]
    assert [line["line"] for line in client.batch_rejected("b1")] == [4]


def test_a_client_that_died_is_completed_by_the_same_submit(worker: Worker) -> None:
    """What was in its manifest is worked on meanwhile, and not again afterwards."""
    batch = lines(3 * CHUNK_LINES)

    def dies(taken_in: int) -> None:
        if taken_in >= 2 * CHUNK_LINES:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.submit_batch(batch, id="b1", on_progress=dies)
    assert client.batch_status("b1").state == "accepting"
    assert len(worker.work()) == 2 * CHUNK_LINES
    assert client.batch_status("b1").state == "accepting"
    client.submit_batch(batch, id="b1")
    assert len(worker.work()) == CHUNK_LINES
    assert client.batch_status("b1").succeeded == len(batch)
    assert len(states("b1")) == len(batch)


def test_after_redis_was_emptied_what_is_reported_is_not_even_looked_at(
    worker: Worker, redis_client: redis.Redis
) -> None:
    """Chunks with a report part count as they did; the others are taken again."""
    batch = lines(2 * CHUNK_LINES)
    client.submit_batch(batch, id="b1")
    worker.work(CHUNK_LINES, bad=(3,))
    redis_client.flushall()
    with pytest.raises(NotFoundError):
        client.batch_status("b1")
    client.submit_batch(batch, id="b1")
    status = client.batch_status("b1")
    assert (status.succeeded, status.failed) == (CHUNK_LINES - 1, 1)
    assert sorted(worker.work()) == list(range(CHUNK_LINES + 1, 2 * CHUNK_LINES + 1))
    assert len(list(client.follow("b1", timeout_s=5))) == 2 * CHUNK_LINES
    assert client.batch_status("b1").report


def test_one_id_is_one_content_and_one_output(redis_client: redis.Redis) -> None:
    """Also when only the storage remembers it; forgotten, it is free again."""
    client.submit_batch(lines(2), id="b1")
    for emptied in (False, True):
        if emptied:
            redis_client.flushall()
        with pytest.raises(ConflictError, match="another --id"):
            client.submit_batch(lines(3), id="b1")
        with pytest.raises(ConflictError, match="another --id"):
            client.submit_batch(lines(2), id="b1", output="elsewhere")
    client.batch_remove("b1")
    assert client.submit_batch(lines(3), id="b1").total == 3


def test_a_file_of_bad_lines_is_reported_at_once() -> None:
    """There is nothing that a worker could do."""
    status = client.submit_batch([{"text": ""}, {"txt": "x"}], id="b1")
    assert (status.state, status.rejected) == ("done", 2)
    assert status.report
    assert states("b1") == ["rejected", "rejected"]


def test_a_file_that_cannot_be_read_opens_no_batch(tmp_path: Path) -> None:
    """Nothing is left of it, under no id."""
    path = tmp_path / "empty.jsonl"
    path.write_text("\n\n")
    with pytest.raises(RequestError, match="holds no line"):
        client.submit_batch(path, id="b1")
    assert client.batch_list() == []
    assert Manifest(open_storage(get_settings().storage_url), "b1").head() is None


@pytest.mark.parametrize("priority", [0, -1.0, float("nan"), float("inf")])
def test_a_priority_that_is_none_is_refused_before_anything(priority: float) -> None:
    """The field is named."""
    with pytest.raises(RequestError, match="priority"):
        client.submit_batch(lines(1), id="b1", priority=priority)
    assert client.batch_list() == []


def test_a_batch_waits_for_its_turn_or_fails_at_once(worker: Worker) -> None:
    """Two batches of one output: the second is worked on when the first has ended."""
    client.submit_batch(lines(2), id="b1", output="news")
    with pytest.raises(ConflictError, match="b1 writes to news/today"):
        client.submit_batch(lines(2), id="b3", output="news/today", wait_for_output=False)
    assert [status.batch for status in client.batch_list()] == ["b1"]
    status = client.submit_batch(lines(3), id="b2", output="news/today")
    assert (status.state, status.waits_for) == ("waiting", ("b1",))
    found = {batch["batch"]: batch for batch in client.cluster_status()["batches"]}
    assert (found["b2"]["waits_for"], found["b2"]["left"]) == (["b1"], 3)
    assert client.cluster_status()["queues"][QUEUE] == 5
    assert worker.work() == [1, 2, 1, 2, 3]
    assert client.batch_status("b2").state == "done"


# -- looking ---------------------------------------------------------------------------------------


def test_a_report_can_be_read_while_the_batch_runs(worker: Worker) -> None:
    """Flushed, ended, running, fed and unfed lines, each as it stands."""
    client.submit_batch(lines(3 * CHUNK_LINES), id="b1")
    worker.work(CHUNK_LINES + 10)
    worker.book.take(QUEUE, "w2", nonce="x", max_jobs=5, max_chars=1000, max_strikes=3)
    found = states("b1")
    assert found[: CHUNK_LINES + 10] == ["succeeded"] * (CHUNK_LINES + 10)
    assert found[CHUNK_LINES + 10 : CHUNK_LINES + 15] == ["running"] * 5
    assert set(found[CHUNK_LINES + 15 :]) == {"accepted"}
    flushed, ended, ready = (client.job_result(f"b1:{n}") for n in (7, CHUNK_LINES + 2, 1200))
    assert (flushed and flushed.id, ended and ended.id, ready) == (
        "n7",
        f"n{CHUNK_LINES + 2}",
        None,
    )
    for nothing in ("b1:99999", "b1:0", "b9:1"):
        with pytest.raises(NotFoundError):
            client.job_result(nothing)


def test_who_follows_late_gets_what_redis_does_not_remember(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of the report, and then what ends afterwards; each line once."""
    for module in ("tts_tasks.ledger.batch_lines", "tts_tasks.ledger.batch_book"):
        monkeypatch.setattr(f"{module}.DONE_KEPT", 20)
    client.submit_batch(lines(CHUNK_LINES + 100), id="b1")
    worker.work(CHUNK_LINES + 50)
    following = client.follow("b1", timeout_s=5)
    seen = [next(following) for _ in range(CHUNK_LINES)]
    worker.work(10)
    with pytest.raises(WaitTimeoutError):
        seen += iter(lambda: next(following), None)
    assert sorted(result.line or 0 for result in seen) == list(range(1, CHUNK_LINES + 61))
    worker.work()
    rest = list(client.follow("b1", after=seen[-1].cursor, timeout_s=5))
    assert {result.line for result in rest} >= set(range(CHUNK_LINES + 61, CHUNK_LINES + 101))


# -- changing --------------------------------------------------------------------------------------


def test_a_cancelled_batch_ends_and_is_resumed(worker: Worker) -> None:
    """What has ended stays; resumed, only the others are taken."""
    client.submit_batch(lines(2 * CHUNK_LINES), id="b1")
    worker.work(10)
    status = client.batch_cancel("b1")
    assert status.state == "cancelled"
    assert worker.work() == []
    assert states("b1")[:12] == ["succeeded"] * 10 + ["cancelled"] * 2
    worker.settle("b1")
    status = client.batch_status("b1")
    assert (status.succeeded, status.cancelled) == (10, 2 * CHUNK_LINES - 10)
    assert status.report
    assert len(list(client.follow("b1", timeout_s=5))) == 2 * CHUNK_LINES
    assert client.batch_cancel("b1").state == "cancelled"
    assert client.batch_resume("b1") == 2 * CHUNK_LINES - 10
    assert client.batch_status("b1").state == "running"
    assert states("b1")[:12] == ["succeeded"] * 10 + ["accepted"] * 2
    assert sorted(worker.work()) == list(range(11, 2 * CHUNK_LINES + 1))
    assert states("b1") == ["succeeded"] * 2 * CHUNK_LINES
    followed = [result.line for result in client.follow("b1", timeout_s=5)]
    assert sorted(followed) == list(range(1, 2 * CHUNK_LINES + 1))  # each once
    assert client.batch_resume("b1") == 0


def test_only_failed_lines_are_retried(worker: Worker) -> None:
    """The report is composed anew, with what had succeeded before."""
    client.submit_batch(lines(5), id="b1")
    worker.work(bad=(2, 4))
    before = list(client.report("b1"))
    assert client.batch_retry("b1") == 2
    assert client.batch_status("b1").state == "running"
    assert worker.work(bad=(4,)) == [2, 4]
    after = list(client.report("b1"))
    assert [line["state"] for line in after] == [*["succeeded"] * 3, "failed", "succeeded"]
    assert [after[n] for n in (0, 2, 4)] == [before[n] for n in (0, 2, 4)]
    report = client.batch_status("b1").report
    assert report
    written = [json.loads(line) for line in client.read_artifact(report).splitlines()]
    assert written == after
    status = client.batch_status("b1")
    assert (status.state, status.succeeded, status.failed) == ("done", 4, 1)


def test_a_retry_that_died_halfway_is_done_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had marked the lines in the report's part, and not yet brought them back."""
    client.submit_batch(lines(3), id="b1")
    worker.work(bad=(2,))

    def dies(*_: Any, **__: Any) -> bool:
        raise UnavailableError("away")

    changes = BatchChanges("b1", get_settings())
    monkeypatch.setattr(changes._book, "reopen", dies)
    with pytest.raises(UnavailableError):
        changes.retry("failed")
    assert client.batch_retry("b1") == 1
    assert worker.work() == [2]
    assert states("b1") == ["succeeded"] * 3


def test_lines_of_a_retry_that_redis_lost_are_not_forgotten(
    worker: Worker, redis_client: redis.Redis
) -> None:
    """The same submit feeds a chunk again that was to be tried again."""
    client.submit_batch(lines(3), id="b1")
    worker.work(bad=(2,))
    client.batch_retry("b1")
    redis_client.flushall()
    client.submit_batch(lines(3), id="b1")
    assert 2 in worker.work()
    assert states("b1") == ["succeeded"] * 3


def test_a_retried_line_that_is_cancelled_is_reported_as_cancelled(worker: Worker) -> None:
    """Not as what it was before it was retried."""
    client.submit_batch(lines(3), id="b1")
    worker.work(bad=(2,))
    client.batch_retry("b1")
    client.batch_cancel("b1")
    worker.settle("b1")
    assert states("b1") == ["succeeded", "cancelled", "succeeded"]
    status = client.batch_status("b1")
    assert (status.succeeded, status.failed, status.cancelled) == (2, 0, 1)


@pytest.mark.parametrize("change", [client.batch_retry, client.batch_resume])
def test_what_cannot_be_tried_again_yet_is_refused(
    change: Callable[[str], int], worker: Worker
) -> None:
    """A batch that is not in, and one that is still being cancelled."""

    def dies(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.submit_batch(lines(2), id="b1", on_progress=dies)
    with pytest.raises(ConflictError, match="submit its file again"):
        change("b1")
    client.submit_batch(lines(2), id="b2")
    client.batch_cancel("b2")
    with pytest.raises(ConflictError, match="in a moment"):
        change("b2")
    with pytest.raises(NotFoundError):
        change("b9")


def test_a_batch_is_forgotten_only_when_it_has_ended(worker: Worker) -> None:
    """Its report stays where it is, and so does what it made."""
    client.submit_batch(lines(2), id="b1")
    with pytest.raises(ConflictError, match="cancel it first"):
        client.batch_remove("b1")
    worker.work()
    report = client.batch_status("b1").report
    assert report
    client.batch_remove("b1")
    assert client.batch_list() == []
    assert client.read_artifact(report)
    assert list(worker.storage.list_hidden(".tts/batches/b1")) == []
    with pytest.raises(NotFoundError):
        client.batch_remove("b1")


def test_only_what_was_reported_long_ago_expires(worker: Worker, redis_client: redis.Redis) -> None:
    """A batch that Redis has lost keeps its manifest."""
    client.submit_batch(lines(2), id="b1")
    redis_client.delete(keys.batch("b1"))
    redis_client.zadd(keys.BATCHES, {"b1": 1})
    assert worker.book.expired() == ["b1"]
    assert not remove_expired(worker.storage, "b1", 0)
    client.submit_batch(lines(2), id="b1")
    worker.work()
    redis_client.delete(keys.batch("b1"))
    assert not remove_expired(worker.storage, "b1", 3600)
    assert remove_expired(worker.storage, "b1", 0)
    assert ReportParts(worker.storage, "b1").read(1) is None
    worker.book.forget("b1")
    assert worker.book.expired() == []
