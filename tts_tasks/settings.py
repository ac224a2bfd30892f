"""One process's settings: every field is an environment variable ``TTS_<FIELD>``.

The timing rules are checked together at start, so that a cluster cannot be configured into a
state in which a primary outlives its own lease.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tts_tasks.errors import ConfigurationError
from tts_tasks.redis_url import SENTINEL_LOOKS, SINGLE_LOOKS, is_cluster, parse_redis_url

#: Where Redis is looked for when nothing says otherwise: its own and Celery's convention.
CONVENTIONAL_REDIS_URL = "redis://127.0.0.1:6379/0"

#: What pools and lanes are called.
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
Name = Annotated[str, Field(pattern=rf"^{NAME_PATTERN.pattern}$")]


#: Sizes of a key of Standard Webhooks, in bytes.
_KEY_BYTES = range(24, 65)
_HOW_TO_MAKE_ONE = 'make one with: echo "whsec_$(openssl rand -base64 32)"'
_NOT_IN_A_URL = re.compile(r"[^!-~]")


def _default_home() -> Path:
    data_home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data_home).expanduser() / "tts-tasks"


class Settings(BaseSettings):
    """What a process of the cluster can be told. Durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="TTS_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    home: Path = Field(default_factory=_default_home)
    redis_url: str = ""  #: empty: the one `ttsctl up` runs, else the conventional address
    broker_url: str = ""  #: empty: redis_url. Where Celery's queues and results are
    replicas_acked: Annotated[int, Field(ge=0)] = 0  #: that have a job before it is accepted
    storage_url: str = ""  #: empty: ``$TTS_HOME/artifacts``

    pool: Name = "default"
    lane: Name = "0"
    engine: str = "espeak"

    heartbeat_s: Annotated[float, Field(gt=0)] = 1.0
    missed_heartbeats: Annotated[int, Field(ge=1)] = 3
    presence_grace_s: Annotated[float, Field(gt=0)] = 0.15
    lease_ttl_s: float = 0.0  #: 0: heartbeat_s × missed_heartbeats
    request_timeout_s: Annotated[float, Field(gt=0)] = 0.4
    renew_deadline_s: float = 0.0  #: 0: two thirds of lease_ttl_s

    progress_factor: Annotated[float, Field(ge=1)] = 5.0
    first_step_s: Annotated[float, Field(gt=0)] = 60.0

    max_attempts: Annotated[int, Field(ge=1)] = 3
    elsewhere_s: Annotated[float, Field(ge=0)] = 30.0
    store_outage_s: Annotated[float, Field(gt=0)] = 600.0
    lost_message_grace_s: Annotated[float, Field(gt=0)] = 5.0
    max_online_jobs: Annotated[int, Field(ge=0)] = 1000  #: that wait in a lane; 0: any number
    retention_s: Annotated[int, Field(gt=0)] = 7 * 24 * 3600
    segment_log_bytes: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    segment_log_ttl_s: Annotated[int, Field(gt=0)] = 600
    events_kept: Annotated[int, Field(gt=0)] = 20_000

    notify_url: SecretStr = SecretStr("")  #: secret, as the path of a webhook often is one
    notify_secret: SecretStr = SecretStr("")
    notify_command: str = Field(default="", repr=False)  #: its arguments may be secrets

    @field_validator("notify_url")
    @classmethod
    def _check_notify_url(cls, value: SecretStr) -> SecretStr:
        check_notify_url(value.get_secret_value())
        return value

    @field_validator("notify_secret")
    @classmethod
    def _check_notify_secret(cls, value: SecretStr) -> SecretStr:
        signing_keys(value.get_secret_value())
        return value

    @field_validator("notify_command")
    @classmethod
    def _check_notify_command(cls, value: str) -> str:
        try:
            shlex.split(value)
        except ValueError as error:
            raise ValueError(f"cannot be split into words as a shell would: {error}") from None
        return value

    @field_validator("redis_url", "broker_url")
    @classmethod
    def _check_redis_url(cls, value: str) -> str:
        try:
            parse_redis_url(value)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _check_that_the_broker_is_no_cluster(self) -> Self:
        if is_cluster(self.celery_url):
            raise ValueError(
                "Celery's broker cannot be a Redis Cluster: set TTS_BROKER_URL to one Redis, or to "
                f"Sentinels, for its queues and results ({SINGLE_LOOKS} or {SENTINEL_LOOKS})"
            )
        if self.replicas_acked and is_cluster(self.redis_url):
            raise ValueError("replicas_acked works with one Redis or Sentinels, not with a cluster")
        return self

    @model_validator(mode="after")
    def _check_that_notices_are_signed(self) -> Self:
        if self.notify_url.get_secret_value() and not self.notify_secret.get_secret_value():
            raise ValueError(f"notify_url needs notify_secret, to sign with: {_HOW_TO_MAKE_ONE}")
        return self

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
    def celery_url(self) -> str:
        """Where Celery's queues and results are."""
        return self.broker_url or self.redis_url

    @property
    def silence_s(self) -> float:
        """How long a heartbeat may stay unchanged before the watchdog deposes."""
        return self.heartbeat_s * self.missed_heartbeats

    @property
    def notify_keys(self) -> tuple[bytes, ...]:
        """What notices are signed with: the newest key, and older ones while they are changed."""
        return signing_keys(self.notify_secret.get_secret_value())

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


def check_notify_url(url: str) -> None:
    """Raise ValueError for what cannot be posted to; the text never holds the URL."""
    if not url:
        return
    if _NOT_IN_A_URL.search(url):
        raise ValueError("holds a space or a letter that no URL holds: write it percent-encoded")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = None
    if not usable:
        raise ValueError("it looks like https://host[:port]/path")


def signing_keys(secrets: str) -> tuple[bytes, ...]:
    """Return the keys of one or more ``whsec_…`` words (Standard Webhooks); raises ValueError."""
    keys = []
    for secret in secrets.split():
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            key = b""
        if not secret.startswith("whsec_") or len(key) not in _KEY_BYTES:
            raise ValueError(
                f"must be whsec_ and {_KEY_BYTES[0]} to {_KEY_BYTES[-1]} bytes in base64; "
                + _HOW_TO_MAKE_ONE
            )
        keys.append(key)
    return tuple(keys)


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
