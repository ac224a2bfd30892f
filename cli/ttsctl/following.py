"""Following a batch to its end, for `submit`, `batch watch` and `batch wait`.

The work is the cluster's: whatever ends the following (Ctrl-C, a timeout, a broken connection),
the batch goes on, and what is said names the command that looks at it again.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from tts_tasks.errors import UnavailableError, WaitTimeoutError
from ttsctl.exit_codes import ExitCode, exit_code_of_batch
from ttsctl.output import error_text, without_secrets
from ttsctl.progress import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ttsctl.api import BatchStatus, Client, JobResult
    from ttsctl.progress import Reporter

#: So many bad lines, and failed jobs, are told one by one; the others are counted.
TOLD_ONE_BY_ONE = 20
#: How long a store that cannot be reached is asked again before following gives up.
PATIENCE_S = 60.0
#: How long the report may take to be written after the last job has ended.
REPORT_GRACE_S, _REPORT_POLL_S = 5.0, 0.05
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.25, 5.0
#: A connection that has held this long was one: the next outage gets the whole patience.
_CONNECTED_S = 10.0


def follow_batch(
    client: Client,
    status: BatchStatus,
    reporter: Reporter,
    *,
    timeout_s: float | None = None,
    on_result: Callable[[JobResult], None] = lambda _result: None,
) -> tuple[BatchStatus, ExitCode]:
    """Follow a batch until every job has ended; return how it stands then, and the exit code.

    Raises `UnavailableError` when the cluster stays out of reach.
    """
    tally = Tally(status)
    again = f"ttsctl batch watch {status.batch}"
    try:
        with reporter.following(tally):
            for result in results(client, status.batch, reporter, timeout_s=timeout_s):
                tally.add(result.state, result.duration_s)
                if result.state == "failed":
                    _tell_failure(reporter, result, tally.failed)
                on_result(result)
    except KeyboardInterrupt:
        reporter.say(
            "batch.detached",
            f"Detached: batch {status.batch} goes on. Look again with: {again}",
            batch=status.batch,
            reattach=again,
        )
        return status, ExitCode.INTERRUPTED
    except WaitTimeoutError:
        reporter.say(
            "batch.wait_timed_out",
            f"Stopped waiting: batch {status.batch} goes on. Look again with: {again}",
            batch=status.batch,
            reattach=again,
        )
        return client.batch_status(status.batch), ExitCode.WAIT_TIMED_OUT
    except UnavailableError:
        reporter.say(
            "batch.unreachable",
            f"Lost sight of batch {status.batch}; what was accepted is kept. "
            f"Look again with: {again}",
            batch=status.batch,
            reattach=again,
        )
        raise
    ended = _with_its_report(client, status.batch)
    if ended.succeeded:
        fetch = f"ttsctl batch fetch {ended.batch}"
        reporter.say(
            "batch.ended",
            f"{ended.succeeded:,} artifacts are in storage; copy them here with: {fetch}",
            batch=ended.batch,
            succeeded=ended.succeeded,
            fetch=fetch,
        )
    return ended, exit_code_of_batch(ended)


def _with_its_report(client: Client, batch: str) -> BatchStatus:
    """Return the status of a batch whose jobs have ended; the last worker is still writing."""
    deadline = time.monotonic() + REPORT_GRACE_S
    while True:
        status = client.batch_status(batch)
        ended = status.state in ("done", "cancelled")
        if status.report is not None or not ended or time.monotonic() >= deadline:
            return status
        time.sleep(_REPORT_POLL_S)


def results(
    client: Client,
    batch_or_job: str,
    reporter: Reporter,
    *,
    timeout_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[JobResult]:
    """Yield every job's result once, through outages of the store of up to `PATIENCE_S`.

    Raises `WaitTimeoutError` after ``timeout_s``, `UnavailableError` when patience ends.
    """
    deadline = None if timeout_s is None else clock() + timeout_s
    cursor = 0
    outage_since: float | None = None
    retry_s = _FIRST_RETRY_S
    while True:
        asked_at = clock()
        left_s = None if deadline is None else max(0.0, deadline - asked_at)
        try:
            for result in client.follow(batch_or_job, after=cursor, timeout_s=left_s):
                cursor = result.cursor
                outage_since, retry_s = None, _FIRST_RETRY_S
                yield result
        except UnavailableError as error:
            now = clock()
            if outage_since is None or now - asked_at >= _CONNECTED_S:
                outage_since, retry_s = now, _FIRST_RETRY_S
                reason = without_secrets(str(error))
                reporter.say("store.unreachable", f"{reason}; trying again", error=reason)
            if now - outage_since >= PATIENCE_S:
                raise
            if deadline is not None and now >= deadline:
                raise WaitTimeoutError(
                    "the wait ended while the cluster was unreachable"
                ) from error
            sleep(retry_s if deadline is None else min(retry_s, deadline - now))
            retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
        else:
            return


def tell_bad_lines(client: Client, status: BatchStatus, reporter: Reporter) -> None:
    """Tell the lines that were refused: the first ones, then how many there are."""
    if not status.rejected:
        return
    tell_rejected(reporter, islice(client.batch_rejected(status.batch), TOLD_ONE_BY_ONE))
    if status.rejected > TOLD_ONE_BY_ONE:
        command = f"ttsctl batch errors {status.batch}"
        tell_more(reporter, status.rejected - TOLD_ONE_BY_ONE, f"all of them: {command}")


def tell_rejected(reporter: Reporter, lines: Iterable[dict[str, Any]]) -> None:
    """Tell each of these refused lines."""
    for line in lines:
        reason = error_text(line.get("error"))
        reporter.say(
            "line.rejected",
            f"line {line.get('line')} rejected: {reason}",
            line=line.get("line"),
            id=line.get("id"),
            error=line.get("error"),
        )


def tell_more(reporter: Reporter, count: int, where: str) -> None:
    """Tell how many refused lines were not told one by one."""
    reporter.say("lines.rejected", f"and {count:,} more rejected lines; {where}", count=count)


def tell_if_nobody_works(client: Client, reporter: Reporter) -> None:
    """Tell people who are about to wait that no worker is there to serve them."""
    try:
        workers = client.cluster_status().get("workers", [])
    except UnavailableError:
        # following has the patience for this, and the words
        return
    if not any(worker.get("ready") for worker in workers):
        starting = f"{len(workers)} starting" if workers else "none is running"
        reporter.say(
            "workers.none_ready",
            f"No worker is ready ({starting}): jobs wait until one is. Start some with: ttsctl up",
            workers=len(workers),
        )


def _tell_failure(reporter: Reporter, result: JobResult, nth: int) -> None:
    where = result.id if result.line is None else f"line {result.line}"
    if nth <= TOLD_ONE_BY_ONE:
        reporter.say(
            "job.failed",
            f"{where} failed: {error_text(result.error)}",
            line=result.line,
            id=result.id,
            error=result.error,
        )
    elif nth == TOLD_ONE_BY_ONE + 1:
        reporter.say("jobs.failed", "further failed jobs are only counted")
