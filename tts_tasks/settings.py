"""One process's settings: every field is an environment variable ``TTS_<FIELD>``.

The timing rules are checked together at start, so that a cluster cannot be configured into a
state in which a primary outlives its own lease.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tts_tasks.errors import ConfigurationError

#: Where Redis is looked for when nothing says otherwise: its own and Celery's convention.
CONVENTIONAL_REDIS_URL = "redis://127.0.0.1:6379/0"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]


def _default_home() -> Path:
    data_home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data_home).expanduser() / "tts-tasks"


class Settings(BaseSettings):
    """What a process of the cluster can be told. Durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="TTS_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=_default_home)
    redis_url: str = ""  #: empty: the one `ttsctl up` runs, else the conventional address
    storage_url: str = ""  #: empty: ``$TTS_HOME/artifacts``

    pool: Name = "default"
    lane: Name = "0"
    engine: str = "espeak"

    heartbeat_s: Annotated[float, Field(gt=0)] = 1.0
    missed_heartbeats: Annotated[int, Field(ge=1)] = 3
    presence_grace_s: Annotated[float, Field(gt=0)] = 0.5
    lease_ttl_s: float = 0.0  #: 0: heartbeat_s × missed_heartbeats
    request_timeout_s: Annotated[float, Field(gt=0)] = 0.4
    renew_deadline_s: float = 0.0  #: 0: two thirds of lease_ttl_s

    max_attempts: Annotated[int, Field(ge=1)] = 3
    store_outage_s: Annotated[float, Field(gt=0)] = 600.0
    lost_message_grace_s: Annotated[float, Field(gt=0)] = 5.0
    retention_s: Annotated[int, Field(gt=0)] = 7 * 24 * 3600
    events_kept: Annotated[int, Field(gt=0)] = 20_000

    @model_validator(mode="after")
    def _fill_in_and_cross_check(self) -> Self:
        silence_s = self.heartbeat_s * self.missed_heartbeats
        ttl_s = self.lease_ttl_s or silence_s
        deadline_s = self.renew_deadline_s or round(ttl_s * 2 / 3, 3)
        if ttl_s <= 0 or deadline_s <= 0:
            raise ValueError("lease_ttl_s and renew_deadline_s must be greater than 0")
        if deadline_s > ttl_s * 2 / 3 + 1e-3:
            raise ValueError(
                f"renew_deadline_s ({deadline_s:g}) must be at most ⅔ × lease_ttl_s "
                f"({ttl_s:g}): a holder must have stopped before its lease can be taken"
            )
        if self.heartbeat_s + 2 * self.request_timeout_s > deadline_s + 1e-9:
            raise ValueError(
                f"heartbeat_s ({self.heartbeat_s:g}) + 2 × request_timeout_s "
                f"({self.request_timeout_s:g}) must be at most renew_deadline_s ({deadline_s:g}): "
                "one slow renewal must not end the leadership"
            )
        object.__setattr__(self, "lease_ttl_s", ttl_s)
        object.__setattr__(self, "renew_deadline_s", deadline_s)
        object.__setattr__(self, "home", self.home.expanduser().absolute())
        if not self.redis_url:
            object.__setattr__(self, "redis_url", self._discovered_redis_url())
        if not self.storage_url:
            object.__setattr__(self, "storage_url", f"file://{self.home / 'artifacts'}")
        return self

    @property
    def silence_s(self) -> float:
        """How long a heartbeat may stay unchanged before the watchdog deposes."""
        return self.heartbeat_s * self.missed_heartbeats

    @property
    def lane_key(self) -> str:
        """Name of this process's lane, ``pool.lane``: also the hash tag of its keys."""
        return f"{self.pool}.{self.lane}"

    @property
    def up_state_path(self) -> Path:
        """Where `ttsctl up` says what it runs (JSON, mode 0600: it holds Redis's password)."""
        return self.home / "run" / "up.json"

    def _discovered_redis_url(self) -> str:
        try:
            state = json.loads(self.up_state_path.read_text(encoding="utf-8"))
            return str(state["redis_url"])
        except (OSError, ValueError, KeyError, TypeError):
            return CONVENTIONAL_REDIS_URL


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return this process's settings, read once; raises `ConfigurationError`."""
    try:
        return Settings()
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False):
            where = "_".join(str(part) for part in item["loc"])
            name = f"TTS_{where.upper()}: " if where else ""
            problems.append(name + item["msg"].removeprefix("Value error, "))
        raise ConfigurationError("settings: " + "; ".join(problems)) from None
