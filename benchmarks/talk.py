"""A process that does what it is asked, one line of JSON at a time: clients apart from us.

Its standard output carries the answers and nothing else; it ends when its input does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType


class PeerError(Exception):
    """What was asked for went wrong in the other process."""


class Peer:
    """The asking side: starts ``python -m MODULE ARGUMENTS`` and ends it."""

    def __init__(
        self, module: str, *arguments: str, environment: Mapping[str, str], log_path: Path
    ) -> None:
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._name = module
        self._log_path = log_path

    def ask(self, what: str, **arguments: Any) -> Any:
        """Return the answer; raises `PeerError` with the other side's words."""
        self.say(what, **arguments)
        return self.hear()

    def say(self, what: str, **arguments: Any) -> None:
        """Ask without waiting; each needs its `hear`."""
        stream = self._process.stdin
        assert stream is not None  # noqa: S101 - given to Popen as a pipe
        stream.write(json.dumps({"do": what, **arguments}) + "\n")
        stream.flush()

    def hear(self) -> Any:
        """Return the next answer; raises `PeerError`."""
        stream = self._process.stdout
        line = stream.readline() if stream else ""
        if not line:
            raise PeerError(f"{self._name} has ended: {self._log_path.read_text()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self._name}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # it has ended before us
                    stream.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve(operations: Mapping[str, Callable[..., Any]]) -> None:
    """Answer until the input ends; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        question = json.loads(line)
        try:
            told = {"result": operations[question.pop("do")](**question)}
        except Exception as error:  # noqa: BLE001 - told to who asked
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(told) + "\n")
        answers.flush()
