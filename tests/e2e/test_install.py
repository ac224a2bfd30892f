"""The wheel that users install: what is in it, what it asks for, and that it works by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from email.parser import BytesHeaderParser
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.waiting import eventually
from tts_tasks import synthesize
from tts_tasks.cluster import cluster_status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
#: Import package → where the checkout has it.
PACKAGES = {
    "tts_tasks": ROOT / "tts_tasks",
    "tts_workers": ROOT / "workers" / "tts_workers",
    "tts_gateway": ROOT / "gateway" / "tts_gateway",
    "ttsctl": ROOT / "cli" / "ttsctl",
}
#: What a client must not have to load, nor to install, to submit a job.
HEAVY = {
    "torch", "numpy", "scipy", "soundfile", "soxr", "fastapi", "starlette", "uvicorn", "flower",
    "tornado", "obstore", "espeakng_loader", "pypinyin", "rich", "tts_workers", "tts_gateway",
    "ttsctl",
}  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Build a wheel from this checkout, and open it."""
    folder = tmp_path_factory.mktemp("wheel")
    offline = ["--no-build-isolation"] if find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--quiet"]
    done = subprocess.run(
        [*command, *offline, "--wheel-dir", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which Python finds the wheel's files before the checkout's."""
    site = tmp_path_factory.mktemp("site")
    wheel.extractall(site)
    return {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}


def metadata_of(wheel: zipfile.ZipFile) -> Message:
    """Return the wheel's METADATA."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return BytesHeaderParser().parsebytes(wheel.read(name))


def python(code: str, environment: dict[str, str], cwd: Path) -> str:
    """Run code in a fresh interpreter; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_packages_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Every module, Lua script and py.typed of the four packages is in it; no test, no example."""
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.suffix in {".py", ".lua", ".typed"}
    }
    assert files == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= files
    assert "tts_tasks/ledger/scripts/claim.lua" in files


def test_a_client_install_asks_for_nothing_heavy(wheel: zipfile.ZipFile) -> None:
    """Without extras no engine, torch, array library or web framework is required."""
    requirements = metadata_of(wheel).get_all("Requires-Dist", [])
    always = {
        requirement.split(";")[0].split("[")[0].split(">")[0].split("<")[0].strip().lower()
        for requirement in requirements
        if "extra ==" not in requirement
    }
    assert always == {"celery", "redis", "pydantic", "pydantic-settings", "click", "rich"}


def test_the_wheel_promises_the_extras_and_the_licence(wheel: zipfile.ZipFile) -> None:
    """The extras that the README names exist, and the licence travels with the code."""
    metadata = metadata_of(wheel)
    extras = set(metadata.get_all("Provides-Extra", []))
    assert {"worker", "espeak", "gateway", "torch", "s3", "all", "dev"} <= extras
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    """`import tts_tasks` brings the client alone: no engine, array, web or terminal library."""
    code = (
        "import json, sys, tts_tasks; "
        "json.dump(sorted({name.partition('.')[0] for name in sys.modules}), sys.stdout)"
    )
    loaded = set(json.loads(python(code, {}, tmp_path)))
    assert "tts_tasks" in loaded
    assert not loaded & HEAVY


def test_the_wheel_speaks_by_itself(
    installed: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    """A worker run from the wheel's files finds its scripts and its engine, and speaks a job."""
    code = (
        "import tts_gateway.app, tts_tasks, tts_workers, ttsctl.__main__; "
        "[print(m.__file__) for m in (tts_gateway, tts_tasks, tts_workers, ttsctl)]"
    )
    files = python(code, installed, tmp_path).splitlines()
    assert len(files) == 4
    assert all(file.startswith(installed["PYTHONPATH"]) for file in files)

    log = tmp_path / "worker.log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tts_tasks", "worker", "--gpu", "cpu"],
            env={**os.environ, **installed},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(
            lambda: (
                worker.poll() is not None or any(w["ready"] for w in cluster_status()["workers"])
            )
        )
        assert worker.poll() is None, log.read_text(errors="replace")[-3000:]
        assert synthesize.delay("你好。").get(timeout=60)["duration_s"] > 0.1
    finally:
        worker.terminate()
        worker.wait(30)
