"""Checks of the engine contract about running engines: speed, what comes next, and cancelling."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tts_tasks.errors import EngineError, RequestError
from tts_workers.engines.base import SpeakOptions, SpeaksAhead
from tts_workers.testing.suite import OPTIONS, ContractViolation, demand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_workers.engines.base import Engine, Segment, Spoken
    from tts_workers.testing.suite import Suite

#: How long a call of `speak` may go on after `close`, in seconds.
_CLOSES_WITHIN_S: Final = 30.0
#: How long the processes of an engine may last after it.
_GONE_WITHIN_S: Final = 5.0
_POLL_S: Final = 0.02


def speed_is_obeyed_or_refused(suite: Suite) -> None:
    """Be faster and slower with the feature ``speed``; without it refuse, with `RequestError`."""
    with suite.engine() as engine:
        text = suite.texts_for(engine)[0]
        if "speed" not in engine.capabilities().features:
            try:
                suite.whole(engine, text, SpeakOptions(seed=7, speed=2.0))
            except RequestError as error:
                demand(error.field == "speed", f"the field of the refusal is {error.field!r}")
                return
            raise ContractViolation("a speed was accepted without the feature 'speed'")
        lengths = [
            sum(
                part.samples.size
                for part in suite.whole(engine, text, SpeakOptions(seed=7, speed=speed))
            )
            for speed in (0.5, 1.0, 2.0)
        ]
        slow, natural, fast = lengths
        demand(slow > 1.2 * natural, f"at half the speed {slow} samples, else {natural}")
        demand(fast < 0.8 * natural, f"at twice the speed {fast} samples, else {natural}")


def expected_segments_sound_the_same(suite: Suite) -> None:
    """Change nothing where the next segments are announced, asked for as announced or not."""
    with suite.engine() as engine:
        if not isinstance(engine, SpeaksAhead):
            return
        text = suite.texts_for(engine)[0]
        segments = engine.split(text)
        voice = engine.encode_voice(suite.reference)
        plain = suite.whole(engine, text, OPTIONS)
        engine.expect(segments, voice, OPTIONS)
        announced = _spoken(engine, segments, suite)
        engine.expect(segments, voice, OPTIONS)
        otherwise = _spoken(engine, segments[::-1], suite)
        engine.expect((), voice, OPTIONS)
        if not engine.capabilities().deterministic:
            return
        for index, part in enumerate(plain):
            for when, other in (("announced", announced), ("not as announced", otherwise[::-1])):
                same = np.array_equal(part.samples, other[index].samples)
                demand(same, f"segment {index} sounds another way where it was {when}")


def _spoken(engine: Engine, segments: Sequence[Segment], suite: Suite) -> list[Spoken]:
    voice = engine.encode_voice(suite.reference)
    return [engine.speak(segment, voice, None, OPTIONS) for segment in segments]


def close_ends_what_is_under_way(suite: Suite) -> None:
    """End a call of `speak` by `close` from another thread, and leave no process behind."""
    before = _child_processes()
    with suite.engine() as engine:
        segments = engine.split(suite.texts_for(engine)[0])
        voice = engine.encode_voice(suite.reference)
        began, closed = threading.Event(), threading.Event()
        wrong: list[BaseException] = []

        def speak() -> None:
            state = None
            try:
                for number in range(1_000_000):
                    was_closed = closed.is_set()
                    began.set()
                    segment = segments[number % len(segments)]
                    state = engine.speak(segment, voice, state, OPTIONS).state
                    if was_closed:
                        return
            except EngineError:
                return
            except BaseException as error:  # noqa: BLE001 - the verdict tells which
                wrong.append(error)

        thread = threading.Thread(target=speak, name="contract-speak", daemon=True)
        thread.start()
        began.wait()
        engine.close()
        closed.set()
        thread.join(_CLOSES_WITHIN_S)
        demand(not thread.is_alive(), f"speaking goes on {_CLOSES_WITHIN_S:g} s after close()")
        demand(not wrong, f"close() made speak() raise {wrong!r}, which is no EngineError")
    end_s = time.monotonic() + _GONE_WITHIN_S
    while (left := _child_processes() - before) and time.monotonic() < end_s:
        time.sleep(_POLL_S)
    demand(not left, f"close() has left the processes {sorted(left)} behind")


def _child_processes() -> set[int]:
    """Return the processes that this one has started and that run; none where /proc is not."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name, in parentheses, may hold anything
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found
