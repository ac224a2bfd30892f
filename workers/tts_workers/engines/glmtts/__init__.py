"""``glmtts``: GLM-TTS, run from a checkout of its repository; see ``docs/how-to/glm-tts.md``."""

from __future__ import annotations

from tts_workers.engines.glmtts.engine import GlmTtsEngine
from tts_workers.engines.glmtts.settings import GlmTtsSettings

__all__ = ["GlmTtsEngine", "GlmTtsSettings"]
