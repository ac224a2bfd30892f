"""Reads an engine's own settings from the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from tts_tasks.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

T = TypeVar("T", bound="BaseSettings")


def read_settings(kind: type[T]) -> T:
    """Return the settings; raises `ConfigurationError` that names the variable."""
    try:
        return kind()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = "_".join(map(str, first["loc"])).upper()
        variable = f"{kind.model_config['env_prefix']}{name}: " if name else ""
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{variable}{message}") from None
