"""The model as the checkout has loaded it, with what is called of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tts_tasks.errors import EngineError, EngineLoadError, EngineOutOfMemoryError
from tts_workers.engines.glmtts import normaliser_cache
from tts_workers.engines.glmtts.checkout import ENTRY, go_offline
from tts_workers.engines.glmtts.failures import context_lost, lost_the_device, ran_out_of_memory
from tts_workers.engines.glmtts.text_guard import TextGuard

if TYPE_CHECKING:
    from types import ModuleType

    from tts_workers.engines.glmtts.checkout import Checkout
    from tts_workers.engines.glmtts.settings import GlmTtsSettings

logger = logging.getLogger(__name__)

#: What torch says of a device that it cannot have; the checkout asks for CUDA by name in places.
_NO_CUDA = ("not compiled with cuda", "no cuda gpus", "no nvidia driver", "cuda driver version")


@dataclass(frozen=True, slots=True)
class Model:
    """What ``load_models`` made, the module it came from, and the torch which that uses."""

    module: ModuleType
    torch: Any
    frontend: Any
    text: TextGuard
    llm: Any
    flow: Any

    def speech_tokens(self, **arguments: Any) -> list[int]:
        """Have the language model speak; what is no speech token is left out.

        On a GPU one such number ends the process: the next model looks it up in a table.
        """
        tokens = list(self.module.local_llm_forward(**arguments))
        last = int(self.llm.ate) - int(self.llm.ats)
        kept = [token for token in tokens if 0 <= token <= last]
        if len(kept) != len(tokens):
            logger.warning(
                "%d of %d tokens are no speech: left out", len(tokens) - len(kept), len(tokens)
            )
        if not kept:
            raise EngineError("the language model made no speech of the segment")
        return kept


def load_model(checkout: Checkout, settings: GlmTtsSettings, device: str) -> Model:
    """Load the model onto ``device``; only inside the checkout.

    Raises `EngineLoadError` with what to do, `EngineOutOfMemoryError`, `EngineLostError`.
    """
    go_offline()
    torch = checkout.module("torch")
    if device != "cpu" and not torch.cuda.is_available():
        raise EngineLoadError(
            "torch sees no CUDA device: check the driver, that torch is a CUDA build, and"
            " CUDA_VISIBLE_DEVICES; or start the worker with another --gpu"
        )
    try:
        return _loaded(checkout, settings, device, torch)
    except EngineError:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise EngineOutOfMemoryError(f"{type(error).__name__}: {error}") from error
        if lost_the_device(error, torch.cuda.synchronize):
            raise context_lost(error) from error
        raise EngineLoadError(_explained(error)) from error


def _loaded(checkout: Checkout, settings: GlmTtsSettings, device: str, torch: Any) -> Model:
    keep_grammars(checkout, settings)
    module = checkout.module(ENTRY)
    if str(module.DEVICE).partition(":")[0] != device.partition(":")[0]:
        raise EngineLoadError(f"the checkout would run on {module.DEVICE}, not on {device}")
    frontend, text, _, llm, flow = module.load_models(
        use_phoneme=settings.phoneme, sample_rate=settings.sample_rate_hz
    )
    return Model(module, torch, frontend, TextGuard(text), llm, flow)


def keep_grammars(checkout: Checkout, settings: GlmTtsSettings) -> ModuleType:
    """Have the checkout's front end take its Chinese grammars from where they are kept.

    Returns its module. Where another normaliser is installed (ttsfrd), it has none of these.
    """
    front_end = checkout.module("cosyvoice.cli.frontend")
    normaliser = getattr(front_end, "ZhNormalizer", None)
    if normaliser is not None:
        setattr(  # noqa: B010 - a module, whose names mypy knows
            front_end,
            "ZhNormalizer",
            normaliser_cache.cached(normaliser, settings.cache_path, checkout.home),
        )
    return front_end


def _explained(error: Exception) -> str:
    said = f"{type(error).__name__}: {error}"
    if any(words in said.lower() for words in _NO_CUDA):
        return (
            f"{said}. GLM-TTS's code asks for CUDA in places, whatever the device: it needs an"
            " NVIDIA GPU, and torch as a CUDA build"
        )
    return f"GLM-TTS could not be loaded: {said}"
