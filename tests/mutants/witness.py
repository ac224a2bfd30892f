"""Pytest plugin: writes down what a run of the mutated copy showed, for whoever started it.

It also proves which tree ran: the modules of the project that were imported, by their files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

#: Names the file that is written.
VARIABLE = "MUTANT_WITNESS"
PACKAGES = ("tts_tasks", "tts_workers", "tts_gateway", "ttsctl", "tests")

_first_failure: dict[str, str] = {}


def _take_down(id_: str, when: str, report: Any) -> None:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message) if crash else report.longreprtext
    _first_failure.update(id=id_, when=when, message=text[:2000])


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Take down a file that cannot be collected."""
    if report.failed and not _first_failure:
        _take_down(report.nodeid, "collection", report)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take down the first test that fails, and in which phase."""
    if report.failed and not _first_failure:
        _take_down(report.nodeid, str(report.when), report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write it."""
    files = [
        str(module.__file__)
        for name, module in sys.modules.items()
        if name.partition(".")[0] in PACKAGES and getattr(module, "__file__", None)
    ]
    answer = {
        "failure": dict(_first_failure),
        "collected": session.testscollected,
        "imported": len(files),
        "foreign": [
            file for file in files if not Path(file).is_relative_to(session.config.rootpath)
        ],
    }
    Path(os.environ[VARIABLE]).write_text(json.dumps(answer), encoding="utf-8")
