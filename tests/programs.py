"""System programs that tests need: absent, a loud skip on a laptop and a failure in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def need_program(name: str, hint: str) -> str:
    """Return the program's path; without it skip the test, or fail it where CI is set."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is not None:
        return found
    message = f"the program {name} is missing: {hint}"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(message)
    pytest.skip(message)
