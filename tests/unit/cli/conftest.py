"""A cluster that exists only in memory, and a runner of ``ttsctl`` against it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from tts_tasks.errors import NotFoundError, UnavailableError
from tts_tasks.listening import AudioSegment
from ttsctl.__main__ import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tts_tasks.requests import SpeechRequest
    from tts_tasks.voices import VoiceVersion


@dataclass(frozen=True)
class FakeStatus:
    """A batch's status, as `tts_tasks.client` returns it."""

    batch: str = "demo"
    state: str = "running"
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    rejected: int = 0
    report: str | None = None
    output: str = "file:///srv/artifacts/demo"
    priority: float = 1.0
    waits_for: tuple[str, ...] = ()
    created_at: str = "2026-11-02T10:00:00.000Z"


@dataclass(frozen=True)
class FakeResult:
    """A job's result, as `tts_tasks.client` yields it."""

    id: str
    line: int | None
    state: str
    cursor: int
    uri: str | None = None
    sha256: str | None = None
    duration_s: float | None = None
    attempt: int | None = 1
    worker: str | None = "tts@host/1"
    error: Any = None
    subtitles: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeCluster:
    """Plays one batch, ``demo``: each job ends when it is followed.

    ``outcomes`` is one letter a line: ``s`` succeeds, ``f`` fails, ``c`` is cancelled, ``r`` is
    rejected. What is in
    ``trouble`` is raised by the function of that name; an item in ``interrupts`` is raised by
    ``follow`` in place of the result at that position, once.
    """

    outcomes: str = "sss"
    trouble: dict[str, BaseException] = field(default_factory=dict)
    interrupts: dict[int, BaseException] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    finished: int = 0
    accepted: bool = False
    report_polls: int = 0  #: how often the status of the ended batch is asked without a report
    cluster: dict[str, Any] = field(
        default_factory=lambda: {
            "lanes": [{"pool": "default", "lane": "0", "primary": "tts@a/1", "epoch": 7}],
            "workers": [
                {
                    "id": "tts@a/1", "host": "a", "pid": 11, "pool": "default", "role": "primary",
                    "ready": True, "device": "cuda:0", "heartbeat_age_s": 0.42,
                },
                {
                    "id": "tts@b/1", "host": "b", "pid": 12, "pool": "default", "role": "standby",
                    "ready": False, "device": "cuda:1", "heartbeat_age_s": 0.1,
                },
            ],
            "queues": {"tts.online.default.0": 0, "tts.batch.default": 12},
        }
    )  # fmt: skip
    happened: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    subtitles: dict[str, str] = field(default_factory=dict)  #: of every job
    voices: list[VoiceVersion] = field(default_factory=list)

    def _called(self, name: str, argument: Any = None) -> None:
        self.calls.append((name, argument))
        if name in self.trouble:
            raise self.trouble[name]

    def _known(self, batch: str) -> None:
        if batch != "demo" or not self.accepted:
            raise NotFoundError(f"no batch {batch}: see `ttsctl batch ls`")

    def _lines(self) -> Iterator[dict[str, Any]]:
        position = 0
        for number, outcome in enumerate(self.outcomes, start=1):
            line: dict[str, Any] = {"line": number, "id": f"l{number}", "attempt": None}
            if outcome == "r":
                error = {"field": "text", "reason": "nothing to speak"}
                yield {**line, "state": "rejected", "error": error}
                continue
            position += 1
            if position > self.finished:
                yield {**line, "state": "accepted"}
            elif outcome == "f":
                error = {"code": "engine", "reason": "out of memory"}
                yield {**line, "state": "failed", "error": error}
            else:
                yield {**line, "state": "succeeded", "uri": f"file:///srv/artifacts/l{number}.wav"}

    def submit_job(self, request: SpeechRequest) -> str:
        self._called("submit_job", request)
        return "default.0:job1"

    def job_cancel(self, job: str) -> None:
        self._called("job_cancel", job)

    def submit_batch(
        self,
        source: Path,
        *,
        id: str | None = None,  # noqa: A002 - the client's word
        output: str | None = None,
        priority: float = 1.0,
        wait_for_output: bool = True,
        strict: bool = False,
        audio_root: Path | None = None,
        pool: str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> FakeStatus:
        if on_progress is not None:
            on_progress(2)
        options = {"priority": priority, "wait_for_output": wait_for_output}
        options |= {"audio_root": audio_root, "pool": pool}
        self._called("submit_batch", {"id": id, "output": output, "strict": strict, **options})
        self.accepted = True
        return self.batch_status("demo")

    def batch_status(self, batch: str) -> FakeStatus:
        self._called("batch_status", batch)
        self._known(batch)
        jobs = [outcome for outcome in self.outcomes if outcome != "r"]
        ended = jobs[: self.finished]
        done = len(ended) == len(jobs)
        return FakeStatus(
            state="done" if done else "running",
            total=len(self.outcomes),
            succeeded=ended.count("s"),
            failed=ended.count("f"),
            cancelled=ended.count("c"),
            rejected=self.outcomes.count("r"),
            report=self._report_uri() if done else None,
        )

    def _report_uri(self) -> str | None:
        self.report_polls -= 1
        return None if self.report_polls >= 0 else "file:///srv/artifacts/demo/report.jsonl"

    def batch_list(self) -> list[FakeStatus]:
        self._called("batch_list")
        return [replace(FakeStatus(), batch=name, total=3) for name in ("demo", "older")]

    def batch_errors(self, batch: str) -> Iterator[dict[str, Any]]:
        self._called("batch_errors", batch)
        return (line for line in self._lines() if line["state"] in ("rejected", "failed"))

    def batch_rejected(self, batch: str) -> Iterator[dict[str, Any]]:
        self._called("batch_rejected", batch)
        return (line for line in self._lines() if line["state"] == "rejected")

    def batch_cancel(self, batch: str) -> FakeStatus:
        self._called("batch_cancel", batch)
        self._known(batch)
        return replace(self.batch_status(batch), state="cancelled")

    def batch_retry(self, batch: str) -> int:
        self._called("batch_retry", batch)
        self._known(batch)
        return self.outcomes.count("f")

    def batch_resume(self, batch: str) -> int:
        self._called("batch_resume", batch)
        self._known(batch)
        return self.outcomes.count("c")

    def batch_remove(self, batch: str) -> None:
        self._called("batch_remove", batch)
        self._known(batch)

    def follow(
        self, batch_or_job: str, *, after: int = 0, timeout_s: float | None = None
    ) -> Iterator[FakeResult]:
        self._called("follow", {"of": batch_or_job, "after": after, "timeout_s": timeout_s})
        jobs = [(n, o) for n, o in enumerate(self.outcomes, start=1) if o != "r"]
        for position, (number, outcome) in enumerate(jobs, start=1):
            if position <= after:
                continue
            if position in self.interrupts:
                raise self.interrupts.pop(position)
            self.finished = max(self.finished, position)
            yield self._result(number, outcome, position)

    def _result(self, number: int, outcome: str, cursor: int) -> FakeResult:
        if outcome == "f":
            error = {"code": "engine", "reason": "out of memory"}
            return FakeResult(f"l{number}", number, "failed", cursor, error=error)
        if outcome == "c":
            return FakeResult(f"l{number}", number, "cancelled", cursor)
        uri = f"file:///srv/artifacts/l{number}.wav"
        return FakeResult(
            f"l{number}", number, "succeeded", cursor, uri=uri, sha256="ab", duration_s=2.5,
            subtitles=self.subtitles,
        )  # fmt: skip

    def follow_audio(
        self, job: str, *, after: int = 0, timeout_s: float | None = None
    ) -> Iterator[AudioSegment]:
        self._called("follow_audio", {"of": job, "after": after, "timeout_s": timeout_s})
        yield AudioSegment(1, 1, b"\0\0", 8000)

    def report(self, batch: str) -> Iterator[dict[str, Any]]:
        self._called("report", batch)
        return self._lines()

    def fetch(self, batch: str, to: Path) -> Iterator[Path]:
        self._called("fetch", (batch, to))
        for position in range(self.finished):
            yield to / f"l{position + 1}.wav"

    def cluster_status(self) -> dict[str, Any]:
        self._called("cluster_status")
        return self.cluster

    def switchover(
        self,
        lane: str | None = None,
        *,
        to: str | None = None,
        reason: str,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        given = {"lane": lane, "to": to, "reason": reason, "timeout_s": timeout_s}
        self._called("switchover", given)
        return {
            "lane": lane or "default.0", "from": "tts@a/1", "to": "tts@b/1", "epoch": 8,
            "took_s": 0.012,
        }  # fmt: skip

    def drain(self, worker: str, *, reason: str) -> dict[str, Any]:
        self._called("drain", {"worker": worker, "reason": reason})
        return {"worker": "tts@a/1", "draining": True, "reason": reason}

    def undrain(self, worker: str) -> dict[str, Any]:
        self._called("undrain", worker)
        return {"worker": "tts@a/1", "draining": False, "reason": ""}

    def events(
        self, *, follow: bool = False, since_s: float | None = None
    ) -> Iterator[dict[str, Any]]:
        self._called("events", {"follow": follow, "since_s": since_s})
        yield from self.happened
        if follow:
            raise KeyboardInterrupt

    def voice_add(
        self, name: str, audio: Path, *, text: str, consent: str | None = None
    ) -> VoiceVersion:
        self._called("voice_add", (name, audio, text, consent))
        return self.voices[0]

    def voice_list(self) -> list[VoiceVersion]:
        self._called("voice_list")
        return self.voices

    def voice_versions(self, name: str) -> list[VoiceVersion]:
        self._called("voice_versions", name)
        newest = self.voices[0]
        return [replace(newest, version=n) for n in range(newest.version, 0, -1)]

    def voice_remove(self, name: str, *, force: bool = False) -> list[VoiceVersion]:
        self._called("voice_remove", (name, force))
        return self.voices

    def read_artifact(self, uri_or_name: str) -> bytes:
        self._called("read_artifact", uri_or_name)
        return self.artifacts[uri_or_name]


@pytest.fixture
def cluster() -> FakeCluster:
    """Return the cluster that `ttsctl` talks to."""
    return FakeCluster()


@pytest.fixture
def ttsctl(cluster: FakeCluster) -> Callable[..., Result]:
    """Return a function that runs ``ttsctl ARGS...`` against the fake cluster."""

    def run(*args: str, stdin: str | bytes | None = None, **extra: Any) -> Result:
        return CliRunner().invoke(cli, args, obj=cluster, input=stdin, **extra)

    return run


@pytest.fixture
def batch_file(tmp_path: Path) -> Path:
    """Return a batch file; what is in it is the fake cluster's affair."""
    path = tmp_path / "demo.jsonl"
    path.write_text('{"text": "hello"}\n', encoding="utf-8")
    return path


@pytest.fixture
def told() -> Callable[[Result], list[dict[str, Any]]]:
    """Return a function that reads the JSON events which a run wrote to stderr."""

    def read(result: Result) -> list[dict[str, Any]]:
        lines = [line for line in result.stderr.splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]

    return read


@pytest.fixture
def no_redis() -> UnavailableError:
    """Return the error of a store that cannot be reached, password and all."""
    return UnavailableError(
        "no Redis at redis://:hunter2@127.0.0.1:6379/0 (connection refused): "
        "start one with `ttsctl up`, or set TTS_REDIS_URL"
    )
