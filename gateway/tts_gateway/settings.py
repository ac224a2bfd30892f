"""The gateway's own settings: every field is an environment variable ``TTS_GATEWAY_<FIELD>``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tts_tasks.errors import ConfigurationError


class GatewaySettings(BaseSettings):
    """Where the gateway listens and how it asks the cluster. Durations in seconds."""

    model_config = SettingsConfigDict(env_prefix="TTS_GATEWAY_", frozen=True, extra="ignore")

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000  #: 0: any free one
    ready_timeout_s: Annotated[float, Field(gt=0)] = 3.0  #: then ``/ready`` answers no
    ready_kept_s: Annotated[float, Field(ge=0)] = 1.0  #: how long one answer serves every caller


def read_settings() -> GatewaySettings:
    """Return this process's settings; raises `ConfigurationError` naming each wrong variable."""
    try:
        return GatewaySettings()
    except ValidationError as error:
        problems = [
            f"TTS_GATEWAY_{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise ConfigurationError("; ".join(problems)) from None
