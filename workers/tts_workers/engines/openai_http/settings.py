"""What the engine can be told: environment variables ``TTS_OPENAI_HTTP_*``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PORT: Final = "{port}"
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class OpenAIHttpSettings(BaseSettings):
    """Settings of `OpenAIHttpEngine`. Relative paths are taken from where the process started."""

    model_config = SettingsConfigDict(env_prefix="TTS_OPENAI_HTTP_", frozen=True, extra="ignore")

    url: str = ""  #: up to and with ``/v1``; `PORT` stands for a free port
    command: str = Field(default="", repr=False)  #: its arguments may be secrets
    api_key: SecretStr = SecretStr("")
    model: str = ""  #: empty: the first that the server names
    revision: str = ""  #: goes into the fingerprint
    voices: str = ""  #: ``name=server's name``, by commas; empty: those that the server names
    voice_audio: str = ""  #: the voice ``default``, for a server that imitates
    voice_text: str = ""  #: what is said in it
    languages: str = "zh,en"
    sample_rate_hz: Annotated[int, Field(ge=8_000, le=192_000)] = 24_000
    response_format: Literal["wav", "pcm"] = "wav"
    stream: bool = True  #: ask for the sound as it is made
    speed: bool = True  #: the server obeys ``speed``
    clone: bool = False  #: the server takes ``ref_audio`` and ``ref_text``
    emotion: bool = False  #: what it imitates has the emotion of the recording
    seed: bool = False  #: the server takes ``seed``
    deterministic: bool = False  #: the same request gives the same bits
    extra_fields: str = ""  #: of each request, as a JSON object
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    ready_path: str = "/health"
    ready_s: Seconds = 600.0
    timeout_s: Seconds = 30.0
    busy_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0

    @field_validator("url")
    @classmethod
    def _url_is_usable(cls, value: str) -> str:
        if not value:
            raise ValueError("is not set: it is where the server listens, http://127.0.0.1:8091/v1")
        parts = urlsplit(value.replace(PORT, "1"))
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must begin with http:// or https://, and name a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must hold no credentials: TTS_OPENAI_HTTP_API_KEY is for them")
        if parts.query or parts.fragment:
            raise ValueError("must hold neither ? nor #")
        return value.rstrip("/") + ("" if parts.path.strip("/") else "/v1")

    @field_validator("command")
    @classmethod
    def _command_is_readable(cls, value: str) -> str:
        try:
            shlex.split(value)
        except ValueError as error:
            raise ValueError(f"cannot be taken apart into arguments: {error}") from None
        return value

    @field_validator("voices")
    @classmethod
    def _voices_are_pairs(cls, value: str) -> str:
        _pairs(value)
        return value

    @field_validator("languages")
    @classmethod
    def _there_is_a_language(cls, value: str) -> str:
        if not _parts(value):
            raise ValueError("must name at least one language, as in zh,en")
        return value

    @field_validator("extra_fields")
    @classmethod
    def _fields_are_an_object(cls, value: str) -> str:
        try:
            fields = json.loads(value or "{}")
        except ValueError as error:
            raise ValueError(f"is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ValueError('must be a JSON object, as in {"language": "Chinese"}')  # noqa: TRY004
        if taken := sorted(fields.keys() & {"input", "response_format", "ref_audio", "ref_text"}):
            raise ValueError(f"must not hold {taken[0]}, which the engine sets")
        return value

    @field_validator("ready_path")
    @classmethod
    def _path_is_absolute(cls, value: str) -> str:
        if not value.startswith("/"):
            raise ValueError("must begin with /")
        return value

    @field_validator("voice_audio")
    @classmethod
    def _file_is_absolute(cls, value: str) -> str:
        return str(Path(value).expanduser().absolute()) if value else ""

    @model_validator(mode="after")
    def _settings_go_together(self) -> OpenAIHttpSettings:
        if PORT in self.url and not self.command:
            raise ValueError(
                "TTS_OPENAI_HTTP_URL: {port} stands for a free port, which only a server started by"
                " TTS_OPENAI_HTTP_COMMAND can be told"
            )
        if PORT in self.url and PORT not in self.command:
            raise ValueError("TTS_OPENAI_HTTP_COMMAND: must hold {port}, as the URL does")
        if self.emotion and not self.clone:
            raise ValueError("TTS_OPENAI_HTTP_EMOTION: needs TTS_OPENAI_HTTP_CLONE=1")
        if self.voice_audio and not self.clone:
            raise ValueError("TTS_OPENAI_HTTP_VOICE_AUDIO: needs TTS_OPENAI_HTTP_CLONE=1")
        return self

    def arguments(self, port: int) -> list[str]:
        """Return the command as arguments; none where there is no server to start."""
        return [part.replace(PORT, str(port)) for part in shlex.split(self.command)]

    def base_url(self, port: int) -> str:
        """Return where the server is."""
        return self.url.replace(PORT, str(port))

    def named_voices(self) -> dict[str, str]:
        """Return the server's names of the voices that were named, by ours."""
        return _pairs(self.voices)

    def language_tags(self) -> tuple[str, ...]:
        """Return the languages."""
        return tuple(_parts(self.languages))

    def further_fields(self) -> dict[str, Any]:
        """Return what goes with each request."""
        fields: dict[str, Any] = json.loads(self.extra_fields or "{}")
        return fields

    def hide(self, text: str) -> str:
        """Return a text without the key."""
        key = self.api_key.get_secret_value()
        return text.replace(key, "***") if key else text


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(text: str) -> dict[str, str]:
    voices = {}
    for part in _parts(text):
        name, equals, server_name = (piece.strip() for piece in part.partition("="))
        if not name or not equals or not server_name or name in voices:
            raise ValueError(
                f"{part!r}: must be name=server's name, each name once, as in"
                " default=af_heart,anna=af_bella"
            )
        voices[name] = server_name
    return voices
