"""The record of a benchmark: one JSON file with every run and what it ran on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.figures import Plan, Row, Run

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_PACKAGES = (
    "tts-tasks",
    "celery",
    "kombu",
    "redis",
    "hiredis",
    "rq",
    "dramatiq",
    "arq",
    "taskiq",
    "taskiq-redis",
)


def environment() -> dict[str, Any]:
    """Return what figures depend on and a reader cannot see: versions, commit, cores, load."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "changed_since_commit": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "nice": os.nice(0),
        "versions": {
            "python": platform.python_version(),
            **{name: version for name in _PACKAGES if (version := _version(name))},
        },
    }


def document(
    plan: Plan,
    runs: Sequence[Run],
    rows: Sequence[Row],
    *,
    parameters: Mapping[str, Any],
    measured_on: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the whole record as plain values. Values are in SI units: s, bytes, 1/s."""
    return {
        "benchmark": plan.name,
        "title": plan.title,
        **measured_on,
        "parameters": dict(parameters),
        "baselines": {str(row.case): str(plan.baseline(row.case)) for row in rows},
        "summary": [row.to_json() for row in rows],
        "runs": [run.to_json() for run in runs],
    }


def write(path: Path, told: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all; each run is a line, so that two can be compared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".json.part")
    fields = ",\n".join(f"{json.dumps(name)}: {_lines(value)}" for name, value in told.items())
    draft.write_text(f"{{\n{fields}\n}}\n", encoding="utf-8")
    draft.replace(path)


def _lines(value: Any) -> str:
    """Return JSON with a line for each item of a list."""
    if not isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    items = ",\n ".join(json.dumps(item, ensure_ascii=False) for item in value)
    return f"[\n {items}\n]"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Return what git says; None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
