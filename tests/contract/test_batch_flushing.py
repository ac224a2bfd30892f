"""The end of a batch: chunks are flushed once, its report is noted, and Redis lets go of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.batch_books import BATCH, Books, books_in_redis, chunk_of, done_with_failures, open_again
from tts_tasks import keys
from tts_tasks.ledger.batch_lines import DONE_KEPT

if TYPE_CHECKING:
    import redis


# -- flushing -------------------------------------------------------------------------------------


def test_a_chunk_is_flushed_once_by_racing_flushers(books: Books) -> None:
    """Its jobs go, and the others stay."""
    books.open()
    books.book.seal(BATCH, chunks=2, accepted=5, rejected=0)
    books.book.feed(BATCH, 1, chunk_of(1, 3))
    books.book.feed(BATCH, 2, chunk_of(4, 5))
    jobs = books.taken()
    books.end(jobs[:2])
    assert not books.book.flushed(BATCH, 1, [1, 2, 3])
    books.end(jobs[2:4])
    with ThreadPoolExecutor(4) as pool:
        flushed = list(pool.map(lambda _: books.book.flushed(BATCH, 1, [1, 2, 3]), range(8)))
    assert sum(flushed) == 1
    assert books.book.to_flush(BATCH) == []
    assert list(books.book.results(BATCH, [1, 2, 3, 4, 5])) == [4, 5]
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.flushed, batch.flushed_wholly, batch.complete) == (1, False, False)
    assert books.end(jobs[4:]) == [True]
    assert books.book.flushed(BATCH, 2, [4, 5])
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.flushed_wholly, batch.complete) == (True, True)


def test_a_report_is_noted_when_all_is_flushed(books: Books) -> None:
    """Until then the batch is on the list of those that need one."""
    books.open(lines=1)
    books.end(books.taken())
    assert not books.book.reported(BATCH, "uri", retention_s=60)
    assert [batch.id for batch in books.book.unreported()] == [BATCH]
    books.book.flushed(BATCH, 1, [1])
    assert books.book.may_report(BATCH)
    assert not books.book.may_report(BATCH)
    assert books.book.reported(BATCH, "uri", retention_s=60)
    assert books.book.unreported() == []
    assert not open_again(books)
    assert books.book.unreported() == []
    assert [batch.report for batch in books.book.all()] == ["uri"]


# -- what stays in Redis --------------------------------------------------------------------------


def keys_left(client: redis.Redis) -> set[str]:
    return set(client.scan_iter(f"tts:{{{BATCH}}}:*"))


def test_redis_holds_no_more_of_a_longer_batch(redis_url: str, redis_client: redis.Redis) -> None:
    """20,000 lines go through a window of two chunks: what is in Redis is the window."""
    books = books_in_redis(redis_url)
    books.open()
    chunks, size = 40, 500
    most = 0

    def in_memory_bytes() -> int:
        return sum(redis_client.memory_usage(key) or 0 for key in keys_left(redis_client))

    at_first_bytes = 0
    for chunk in range(1, chunks + 1):
        first = (chunk - 1) * size + 1
        books.book.grow(BATCH, chunk)
        assert books.book.feed(BATCH, chunk, chunk_of(first, first + size - 1))
        while run := books.take(jobs=64, chars=64 * 10):
            assert all(books.end(run.jobs))
        if chunk in (2, 20, chunks):
            most = max(most, len(keys_left(redis_client)))
            at_first_bytes = at_first_bytes or in_memory_bytes()
        for ended in books.book.to_flush(BATCH):
            if ended < chunk:
                start = (ended - 1) * size + 1
                assert books.book.flushed(BATCH, ended, range(start, start + size))
    assert most <= 2 * size + 6
    assert in_memory_bytes() < at_first_bytes + 200_000  # the list of ended lines
    assert books.book.flushed(BATCH, chunks, range((chunks - 1) * size + 1, chunks * size + 1))
    books.book.seal(BATCH, chunks=chunks, accepted=chunks * size, rejected=0)
    batch = books.book.get(BATCH)
    assert batch is not None
    assert (batch.succeeded, batch.flushed_wholly) == (chunks * size, True)
    assert keys_left(redis_client) == {
        keys.batch(BATCH),
        keys.batch_done(BATCH),
        keys.batch_runs(BATCH),
    }
    assert in_memory_bytes() < 200_000
    assert redis_client.llen(keys.batch_done(BATCH)) == DONE_KEPT


def test_a_reported_batch_expires_and_a_reopened_one_does_not(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Nothing of it is left after its retention; while it is tried again nothing goes."""
    books = books_in_redis(redis_url)
    done_with_failures(books)
    left = keys_left(redis_client)
    assert left == {keys.batch(BATCH), keys.batch_done(BATCH)}
    assert all(0 < redis_client.ttl(key) <= 60 for key in left)
    books.book.reopen(BATCH, 1, chunk_of(2, 2))
    assert all(redis_client.ttl(key) == -1 for key in keys_left(redis_client))


def test_nothing_of_a_removed_batch_stays_in_redis(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Also of lines that run, were given back, or have ended."""
    books = books_in_redis(redis_url)
    books.open(lines=4)
    books.end(books.taken(jobs=2)[:1])
    books.taken("w2", jobs=1)
    books.book.release(BATCH, "w2", [(3, None, True)])
    assert len(keys_left(redis_client)) > 5
    books.book.remove(BATCH)
    assert keys_left(redis_client) == set()
