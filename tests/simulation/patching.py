"""Puts virtual time, virtual threads and the in-memory stores in the place of the real ones.

The product's modules are run as they are; only names that they import are replaced, for as long
as a run lasts.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any
from unittest import mock

from tests.simulation.virtual_threading import (
    InlineExecutor,
    VirtualRandom,
    VirtualSecrets,
    VirtualThreading,
    VirtualTime,
)
from tts_tasks.batches.window import Window
from tts_tasks.routing import Router
from tts_workers.shift import Shift

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.world import World

_MODULES = [
    import_module(name if "." in name else f"tts_workers.{name}")
    for name in (
        "tts_tasks.batches.manifest",
        "tts_tasks.batches.submission",
        "tts_tasks.storage.staging",
        "agent",
        "batch_runner",
        "child",
        "child_watch",
        "chores",
        "decision",
        "engine_host",
        "insisting",
        "job_runner",
        "leadership",
        "lease_keeper",
        "observer",
        "pace",
        "pipeline",
        "recovery",
        "rendering",
        "shift",
        "shift_ending",
        "shift_stages",
        "step_budgets",
        "watchdog",
        "workbench",
    )
]


@contextmanager
def patched(world: World) -> Iterator[None]:
    """Run the product's worker in this world."""
    runtime = world.runtime
    stand_ins: dict[str, Any] = {
        "threading": VirtualThreading(runtime),
        "time": VirtualTime(runtime),
        "secrets": VirtualSecrets(runtime),
        "SystemRandom": VirtualRandom(runtime),
        "ThreadPoolExecutor": InlineExecutor,
        "connect": lambda *_, **__: None,
        "shared_client": lambda *_, **__: None,
        "JobLedger": lambda *_, **__: world.ledger(),
        "SegmentLog": lambda *_, **__: world.segments(),
        "OnlineWork": lambda _, lease: world.online_work(lease),
        "BatchBook": lambda *_, **__: world.book(),
        "EventLog": lambda *_, **__: world.events(),
        "event_log": lambda _: world.events(),
        "open_storage": lambda _: world.storage(),
        "router_of": lambda settings: Router(settings, world.registered),
        "load_engine": lambda _: world.engine(),
        "ring": world.ring,
        "ring_for_work": world.ring_for_work,
        "CHUNK_LINES": world.sizes.chunk_lines,
        "Window": partial(Window, **world.sizes.window),
        "Shift": partial(Shift, limits=world.sizes.limits),
        "GLANCES_PER_TICK": world.glances_per_tick,
        # these heal what is rare, and take their time: less of it than a run lasts
        "_SWEEP_S": 20.0,
        "_LINES_EVERY_S": 10.0,
    }
    with ExitStack() as stack:
        for module in _MODULES:
            for name, stand_in in stand_ins.items():
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, stand_in))
        yield
