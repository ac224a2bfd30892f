"""Starts the speech server of the tests, tells it what to do wrong, and ends it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from tests.waiting import eventually
from tts_workers.engines.openai_http.server import free_port
from tts_workers.engines.openai_http.settings import OpenAIHttpSettings

if TYPE_CHECKING:
    from types import TracebackType

PROGRAM = Path(__file__).with_name("speech_server.py")


def command(faults: Path | None = None, *options: str) -> str:
    """Return a command line for the engine to start it with, on the port that it chooses."""
    parts = [sys.executable, str(PROGRAM), "--port", "{port}", *options]
    return " ".join(parts + (["--faults", str(faults)] if faults else []))


def settings(url: str, **fields: Any) -> OpenAIHttpSettings:
    """Return settings with short times."""
    return OpenAIHttpSettings(**{"url": url, "ready_s": 20.0, "timeout_s": 2.0} | fields)


class Faults:
    """A folder of faults, each for one request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._numbers = itertools.count(1)

    def next(self, *faults: str) -> None:
        """Have the next requests for speech go wrong, one each."""
        for fault in faults:
            (self.folder / f"{next(self._numbers):04}").write_text(fault)

    @property
    def left(self) -> int:
        """How many are still to come."""
        return sum(not path.name.startswith(".") for path in self.folder.iterdir())


class SpeechServer:
    """A running server that the engine does not own; a context manager."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.faults = Faults(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._options = options
        self.start()

    def start(self) -> None:
        """Start it, also again on the same port."""
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(PROGRAM),
                "--port",
                str(self.port),
                "--faults",
                str(self.faults.folder),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self.seen, every_s=0.02, what="the server listens")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()

    def seen(self) -> dict[str, Any]:
        """What it has been asked; empty while it does not listen."""
        with suppress(httpx.TransportError):
            told: dict[str, Any] = httpx.get(
                f"http://127.0.0.1:{self.port}/seen", timeout=5, trust_env=False
            ).json()
            return told
        return {}

    @property
    def texts(self) -> list[str]:
        """The texts that it was asked for, in order."""
        return [request["input"] for request in self.seen()["requests"]]
