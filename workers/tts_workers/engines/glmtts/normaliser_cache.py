"""The grammars of the checkout's text normaliser, built once and kept.

WeTextProcessing compiles its rules into automata: half a minute and gigabytes of memory. The
checkout has it do so at every start, as what the package keeps beside itself may have been built
with other options. Here each set of options has a folder of its own, which appears whole: so it can
be trusted, and a restart takes seconds.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import logging
import os
import shutil
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

from tts_tasks.errors import EngineLoadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)

#: Names of the package that the grammars come from.
_DISTRIBUTION = "WeTextProcessing"
_LONGEST_BUILD_S = 1800.0
_SAID_CHARS = 500


def cached(normaliser: Callable[..., Any], directory: Path, home: Path) -> Callable[..., Any]:
    """Return what makes the same normaliser from a kept folder, which it builds if need be.

    ``normaliser`` is a class such as ``tn.chinese.normalizer.Normalizer``.
    """

    def make(**options: Any) -> Any:
        options = {k: v for k, v in options.items() if k not in {"cache_dir", "overwrite_cache"}}
        folder = _folder_of(normaliser, options, directory)
        if not folder.is_dir():
            _build_once(normaliser, options, folder, home)
        return normaliser(cache_dir=str(folder), overwrite_cache=False, **options)

    return make


def package_version() -> str:
    """Return the installed version of the package; empty where there is none."""
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return ""


def _folder_of(normaliser: Callable[..., Any], options: dict[str, Any], directory: Path) -> Path:
    what = [package_version(), normaliser.__module__, sorted(options.items())]
    return directory / f"normaliser-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}"


def _build_once(
    normaliser: Callable[..., Any], options: dict[str, Any], folder: Path, home: Path
) -> None:
    """Build in a process of its own, so that its memory goes with it; one at a time a host."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return  # another worker has built it meanwhile
        logger.info("building the grammars of the text normaliser, once: up to a minute")
        half_built = folder.with_suffix(".building")
        shutil.rmtree(half_built, ignore_errors=True)
        what = {"module": normaliser.__module__, "options": options, "folder": str(half_built)}
        done = _built(json.dumps(what), home, folder)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["not a word"])[-1][:_SAID_CHARS]
            raise EngineLoadError(
                "the text normaliser's grammars could not be built (it takes 7 GB of memory):"
                f" exit status {done.returncode}, {said}"
            )
        half_built.rename(folder)


def _built(what: str, home: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            # -P: not the working directory, which is the checkout's
            [sys.executable, "-P", "-m", __name__, what],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([*_import_path(), str(home)])},
            check=False,
            capture_output=True,
            text=True,
            timeout=_LONGEST_BUILD_S,
        )
    except subprocess.TimeoutExpired:
        raise EngineLoadError(
            f"the text normaliser's grammars could not be built: {folder} was not done within"
            f" {_LONGEST_BUILD_S:g} s, where half a minute is usual. Is the machine short of memory"
            " (it takes 7 GB)? Build them elsewhere (python -m tts_workers.engines.glmtts), and"
            f" copy {folder.parent}"
        ) from None


def _import_path() -> list[str]:
    return [entry for entry in sys.path if entry]


def main() -> None:
    """Build what the argument says."""
    what = json.loads(sys.argv[1])
    normaliser = importlib.import_module(what["module"]).Normalizer
    normaliser(cache_dir=what["folder"], overwrite_cache=True, **what["options"])


if __name__ == "__main__":
    main()
