"""This project's own cluster in a room: workers, and a client in a process of its own."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from benchmarks import engine
from benchmarks.rooms import Program, Room
from benchmarks.spans import Span, Spans
from benchmarks.talk import Peer

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_READY_S = 120.0


class Cluster:
    """Workers with the silent engine; see `engine.environment` for ``speak_s`` and ``chars``."""

    def __init__(
        self, name: str, *, speak_s: float = 0.0, chars: int = 1, **environment: str
    ) -> None:
        self._stack = ExitStack()
        self._name = name
        self._speak_s, self._chars = speak_s, chars
        self._environment = environment

    def __enter__(self) -> Self:
        self.room = self._stack.enter_context(Room(self._name))
        try:
            directory = self.room.directory
            engine.install(directory)
            self.room.environment |= {
                "TTS_HOME": str(directory / "home"),
                "TTS_REDIS_URL": self.room.server.url,
                "BENCH_COSTS": str(directory / "costs"),
                # a backlog is what is measured: a lane that refuses it when it is long would not do
                "TTS_MAX_ONLINE_JOBS": "0",
                **engine.environment(directory, speak_s=self._speak_s, chars=self._chars),
                **self._environment,
            }
            self._spans = Spans(directory / "spans")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @cached_property
    def client(self) -> Peer:
        """The first client, started when it is first needed."""
        return self.new_client()

    def new_client(self, **environment: str) -> Peer:
        """Start one more client; returns when it is ready to be asked."""
        client = self._stack.enter_context(
            Peer(
                "benchmarks.our_client",
                environment=self.room.full_environment(**environment),
                log_path=self.room.directory / "client.log",
            )
        )
        client.ask("workers")  # its imports and its connection are no part of what is measured
        return client

    def start_worker(self, name: str, **environment: str) -> Program:
        """Start one worker, as its documentation says."""
        return self.room.start(
            name,
            *("celery", "-A", "tts_tasks", "worker", "-n", f"{name}@bench"),
            *("--loglevel", "WARNING"),
            **environment,
        )

    def start_workers(self, count: int) -> list[Program]:
        """Start workers and wait until each is ready."""
        programs = [self.start_worker(f"w{number}") for number in range(1, count + 1)]
        self.wait_until_ready(count)
        return programs

    def wait_until_ready(self, count: int) -> None:
        """Wait until so many workers are ready."""
        self.room.wait(
            lambda: sum(w["ready"] for w in self.client.ask("workers")) >= count,
            _READY_S,
            f"{count} workers are ready",
        )

    def spans(self) -> list[Span]:
        """Return what the engines have spoken so far."""
        return self._spans.read()

    def wait_for_spans(self, count: int, within_s: float) -> list[Span]:
        """Wait until so many segments were spoken."""
        self.room.wait(lambda: len(self.spans()) >= count, within_s, f"{count} segments are spoken")
        return self.spans()

    def wait_until_done(self, batch: str, within_s: float) -> dict[str, Any]:
        """Wait until a batch is done, its report written; returns its status."""
        found: dict[str, Any] = {}

        def is_done() -> bool:
            found.update(self.client.ask("status", id=batch) or {})
            return found.get("state") == "done"

        self.room.wait(is_done, within_s, f"{batch} is done ({found})")
        if found["succeeded"] != found["total"]:
            raise ValueError(f"{batch}: {found}")
        return found


def write_batch(path: Path, lines: int, text: str) -> Path:
    """Write a batch of lines that differ in their ids only."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(1, lines + 1):
            line = {"id": f"line-{number:07d}", "text": text}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path


def text_of(chars: int, sentences: int = 1) -> str:
    """Return sentences of so many characters each, their full stops included."""
    return ("好" * (chars - 1) + "。") * sentences
