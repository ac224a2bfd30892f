"""``openai_http``: a server with OpenAI's interface; see ``docs/how-to/served-models.md``."""

from __future__ import annotations

from tts_workers.engines.openai_http.engine import OpenAIHttpEngine
from tts_workers.engines.openai_http.settings import OpenAIHttpSettings

__all__ = ["OpenAIHttpEngine", "OpenAIHttpSettings"]
