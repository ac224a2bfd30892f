"""The engine contract suite: public, for whoever writes an engine.

With pytest::

    @pytest.mark.parametrize("check", engine_contract(MyEngine), ids=str)
    def test_my_engine_keeps_the_contract(check: ContractCheck) -> None:
        check()

Each check makes its own engines with the factory, loads and closes them. A broken promise raises
`ContractViolation`, an AssertionError. What is promised: `tts_workers.engines.base.Engine`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tts_tasks.errors import TTSError
from tts_workers.engines.base import VoiceReference
from tts_workers.testing.identity import (
    capabilities_are_honest,
    close_may_be_called_twice,
    fingerprint_is_stable,
    is_an_engine,
)
from tts_workers.testing.requests import (
    UNSPEAKABLE_TEXTS,
    lexicons_are_obeyed_or_refused,
    reference_audio_decides_the_voice,
    unknown_voice_is_refused,
    unspeakable_text_is_typed,
)
from tts_workers.testing.running import (
    close_ends_what_is_under_way,
    expected_segments_sound_the_same,
    speed_is_obeyed_or_refused,
)
from tts_workers.testing.states import (
    MAX_STATE_BYTES,
    arguments_are_not_changed,
    order_does_not_matter,
    resume_at_every_segment_equals_the_whole,
    same_request_gives_same_samples,
    state_is_small_json,
)
from tts_workers.testing.suite import SAMPLE_TEXTS, ContractViolation, Suite

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_workers.engines.base import Engine

__all__ = [
    "MAX_STATE_BYTES",
    "SAMPLE_TEXTS",
    "UNSPEAKABLE_TEXTS",
    "ContractCheck",
    "ContractViolation",
    "engine_contract",
]


@dataclass(frozen=True, slots=True)
class ContractCheck:
    """One promise of the contract as a callable; ``str()`` is its name."""

    name: str
    _suite: Suite = field(repr=False)
    _check: Callable[[Suite], None] = field(repr=False)

    def __call__(self) -> None:
        """Check the promise; raises `ContractViolation`, or what the engine raised by mistake."""
        try:
            self._check(self._suite)
        except TTSError as error:
            raise ContractViolation(f"{type(error).__name__} was not due: {error}") from error

    def __str__(self) -> str:
        return self.name


def engine_contract(
    factory: Callable[[], Engine],
    *,
    device: str = "cpu",
    texts: dict[str, str] | None = None,
    voice: VoiceReference | None = None,
    clones: tuple[VoiceReference, VoiceReference] | None = None,
) -> list[ContractCheck]:
    """Return the checks that an engine made by ``factory`` must pass.

    ``texts`` maps a BCP 47 primary language to a text of at least two segments, for languages
    other than those of `SAMPLE_TEXTS`; ``voice`` is one that the engine has; ``clones`` are two
    references with audio of two speakers, for an engine that has the feature ``clone``.
    """
    known = {**SAMPLE_TEXTS, **(texts or {})}
    suite = Suite(factory, device, known, voice or VoiceReference(), clones)
    return [ContractCheck(check.__name__, suite, check) for check in _CHECKS]


_CHECKS: Final[tuple[Callable[[Suite], None], ...]] = (
    is_an_engine,
    capabilities_are_honest,
    same_request_gives_same_samples,
    order_does_not_matter,
    resume_at_every_segment_equals_the_whole,
    state_is_small_json,
    arguments_are_not_changed,
    unspeakable_text_is_typed,
    unknown_voice_is_refused,
    reference_audio_decides_the_voice,
    lexicons_are_obeyed_or_refused,
    speed_is_obeyed_or_refused,
    expected_segments_sound_the_same,
    fingerprint_is_stable,
    close_ends_what_is_under_way,
    close_may_be_called_twice,
)
