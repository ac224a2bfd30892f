"""Out of memory: freed and tried once more in the same place, whoever ran out of it."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from tts_tasks.errors import EngineError, EngineOutOfMemoryError
from tts_workers.memory import is_out_of_memory, with_memory_freed


class OutOfMemoryError(RuntimeError):
    """Called as torch's is."""


class Work:
    """Fails so many times, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.told: list[str] = []
        self.freed = 0

    def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "sound"

    def run(self) -> str:
        engine: Any = SimpleNamespace(free_memory=self.free)
        return with_memory_freed(engine, self, self.told.append)

    def free(self) -> None:
        self.freed += 1


def test_what_others_hold_of_the_engine_is_let_go_before_it_is_asked() -> None:
    """Encoded voices are on its device."""
    work, order = Work(MemoryError()), []
    engine: Any = SimpleNamespace(free_memory=lambda: order.append("engine"))
    told = with_memory_freed(engine, work, work.told.append, lambda: order.append("voices"))
    assert (told, order) == ("sound", ["voices", "engine"])


OUT = [EngineOutOfMemoryError("full"), MemoryError(), OutOfMemoryError("CUDA out of memory")]


@pytest.mark.parametrize("error", OUT, ids=lambda error: type(error).__name__)
def test_memory_is_freed_before_the_second_try(error: Exception) -> None:
    """The device's, the host's and torch's alike."""
    work = Work(error)
    assert work.run() == "sound"
    assert (work.freed, len(work.told)) == (1, 1)


@pytest.mark.parametrize("error", OUT, ids=lambda error: type(error).__name__)
def test_a_second_time_it_is_the_engines_error(error: Exception) -> None:
    """Whatever it was called."""
    work = Work(error, error)
    with pytest.raises(EngineOutOfMemoryError):
        work.run()
    assert (work.freed, len(work.told)) == (1, 1)


def test_another_error_is_not_tried_again() -> None:
    """It goes where it went."""
    work = Work(EngineError("broken"))
    with pytest.raises(EngineError, match="broken"):
        work.run()
    assert (work.freed, work.told) == (0, [])


def test_the_cause_counts() -> None:
    """An engine that wraps what torch raised has run out of memory all the same."""
    error = EngineError("speaking failed")
    error.__cause__ = OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(error)
    assert not is_out_of_memory(EngineError("out of memory"))


def test_what_the_failed_try_held_is_free_before_the_engine_is_asked() -> None:
    """A traceback holds the frames of the try, and with them its tensors."""
    held: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    class Tensor:
        """Something large."""

    def work() -> str:
        if held:
            return "sound"
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise MemoryError

    engine: Any = SimpleNamespace(free_memory=lambda: alive.append(held[0]() is not None))
    assert with_memory_freed(engine, work, lambda _: None) == "sound"
    gc.collect()
    assert alive == [False]


def test_an_engine_that_fails_to_free_memory_is_tried_all_the_same() -> None:
    """And one that cannot free any."""
    for engine in (SimpleNamespace(free_memory=lambda: 1 / 0), SimpleNamespace()):
        work = Work(MemoryError())
        speaker: Any = engine
        assert with_memory_freed(speaker, work, work.told.append) == "sound"


def test_an_error_that_is_its_own_cause_ends_the_search() -> None:
    """`raise error from error` happens."""
    error = RuntimeError("round and round")
    error.__cause__ = ValueError("again")
    error.__cause__.__cause__ = error
    assert not is_out_of_memory(error)
    error.__cause__.__cause__ = MemoryError()
    assert is_out_of_memory(error)
