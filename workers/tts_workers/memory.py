"""Out of memory: what counts as it, and what is done before the job goes elsewhere."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, TypeVar

from tts_tasks.errors import EngineOutOfMemoryError
from tts_workers.engines.base import FreesMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_workers.engines.base import Engine

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: So many times in a job's life an engine may run out of memory over it before that is a strike.
PARDONS = 2
#: torch's, and that of whatever else allocates on a device; not imported, known by its name.
_FOREIGN = "OutOfMemoryError"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, is that memory ran out: the device's or the host's."""
    cause: BaseException | None = error
    seen: set[int] = set()  # `raise error from error` is its own cause
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, EngineOutOfMemoryError | MemoryError):
            return True
        if any(kind.__name__ == _FOREIGN for kind in type(cause).__mro__):
            return True
        cause = cause.__cause__
    return False


def with_memory_freed(
    engine: Engine,
    work: Callable[[], T],
    on_out_of_memory: Callable[[str], None],
    let_go: Callable[[], None] = lambda: None,
) -> T:
    """Do something, and once more after the engine has freed memory, if it ran out of it.

    ``on_out_of_memory`` is told the reason before the second try; ``let_go`` lets go what others
    hold of the engine's, such as encoded voices. Raises `EngineOutOfMemoryError`
    if that runs out too.
    """
    try:
        return _mapped(work)
    except EngineOutOfMemoryError as error:
        reason = str(error)
    # Only now: the traceback held the frames of the failed try, and with them their tensors.
    on_out_of_memory(reason)
    let_go()
    _free_memory(engine)
    return _mapped(work)


def _mapped(work: Callable[[], T]) -> T:
    try:
        return work()
    except EngineOutOfMemoryError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise EngineOutOfMemoryError(f"{type(error).__name__}: {error}") from error


def _free_memory(engine: Engine) -> None:
    gc.collect()
    if isinstance(engine, FreesMemory):
        try:
            engine.free_memory()
        except Exception:
            logger.exception("the engine could not free memory")
