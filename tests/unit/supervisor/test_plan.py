"""The options of `ttsctl up`: what is refused, and the processes that come of the others."""

from __future__ import annotations

import socket
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tts_tasks.errors import ConflictError
from tts_tasks.settings import Settings
from ttsctl.commands.up import devices_of_workers, pools_of, up
from ttsctl.supervisor.plan import (
    FlowerPlan,
    PoolPlan,
    UpOptions,
    children_environment,
    node_name,
    worker_specs,
)

# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specs", "workers", "devices"),
    [
        ("auto", None, ("auto", "auto")),
        ("cpu", 3, ("cpu", "cpu", "cpu")),
        ("0", None, ("0",)),
        ("0, 1", 2, ("0", "1")),
        ("0,cpu", None, ("0", "cpu")),
        ("auto,auto,auto", None, ("auto", "auto", "auto")),
    ],
)
def test_devices_are_given_to_workers(
    specs: str, workers: int | None, devices: tuple[str, ...]
) -> None:
    """One word serves every worker, a list names one device for each."""
    assert devices_of_workers(specs, workers) == devices


@pytest.mark.parametrize(
    ("specs", "workers", "reason"),
    [
        ("0", 2, "1 devices for 2 workers"),
        ("0,1,2", 2, "3 devices for 2 workers"),
        ("1,1", None, "would share a GPU"),
        ("1,01", None, "would share a GPU"),
        ("gpu0", None, "'gpu0' is not"),
        ("", None, "'' is not"),
        ("-1", None, "'-1' is not"),
        ("²", None, "'²' is not"),
    ],
)
def test_impossible_devices_are_usage_errors(specs: str, workers: int | None, reason: str) -> None:
    """A list that does not fit the workers, or gives two of them one GPU, is refused."""
    with pytest.raises(click.UsageError, match=reason):
        devices_of_workers(specs, workers)


def test_pools_are_named_with_engine_and_workers() -> None:
    """Two workers a pool, unless it says how many."""
    assert pools_of(["zh:glmtts", "en:espeak:1"]) == (
        PoolPlan("zh", "glmtts", 2),
        PoolPlan("en", "espeak", 1),
    )
    assert pools_of([]) == ()


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        (["zh"], "'zh' is not NAME:ENGINE"),
        (["ZH:espeak"], "lower-case"),
        (["zh:espeak:0"], "is not"),
        (["zh:espeak:two"], "is not"),
        (["zh::2"], "is not"),
        (["zh:espeak", "zh:paced"], "zh is given twice"),
        (["a:espeak:60", "b:espeak:5"], "65 workers are more than 64"),
    ],
)
def test_impossible_pools_are_usage_errors(specs: list[str], reason: str) -> None:
    """What is wrong is said before anything is started."""
    with pytest.raises(click.UsageError, match=reason):
        pools_of(specs)


def test_up_refuses_wrong_options_with_a_usage_error() -> None:
    """Options that make no sense exit with 2 before anything is started."""
    for arguments in (
        *(["--workers", "0"], ["--gpu", "x"], ["--wait-s", "-1"], ["--gpu", "0,0"]),
        *(["--pool", "zh"], ["--pool", "zh:espeak", "--gpu", "0"]),
        *(["--pool", "zh:espeak", "--workers", "2"], ["--pool", "zh:espeak", "--engine", "paced"]),
    ):
        assert CliRunner().invoke(up, arguments).exit_code == 2


# -- processes ------------------------------------------------------------------------------------


def test_node_names_differ_between_homes() -> None:
    """Two homes on one host, and two workers of a home, have different Celery node names."""
    names = {node_name(w, Path(home)) for w in ("w1", "w2") for home in ("/a", "/b")}

    assert len(names) == 4
    assert node_name("w1", Path("/a")) == node_name("w1", Path("/a"))


def test_workers_are_started_as_celery_documents_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker is a `celery -A tts_tasks worker` with its own name and device, mark and URL."""
    monkeypatch.setenv("PYTHONPATH", "relative")
    settings = Settings(home=tmp_path)
    options = UpOptions(gpus=("cpu", "1"), engine="paced")
    url = "redis://:secret@127.0.0.1:1/0"
    environment = children_environment(settings, options, up_id="abc", redis_url=url)
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(
        "ttsctl.supervisor.processes.subprocess.Popen",
        lambda command, *, env, **_: started.append((command, env)),
    )

    for spec in worker_specs(settings, options, environment):
        spec.spawn()

    (first, env), (second, _) = started
    assert first[first.index("-m") :] == [
        *["-m", "celery", "-A", "tts_tasks", "worker", "-n", node_name("w1", tmp_path)],
        *["--gpu", "cpu", "--loglevel", "INFO"],
    ]
    assert second[-3:-2] == ["1"]
    assert not any("secret" in argument for argument in first + second)
    assert (env["TTS_REDIS_URL"], env["TTS_UP_ID"], env["TTS_ENGINE"]) == (url, "abc", "paced")
    assert env["PYTHONPATH"] == str(Path.cwd() / "relative")


def test_each_worker_is_told_its_pool_and_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the pools, as devices are; without pools the environment says it."""
    settings = Settings(home=tmp_path)
    told: list[tuple[str | None, str | None]] = []
    monkeypatch.setattr(
        "ttsctl.supervisor.processes.subprocess.Popen",
        lambda _, *, env, **__: told.append((env.get("TTS_POOL"), env.get("TTS_ENGINE"))),
    )
    pools = (PoolPlan("zh", "glmtts", 2), PoolPlan("en", "espeak", 1))

    for options in (UpOptions(gpus=("0", "1", "cpu"), pools=pools), UpOptions(gpus=("cpu",))):
        for spec in worker_specs(settings, options, {"TTS_POOL": "mine"}):
            spec.spawn()

    assert told == [("zh", "glmtts"), ("zh", "glmtts"), ("en", "espeak"), ("mine", None)]


def test_a_flower_port_that_is_taken_is_a_conflict(tmp_path: Path) -> None:
    """--flower-port with somebody else's port fails before anything waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = UpOptions(flower_port=taken.getsockname()[1])

        with pytest.raises(ConflictError, match="--flower-port"):
            FlowerPlan(Settings(home=tmp_path), options, {})
