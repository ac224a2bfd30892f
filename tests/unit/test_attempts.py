"""What a worker refuses itself, and what it leaves to its engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tts_tasks.errors import RequestError
from tts_tasks.requests import parse_request
from tts_workers.attempts import check_requirements

LOADED: Any = SimpleNamespace(
    engine=SimpleNamespace(name="espeak"),
    capabilities={
        "languages": ["zh"],
        "sample_rate_hz": 22050,
        "features": ["speed"],
        "voices": ["default"],
    },
)


def check(**fields: Any) -> None:
    check_requirements(parse_request({"text": "a", **fields}), LOADED)


def test_what_is_required_is_held_to_what_the_engine_says_of_itself() -> None:
    """The job was accepted before anybody knew."""
    check(requires={"language": "zh", "features": ["speed"], "pool": "elsewhere"})
    with pytest.raises(RequestError, match="this pool speaks zh") as caught:
        check(requires={"language": "en"})
    assert caught.value.field == "requires.language"


def test_what_the_other_fields_call_for_is_the_engines_to_refuse() -> None:
    """It knows why."""
    check(voice="nobody", requires={"language": "zh"})
    check(speed=2.0, voice="nobody")
    check(prompt_audio="sha256:" + "0" * 64, prompt_text="a", requires={"language": "zh"})
