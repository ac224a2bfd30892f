"""What the engine can be told: environment variables ``TTS_GLMTTS_*``."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tts_tasks.errors import ConfigurationError

SAMPLE_RATES_HZ = (24_000, 32_000)


class GlmTtsSettings(BaseSettings):
    """Settings of `GlmTtsEngine`. Relative paths are taken from where the process was started."""

    model_config = SettingsConfigDict(env_prefix="TTS_GLMTTS_", frozen=True, extra="ignore")

    home: str = ""  #: the checkout
    ckpt: str = ""  #: the weights; empty: ``ckpt`` in the checkout
    sample_rate_hz: int = 24_000  #: one a worker: two vocoders
    phoneme: bool = False  #: characters with several readings are handed over as phonemes
    voice_audio: str = ""  #: the voice ``default``; empty: the checkout's first Chinese example
    voice_text: str = ""  #: what is said in it
    cache: str = ""  #: what is built once; empty: ``$XDG_CACHE_HOME/tts-tasks/glmtts``

    @field_validator("home", "ckpt", "voice_audio", "cache")
    @classmethod
    def _paths_are_absolute(cls, value: str) -> str:
        # now: later the checkout's code is run in a working directory of its own
        return str(Path(value).expanduser().resolve()) if value else ""

    @field_validator("sample_rate_hz")
    @classmethod
    def _rate_is_one_of_two(cls, value: int) -> int:
        if value not in SAMPLE_RATES_HZ:
            raise ValueError(f"is {value}; GLM-TTS has vocoders for 24000 and 32000")
        return value

    @model_validator(mode="after")
    def _a_voice_has_audio_and_text(self) -> GlmTtsSettings:
        if bool(self.voice_audio) != bool(self.voice_text.strip()):
            raise ValueError(
                "TTS_GLMTTS_VOICE_AUDIO and TTS_GLMTTS_VOICE_TEXT go together: a recording of 3 to"
                " 10 s and what is said in it"
            )
        return self

    @property
    def home_path(self) -> Path:
        """The checkout; raises `ConfigurationError` where none is named."""
        if not self.home:
            raise ConfigurationError(
                "TTS_GLMTTS_HOME is not set: it names a checkout of"
                " https://github.com/zai-org/GLM-TTS (docs/how-to/glm-tts.md)"
            )
        return Path(self.home)

    @property
    def ckpt_path(self) -> Path:
        """The folder of the weights."""
        return Path(self.ckpt) if self.ckpt else self.home_path / "ckpt"

    @property
    def cache_path(self) -> Path:
        """Where that is kept which is built once."""
        if self.cache:
            return Path(self.cache)
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser().absolute() / "tts-tasks" / "glmtts"


def read_settings() -> GlmTtsSettings:
    """Read them from the environment; raises `ConfigurationError` that names the variable."""
    try:
        return GlmTtsSettings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        variable = (
            f"TTS_GLMTTS_{'_'.join(map(str, first['loc'])).upper()}: " if first["loc"] else ""
        )
        raise ConfigurationError(f"{variable}{message}") from None
