"""What a failure of torch and CUDA means: memory that ran out, or a context that is lost.

After a device-side assert or an illegal access every further call in the process fails, and some
return rubbish. No job may meet that: with `EngineLostError` the process ends, and its parent starts
another one.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from tts_tasks.errors import EngineError, EngineLostError, EngineOutOfMemoryError, RequestError
from tts_workers.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OUT_OF_MEMORY: Final = (
    "out of memory",
    "_ALLOC_FAILED",  # cuBLAS, cuDNN
    "failed to allocate memory",  # onnxruntime
    "can't allocate memory",  # torch on the CPU
)
_CONTEXT_LOST: Final = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "uncorrectable ecc error",
    "hardware stack error",
    "invalid program counter",
    "cudnn_status_execution_failed",
    "cublas_status_execution_failed",
)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the device or of the host, whichever library says so."""
    said = str(error).lower()
    return is_out_of_memory(error) or any(words.lower() in said for words in _OUT_OF_MEMORY)


def lost_the_device(error: BaseException, synchronise: Callable[[], Any]) -> bool:
    """Whether the process can never use its device again.

    ``synchronise`` is asked where CUDA failed in another way: a context that is lost fails there.
    """
    said = str(error).lower()
    if any(words in said for words in _CONTEXT_LOST):
        return True
    if "cuda error" not in said and "cuda driver error" not in said:
        return False
    try:
        synchronise()
    except Exception:  # noqa: BLE001 - torch has several classes for it, and none may be missed
        return True
    return False


def context_lost(error: BaseException) -> EngineLostError:
    """Return what to raise where `lost_the_device`, without the advice in CUDA's further lines."""
    said = str(error).partition("\n")[0]
    return EngineLostError(f"the CUDA context is lost: {said}")


@contextlib.contextmanager
def translated(synchronise: Callable[[], Any]) -> Iterator[None]:
    """Turn what the checkout's code raises into what `Engine` promises.

    Raises `EngineOutOfMemoryError`, `EngineLostError` where the device is lost, and `EngineError`.
    """
    try:
        yield
    except (EngineError, RequestError):
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise EngineOutOfMemoryError(f"{type(error).__name__}: {error}") from error
        if lost_the_device(error, synchronise):
            raise context_lost(error) from error
        raise EngineError(f"GLM-TTS: {type(error).__name__}: {error}") from error
