"""The benchmarks run against the workers that there are: a benchmark that rots measures nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def bench(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Do a smoke run of a benchmark; returns its record's values by system."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(
        [*command, "--quick", "--results", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / f"{arguments[0]}.json").read_text())
    return {run["series"]: run for run in told["runs"]}


def test_a_backlog_is_drained_by_celery_and_by_us(tmp_path: Path) -> None:
    """Every job starts once, after it was sent, in all systems that need no further package."""
    found = bench(tmp_path, "dispatch", "--systems", "celery,ours online,ours batch")
    assert set(found) == {"celery", "ours online", "ours batch"}
    for run in found.values():
        assert run["values"]["drained_per_s"] > 0
        assert run["values"]["submit_per_s"] > 0
        assert len(run["samples"]["latency_s"]) == 10
        assert all(0 < latency_s < 30 for latency_s in run["samples"]["latency_s"])


def test_an_injected_cost_is_paid(tmp_path: Path) -> None:
    """Encoding and storing go through what the benchmark slows down, or it fails."""
    found = bench(tmp_path, "busy", "--systems", "ours batch", "--jobs", "8")
    assert 0 < found["ours batch"]["values"]["busy"] <= 1
