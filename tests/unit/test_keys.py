"""Job ids lead to keys whose hash tag puts what one script touches into one slot."""

from __future__ import annotations

import pytest

from tts_tasks import keys
from tts_tasks.errors import RequestError


def tag(key: str) -> str:
    return key[key.index("{") + 1 : key.index("}")]


def test_a_line_and_its_batch_share_a_slot() -> None:
    """A finish counts in the batch in the same script."""
    job = keys.job(keys.batch_job_id("b1", 17))
    assert tag(job) == tag(keys.batch("b1")) == tag(keys.batch_done("b1"))


def test_an_online_job_and_its_lanes_lease_share_a_slot() -> None:
    """A claim checks the lease in the same script."""
    job = keys.job(keys.new_job_id("default.0"))
    assert tag(job) == tag(keys.lease("default.0")) == tag(keys.epoch("default.0"))


def test_ids_of_one_lane_are_different_and_sort_by_time() -> None:
    """Two jobs in one millisecond do not collide."""
    ids = [keys.new_job_id("default.0") for _ in range(1000)]
    assert len(set(ids)) == 1000
    stamps = [id_.split(":")[1][:12] for id_ in ids]
    assert stamps == sorted(stamps)


def test_a_foreign_task_id_is_put_on_the_lane() -> None:
    """A uuid that a plain Celery client chose becomes a job of the lane; ours stays what it is."""
    assert keys.job_id_of_task("c0ffee-1", "default.0") == "default.0:c0ffee-1"
    assert keys.job_id_of_task("default.0:abc", "other.1") == "default.0:abc"


@pytest.mark.parametrize("bad", ["order:17", "a b", "x" * 90, "other.1:abc"])
def test_a_task_id_that_would_lead_to_another_tag_is_refused(bad: str) -> None:
    """A job under a tag without a lane could never be claimed."""
    with pytest.raises(RequestError, match="task_id"):
        keys.check_task_id(bad, "default.0")
    own = keys.new_job_id("default.0")
    assert keys.check_task_id(own, "default.0") == own


@pytest.mark.parametrize("bad", ["", "a", "a:", ":b", "a:b:c", "a{b}:c", "a:b c", "x" * 90 + ":1"])
def test_what_is_not_a_job_id_is_refused(bad: str) -> None:
    """Ids come from outside and become keys."""
    with pytest.raises(RequestError, match="job id"):
        keys.split_job_id(bad)


@pytest.mark.parametrize("bad", ["", "-a", "a/b", "a b", "a:b", "ä", "x" * 81])
def test_what_cannot_be_a_batch_id_is_refused(bad: str) -> None:
    """A batch id becomes part of keys and of file names."""
    with pytest.raises(RequestError, match="id"):
        keys.check_batch_id(bad)
