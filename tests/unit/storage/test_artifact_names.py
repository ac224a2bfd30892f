"""Names of artifacts: what a job's is called, and that no two ids and no two times meet."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_tasks.errors import StorageError
from tts_tasks.storage import artifact_name, artifacts, base, check_name

_ACCEPTED = datetime(2026, 11, 20, 12, 53, 1, 999_999, tzinfo=UTC)
_NEVER = re.compile("(?!)")
_SOME_TEXT = st.text("aB9-_/. \\\n中e\u0301", max_size=12) | st.sampled_from(
    ["x" * 120, "x" * 121, "x" * 250, "x" * 251, "x/" * 125 + "x", "x/" * 255 + "x"]
)


def _name(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "prefix": "batch",
        "output_name": None,
        "audio_format": "wav",
        "accepted_at": _ACCEPTED,
        "job_id": "7",
        **changes,
    }
    return artifact_name(**fields)


def test_artifact_names() -> None:
    """Named jobs keep their name; unnamed ones are called by the time of acceptance and id."""
    assert _name(output_name="ch1/005", audio_format="mp3") == "batch/ch1/005.mp3"
    assert _name() == "batch/tts_20261120T125301Z_7.wav"
    assert _name(prefix="") == "tts_20261120T125301Z_7.wav"
    shanghai = _ACCEPTED.astimezone(timezone(timedelta(hours=8)))
    assert _name(accepted_at=shanghai) == _name()
    with pytest.raises(ValueError, match="time zone"):
        _name(accepted_at=_ACCEPTED.replace(tzinfo=None))
    with pytest.raises(StorageError, match="storage name"):
        _name(prefix="../elsewhere")


def test_ids_become_file_names_without_meeting() -> None:
    """Unsafe and long ids get a hash, so that two ids never share a name; plain ones stay."""
    ids = ["a_b", "a/b", "a b", "a:b", "a\\b", "e\u0301", "é", "公告-1", "x" * 150, "x" * 151, ".."]
    names = [_name(job_id=job_id) for job_id in ids]
    assert len(set(names)) == len(ids)
    assert names[0] == "batch/tts_20261120T125301Z_a_b.wav"
    assert names[7] == "batch/tts_20261120T125301Z_公告-1.wav"
    assert all(name.count("/") == 1 and len(name.encode()) < 180 for name in names)


def test_the_second_time_of_an_hour_that_comes_twice_is_another_name() -> None:
    """Times are told apart in UTC, also where clocks are put back."""
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 30, tzinfo=berlin)
    assert _name(accepted_at=first) == "batch/tts_20261025T003000Z_7.wav"
    assert _name(accepted_at=first.replace(fold=1)) == "batch/tts_20261025T013000Z_7.wav"


@given(_SOME_TEXT)
def test_a_plain_name_is_answered_as_the_long_way_answers(name: str) -> None:
    """What is recognised at a glance is nothing that the full check refuses."""

    def answer() -> str:
        try:
            check_name(name)
        except StorageError as error:
            return str(error)
        return "fine"

    quick = answer()
    with mock.patch.object(base, "_PLAIN", _NEVER):
        assert answer() == quick


@given(_SOME_TEXT.filter(bool))
def test_a_plain_id_is_named_as_the_long_way_names_it(job_id: str) -> None:
    """What is recognised at a glance is exactly what needs no change."""
    quick = _name(job_id=job_id)
    with mock.patch.object(artifacts, "_PLAIN_ID", _NEVER):
        assert _name(job_id=job_id) == quick
