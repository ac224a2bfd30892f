"""``ttsctl cancel``, and what a cancelled job is to those who wait for it."""

from __future__ import annotations

import pytest

from tts_tasks.errors import ConflictError, JobCancelledError, NotFoundError, WaitTimeoutError


def test_cancel_cancels_the_job_and_says_so(ttsctl, cluster, told):
    """As talk: there is no answer."""
    result = ttsctl("cancel", "default.0:job1")
    assert (result.exit_code, result.stdout) == (0, "")
    assert ("job_cancel", "default.0:job1") in cluster.calls
    assert [(event["event"], event["id"]) for event in told(result)] == [
        ("job.cancelled", "default.0:job1")
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConflictError("job default.0:job1 has succeeded already"), 5),
        (NotFoundError("there is no job default.0:job1"), 6),
    ],
)
def test_what_cannot_be_cancelled_ends_with_its_code(ttsctl, cluster, error, code):
    """And the reason on stderr."""
    cluster.trouble["job_cancel"] = error
    result = ttsctl("cancel", "default.0:job1")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (code, f"Error: {error}")


def test_a_job_that_is_cancelled_meanwhile_is_9(ttsctl, cluster, tmp_path):
    """For who waits for its sound, and for who listens to it; no file is made."""
    cluster.outcomes = "c"
    result = ttsctl("say", "hello", "--file", str(tmp_path / "a.wav"))
    assert (result.exit_code, result.stdout) == (9, "")
    assert "job default.0:job1 was cancelled" in result.stderr
    cluster.trouble["follow_audio"] = JobCancelledError("job default.0:job1 was cancelled")
    result = ttsctl("listen", "default.0:job1", "--file", str(tmp_path / "b.wav"))
    assert result.exit_code == 9
    assert list(tmp_path.iterdir()) == []


def test_who_stops_listening_is_told_how_to_hear_the_rest(ttsctl, cluster, tmp_path):
    """Into a file of its own: the one that was named holds what was heard."""
    cluster.trouble["follow_audio"] = WaitTimeoutError("not yet")
    result = ttsctl("listen", "default.0:job1", "--after", "3", "-f", str(tmp_path / "a b.wav"))
    assert result.exit_code == 7
    assert f"--after 3 -f '{tmp_path / 'a b-rest.wav'}'" in result.stderr
