"""Checks of the engine contract about determinism, and the state that goes with a text."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Final

from tts_workers.engines.base import SpeakOptions
from tts_workers.testing.suite import OPTIONS, ContractViolation, demand, demand_same

if TYPE_CHECKING:
    from tts_workers.engines.base import EngineState, Spoken
    from tts_workers.testing.suite import Suite

#: Tens of kilobytes are a state; more is audio or a cache in disguise.
MAX_STATE_BYTES: Final = 64 * 1024


def same_request_gives_same_samples(suite: Suite) -> None:
    """Give the same bits for the same request, in one engine and in another one."""
    with suite.engine() as engine:
        if not engine.capabilities().deterministic:
            return
        texts = suite.texts_for(engine)
        expected = [suite.whole(engine, text, OPTIONS) for text in texts]
        for text, first in zip(texts, expected, strict=True):
            demand_same(first, suite.whole(engine, text, OPTIONS), "spoken again")
    with suite.engine() as other:
        for text, first in zip(texts, expected, strict=True):
            demand_same(first, suite.whole(other, text, OPTIONS), "spoken by a new engine")


def order_does_not_matter(suite: Suite) -> None:
    """Give the same bits whatever was spoken before, and between two segments of a job."""
    with suite.engine() as engine:
        if not engine.capabilities().deterministic:
            return
        texts = suite.texts_for(engine)
        text = texts[0]
        expected = suite.whole(engine, text, OPTIONS)
    with suite.engine() as engine:
        for other in reversed(texts):
            suite.whole(engine, other, SpeakOptions(seed=99))
        voice = engine.encode_voice(suite.reference)
        state: EngineState | None = None
        actual: list[Spoken] = []
        for segment in engine.split(text):
            actual.append(engine.speak(segment, voice, state, OPTIONS))
            state = actual[-1].state
            suite.go_on(engine, engine.split(texts[-1])[:1], None, SpeakOptions(seed=3))
        demand_same(expected, actual, "with other jobs in between")


def resume_at_every_segment_equals_the_whole(suite: Suite) -> None:
    """Go on in a new engine from the stored state exactly as the first one would have."""
    with suite.engine() as engine:
        if not engine.capabilities().deterministic:
            return
        text = suite.texts_for(engine)[0]
        segments = engine.split(text)
        demand(len(segments) > 1, "the text is one segment only: resuming cannot be checked")
        expected = suite.whole(engine, text, OPTIONS)
    for index in range(1, len(segments)):
        stored = json.loads(json.dumps(expected[index - 1].state))
        with suite.engine() as resumed:
            demand(resumed.split(text) == segments, "another engine splits the text otherwise")
            actual = suite.go_on(resumed, segments[index:], stored, OPTIONS)
        demand_same(expected[index:], actual, f"resumed at segment {index}")


def state_is_small_json(suite: Suite) -> None:
    """Return None or a JSON object of at most 64 KiB as the state, unchanged by a round trip."""
    with suite.engine() as engine:
        for text in suite.texts_for(engine):
            for part in suite.whole(engine, text, OPTIONS):
                _check_state(part.state)


def _check_state(state: EngineState | None) -> None:
    try:
        encoded = json.dumps(state, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContractViolation(f"the state is not JSON: {error}") from error
    demand(json.loads(encoded) == state, "the state changes when it goes through JSON")
    demand(state is None or isinstance(state, dict), "the state is neither None nor an object")
    demand(len(encoded) <= MAX_STATE_BYTES, f"the state has {len(encoded)} bytes")


def arguments_are_not_changed(suite: Suite) -> None:
    """Leave the states and the voice it was handed, and the states it returned, as they were."""
    with suite.engine() as engine:
        segments = engine.split(suite.texts_for(engine)[0])
        voice = engine.encode_voice(suite.reference)
        runs: list[list[Spoken]] = []
        for _ in range(2):
            state: EngineState | None = None
            runs.append([])
            snapshots: list[EngineState | None] = []
            for segment in segments:
                spoken = engine.speak(segment, voice, state, OPTIONS)
                state = spoken.state
                runs[-1].append(spoken)
                snapshots.append(copy.deepcopy(state))
            kept = [spoken.state for spoken in runs[-1]] == snapshots
            demand(kept, "a state was changed after it had been returned")
        if engine.capabilities().deterministic:
            demand_same(runs[0], runs[1], "with the same encoded voice")
