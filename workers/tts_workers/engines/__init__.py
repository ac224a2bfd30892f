"""Engines, found by the entry-point group ``tts_tasks.engines``.

Whoever writes an engine declares it in the ``pyproject.toml`` of the package it comes in::

    [project.entry-points."tts_tasks.engines"]
    mine = "my_package.engine:MyEngine"

and runs `tts_workers.testing.engine_contract` on it.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final

from tts_tasks.errors import ConfigurationError

if TYPE_CHECKING:
    from tts_workers.engines.base import Engine

ENTRY_POINT_GROUP: Final = "tts_tasks.engines"

#: Names of engines that never use a GPU, known without importing them.
CPU_ENTRY_POINT_GROUP: Final = "tts_tasks.cpu_engines"

__all__ = [
    "CPU_ENTRY_POINT_GROUP",
    "ENTRY_POINT_GROUP",
    "check_installed",
    "engine_names",
    "load_engine",
    "runs_on_cpu_only",
]


def engine_names() -> tuple[str, ...]:
    """Return the names of the engines that installed packages declare, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}))


def runs_on_cpu_only(name: str) -> bool:
    """Whether an engine declares that it never uses a GPU."""
    return bool(entry_points(group=CPU_ENTRY_POINT_GROUP, name=name))


def check_installed(name: str) -> None:
    """Raise `ConfigurationError`, with the names there are, unless a package declares this one."""
    if name not in engine_names():
        installed = ", ".join(engine_names()) or "none (is tts-tasks itself installed?)"
        raise ConfigurationError(f"there is no engine {name!r}; installed are: {installed}")


def load_engine(name: str) -> Engine:
    """Return a new engine by name, not yet loaded onto a device.

    Raises `ConfigurationError` when no package or more than one declares the name, when the code
    cannot be imported, and when what it makes is not an engine.
    """
    check_installed(name)
    found = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if len({entry.value for entry in found}) > 1:
        origins = " and ".join(f"{_package(entry)} ({entry.value})" for entry in found)
        raise ConfigurationError(
            f"the engine name {name!r} is declared by {origins}: uninstall one of them"
        )
    entry = found[0]
    try:
        factory = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"the engine {name!r} ({entry.value}) cannot be imported: {error}; {_remedy(entry)}"
        ) from error
    engine: Engine = factory()
    _check_is_engine(engine, entry)
    return engine


def _check_is_engine(engine: object, entry: EntryPoint) -> None:
    from tts_workers.engines.base import Engine

    if not isinstance(engine, Engine):
        raise ConfigurationError(
            f"what {entry.value} makes for the engine {entry.name!r} is not a"
            " tts_workers.engines.base.Engine: see which of its methods is missing"
        )


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unnamed package"


def _remedy(entry: EntryPoint) -> str:
    """Say what to install: the package's extra of the engine's name, or else its worker extra."""
    extras = (entry.dist.metadata.get_all("Provides-Extra") if entry.dist else None) or []
    names = (entry.name, entry.name.replace("_", "-"), "worker")
    extra = next((extra for extra in names if extra in extras), None)
    wanted = f"{_package(entry)}[{extra}]" if extra else f"{_package(entry)} and what it needs"
    return f"pip install '{wanted}'"
