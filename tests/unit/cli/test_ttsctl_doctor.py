"""``ttsctl doctor``: what it finds, and the way out it names."""

from __future__ import annotations

import importlib.util
import json
import stat
import time
from collections import namedtuple
from typing import TYPE_CHECKING

import fakeredis
import pytest
import redis

from tts_tasks.settings import get_settings
from tts_tasks.storage import LocalStorage
from ttsctl import checks

if TYPE_CHECKING:
    from pathlib import Path

SOUND_INFO = {
    "redis_version": "7.2.4",
    "maxmemory_policy": "noeviction",
    "maxmemory": 0,
    "aof_enabled": 1,
    "role": "master",
}


class FakeServer:
    """A Redis whose settings a test chooses; an exception as a setting is raised."""

    def __init__(self, *, config=None, skew_s=0.0, **info):
        self.answers = {**SOUND_INFO, **info}
        self.config = {"timeout": "0", "tcp-keepalive": "300"} if config is None else config
        self.skew_s = skew_s

    def ping(self):
        """Answer."""
        return True

    def info(self, _section=None):
        """Return all of INFO."""
        if isinstance(self.answers.get("refused"), Exception):
            raise self.answers["refused"]
        return self.answers

    def config_get(self, *_names):
        """Return the settings."""
        if isinstance(self.config, Exception):
            raise self.config
        return self.config

    def time(self):
        """Return this machine's time, skewed."""
        now = time.time() + self.skew_s
        return int(now), int(now % 1 * 1e6)


def verdicts(findings):
    """Return check → verdict."""
    return {finding.check: finding.verdict for finding in findings}


def test_sound_redis_settings_are_ok():
    """No eviction, AOF on, a master, no idle timeout: nothing to complain of."""
    assert set(verdicts(checks.check_redis_settings(FakeServer())).values()) == {"ok"}


@pytest.mark.parametrize(
    ("server", "check", "verdict", "remedy"),
    [
        (FakeServer(aof_enabled=0), "redis persistence", "warn", "appendonly"),
        (FakeServer(maxmemory_policy="allkeys-lru"), "redis eviction", "warn", "noeviction"),
        (
            FakeServer(maxmemory_policy="volatile-ttl", maxmemory=10**9),
            "redis eviction", "fail", "noeviction",
        ),
        (FakeServer(role="slave"), "redis role", "fail", "master"),
        (FakeServer(config={"timeout": "5", "tcp-keepalive": "60"}), "redis timeouts", "warn",
         "timeout 0"),
        (FakeServer(config={"timeout": "0", "tcp-keepalive": "0"}), "redis timeouts", "warn",
         "tcp-keepalive"),
        (FakeServer(config=redis.ResponseError("unknown command CONFIG")), "redis timeouts",
         "warn", "timeout"),
        (FakeServer(refused=redis.ResponseError("NOPERM")), "redis settings", "warn", "INFO"),
    ],
)  # fmt: skip
def test_a_redis_setting_that_may_lose_jobs_is_found(server, check, verdict, remedy):
    """Eviction, no AOF, a replica, cut idle connections: each has its verdict and remedy."""
    found = {finding.check: finding for finding in checks.check_redis_settings(server)}[check]
    assert found.verdict == verdict
    assert remedy in found.remedy


def test_an_unreachable_redis_fails_without_its_password():
    """Nobody listens: a failure that names the address and the way out, not the password."""
    finding, server = checks.check_redis("redis://:hunter2@127.0.0.1:1/0")
    assert (finding.verdict, server) == ("fail", None)
    assert "127.0.0.1:1" in finding.found
    assert "ttsctl up" in finding.found
    assert "hunter2" not in finding.found


@pytest.mark.parametrize(
    ("version", "verdict"), [("7.2.4", "ok"), ("6.2.0-rc1", "ok"), ("5.0.7", "fail")]
)
def test_an_old_redis_is_found(monkeypatch, version, verdict):
    """A server without the commands that are used fails; newer ones do not."""
    monkeypatch.setattr(checks, "connect", lambda _url: FakeServer(redis_version=version))
    finding, _ = checks.check_redis("redis://127.0.0.1:6379/0")
    assert finding.verdict == verdict
    assert version in finding.found


@pytest.mark.parametrize(("skew_s", "verdict"), [(0.0, "ok"), (0.4, "ok"), (-90, "warn")])
def test_clock_skew_is_measured(skew_s, verdict):
    """Redis's clock a minute and a half behind is a warning with the difference in it."""
    finding = checks.check_clock(FakeServer(skew_s=skew_s))
    assert finding.verdict == verdict
    assert abs(float(finding.found.split()[0]) - skew_s) < 0.3


def test_storage_that_writes_once_is_ok_and_left_clean(tmp_path):
    """The probe creates, is refused the second time, and leaves no file behind."""
    finding = checks.check_storage(f"file://{tmp_path}")
    assert finding.verdict == "ok"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_storage_that_lets_a_second_writer_through_fails(tmp_path, monkeypatch):
    """A store without create-if-absent is found out by the probe's second write."""

    class Careless(LocalStorage):
        """Says that it created what it wrote over."""

        def create(self, name, data):
            """Overwrite."""
            self.replace(name, data)
            return True

    monkeypatch.setattr(checks, "open_storage", lambda _url: Careless(tmp_path))
    finding = checks.check_storage("file:///srv")
    assert finding.verdict == "fail"
    assert "second writer" in finding.found
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_storage_that_cannot_be_written_fails_with_the_reason(tmp_path):
    """A file where the folder should be: fail, and which setting to change."""
    (tmp_path / "taken").write_text("x", encoding="utf-8")
    finding = checks.check_storage(f"file://{tmp_path}/taken")
    assert finding.verdict == "fail"
    assert "TTS_STORAGE_URL" in finding.remedy


@pytest.mark.parametrize(
    ("free_bytes", "verdict"), [(50 * 1024**3, "ok"), (1024**3, "warn"), (1024**2, "fail")]
)
def test_disk_space_is_judged(tmp_path, monkeypatch, free_bytes, verdict):
    """Plenty, little and none, also for a folder that is not there yet."""
    usage = namedtuple("usage", "total used free")(100, 0, free_bytes)  # noqa: PYI024
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _path: usage)
    assert checks.check_disk(tmp_path / "not" / "yet").verdict == verdict


def fake_nvidia_smi(folder: Path, script: str) -> None:
    """Put an ``nvidia-smi`` of the test's own on the PATH."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("script", "verdict", "found"),
    [
        ("echo '0, NVIDIA A10, 12 MiB, 23028 MiB'", "ok", "NVIDIA A10"),
        ("echo 'driver mismatch' >&2; exit 9", "warn", "exit status 9"),
        (None, "ok", "CPU"),
    ],
)
def test_gpus_are_listed_as_the_driver_shows_them(tmp_path, monkeypatch, script, verdict, found):
    """Each GPU on a line, a broken driver as a warning, no driver as a plain fact."""
    if script is not None:
        fake_nvidia_smi(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = checks.check_gpus()
    assert finding.verdict == verdict
    assert found in finding.found


def test_a_missing_extra_is_a_warning_that_names_it(monkeypatch):
    """A package that is not there: what it is for, and the pip command that brings it."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        checks.importlib.util,
        "find_spec",
        lambda name: None if name == "flower" else find_spec(name),
    )
    found = {finding.check: finding for finding in checks.check_packages()}
    assert found["package flower"].verdict == "warn"
    assert "tts-tasks[flower]" in found["package flower"].remedy
    assert found["package numpy"].verdict == "ok"


def test_the_cluster_needs_a_ready_worker_and_a_primary(cluster):
    """Ready and led is ok; nobody ready, or a lane without primary, fails."""
    assert verdicts(checks.check_cluster(cluster)) == {"workers": "ok", "primary": "ok"}
    for worker in cluster.cluster["workers"]:
        worker["ready"] = False
    cluster.cluster["lanes"][0]["primary"] = None
    assert verdicts(checks.check_cluster(cluster)) == {"workers": "fail", "primary": "fail"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Have settings of this test's own, with a Redis that answers."""
    monkeypatch.setenv("TTS_HOME", str(tmp_path))
    monkeypatch.delenv("TTS_STORAGE_URL", raising=False)
    monkeypatch.setenv("TTS_REDIS_URL", "redis://127.0.0.1:6379/0")
    monkeypatch.setattr(checks, "connect", lambda _url: FakeServer())
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


@pytest.mark.usefixtures("home")
def test_doctor_is_0_when_nothing_fails(ttsctl):
    """All well: exit code 0, and -o json has check, verdict, found and remedy of each."""
    result = ttsctl("doctor", "-o", "json")
    findings = json.loads(result.stdout)
    assert result.exit_code == 0
    assert {"python", "redis", "storage", "disk", "gpus", "workers", "primary"} <= {
        finding["check"] for finding in findings
    }
    assert set(findings[0]) == {"check", "verdict", "found", "remedy"}


@pytest.mark.usefixtures("home")
def test_doctor_is_1_when_something_fails_and_says_what_to_do(ttsctl, cluster):
    """One failure: exit code 1, and below it the command that helps."""
    cluster.cluster["workers"] = []
    result = ttsctl("doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("FAIL  workers"))
    assert lines[at + 1].strip() == "→ ttsctl up"


def test_doctor_without_redis_still_says_the_rest(ttsctl, home, monkeypatch, cluster):
    """No Redis: that fails, the local findings are there, and the cluster is not asked."""
    monkeypatch.undo()
    monkeypatch.setenv("TTS_HOME", str(home))
    monkeypatch.setenv("TTS_REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")
    get_settings.cache_clear()
    result = ttsctl("doctor", "-o", "jsonl")
    found = {f["check"]: f["verdict"] for f in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 1
    assert (found["redis"], found["storage"]) == ("fail", "ok")
    assert "workers" not in found
    assert cluster.calls == []
    assert "hunter2" not in result.output


def test_the_checks_speak_to_a_real_client():
    """The calls that are made exist in redis-py, with these names and answers."""
    server = fakeredis.FakeRedis(decode_responses=True)
    assert checks.check_clock(server).verdict == "ok"
