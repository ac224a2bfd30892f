"""The work that is given to the cluster, and what is known of each piece: never more than that.

A submission that ends in an error has an unknown outcome: the job may have been accepted. An
online one is not repeated. A batch is submitted again under its id until that succeeds, as its
documentation says.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import redis
from celery.exceptions import CeleryError
from kombu.exceptions import KombuError

from tests.chaos.world import HANG_MARK
from tts_tasks import client, keys, synthesize
from tts_tasks.errors import TTSError
from tts_tasks.requests import SpeechRequest
from tts_tasks.routing import route_of
from tts_tasks.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.recorder import Recorder

SHORT = ("请到窗口办理。", "今天的天气很好。", "各位旅客请注意。", "The doors are closing.")
_LINE = "这是一段比较长的通知，请大家注意听。"
SEVERAL = (_LINE * 3, _LINE * 5, "The first part is short. The second part is longer. Good bye.")
#: More than four seconds of work: a worker that speaks it can be caught in the middle, and still
#: has something to say three beats later.
LONG = _LINE * 10
#: 8 kHz, so that an hour of chaos fits into memory.
SAMPLE_RATE_HZ = 8000

_SEVERAL_SHARE = 0.2
_ONLINE_EVERY_S = 1.2
_BATCH_EVERY_S = 6.0
_BATCH_LINES = 12
_RETRY_S = 0.5

#: What a call may end in without saying whether it was accepted.
UNKNOWN = (TTSError, CeleryError, KombuError, redis.RedisError, OSError)


class Load:
    """Submits online and batch jobs from two threads, at random but seeded intervals."""

    def __init__(self, recorder: Recorder, *, seed: int) -> None:
        self._recorder = recorder
        self._stopping = threading.Event()
        self._retries_end = threading.Event()
        self._seed = seed
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin."""
        for name, work in (("online", self._online), ("batch", self._batches)):
            rng = random.Random(f"{self._seed} {name}")
            thread = threading.Thread(target=work, args=(rng,), name=f"load-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, *, within_s: float) -> None:
        """Submit nothing new; a batch that is half submitted is completed first."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(within_s)
        self._retries_end.set()

    def submit_long(self, text: str = LONG) -> str:
        """Submit one long online job and return its id; raises one of `UNKNOWN`."""
        job = keys.new_job_id(route_of(get_settings()).lane_key)
        self._submit("task_id", text, lambda: _with_id(text, job), job=job, reraise=True)
        return job

    def submit_burst(self, jobs: int = 8) -> None:
        """Submit short online jobs at once, so that something ends in the next seconds."""
        for text in itertools.islice(itertools.cycle(SHORT), jobs):
            job = keys.new_job_id(route_of(get_settings()).lane_key)
            self._submit("task_id", text, lambda text=text, job=job: _with_id(text, job), job=job)  # type: ignore[misc]

    def submit_hang(self) -> str:
        """Submit the job that makes an engine hang once, if the fault is armed."""
        return self.submit_long(f"{HANG_MARK}了，请稍候。")

    def _online(self, rng: random.Random) -> None:
        ways = ("delay", "submit_job", "task_id")
        while not self._stopping.wait(rng.expovariate(1 / _ONLINE_EVERY_S)):
            text = _text(rng)
            way = rng.choice(ways)
            job = keys.new_job_id(route_of(get_settings()).lane_key) if way == "task_id" else None
            calls: dict[str, Callable[[], str]] = {
                "delay": lambda text=text: synthesize.delay(text, sample_rate=SAMPLE_RATE_HZ).id,  # type: ignore[misc]
                "submit_job": lambda text=text: client.submit_job(  # type: ignore[misc]
                    SpeechRequest(text=text, sample_rate=SAMPLE_RATE_HZ)
                ),
                "task_id": lambda text=text, job=job: _with_id(text, job),  # type: ignore[misc]
            }
            self._submit(way, text, calls[way], job=job)

    def _submit(
        self,
        way: str,
        text: str,
        call: Callable[[], str],
        *,
        job: str | None,
        reraise: bool = False,
    ) -> None:
        fields: dict[str, Any] = {"way": way, "text": text}
        started_s = time.monotonic()
        try:
            job = str(call())
        except UNKNOWN as error:
            why = f"{type(error).__name__}: {error}"
            self._recorder.record("submitted", job=job, outcome="unknown", error=why, **fields)
            if reraise:
                raise
            return
        took_s = round(time.monotonic() - started_s, 3)
        self._recorder.record("submitted", job=job, outcome="accepted", took_s=took_s, **fields)

    def _batches(self, rng: random.Random) -> None:
        number = 0
        while not self._stopping.wait(rng.uniform(0.5, 1.5) * _BATCH_EVERY_S if number else 0):
            number += 1
            texts = [_text(rng) for _ in range(_BATCH_LINES)]
            self._submit_batch(f"batch-{number}", texts)

    def _submit_batch(self, batch: str, texts: list[str]) -> None:
        lines = [
            {"id": f"n{n}", "text": text, "sample_rate": SAMPLE_RATE_HZ}
            for n, text in enumerate(texts, start=1)
        ]
        while not self._retries_end.is_set():
            try:
                client.submit_batch(lines, id=batch)
            except UNKNOWN as error:
                why = f"{type(error).__name__}: {error}"
                self._recorder.record("batch_submitted", batch=batch, outcome="unknown", error=why)
                self._retries_end.wait(_RETRY_S)
            else:
                self._recorder.record("batch_submitted", batch=batch, outcome="accepted")
                break
        else:
            return
        for line, text in enumerate(texts, start=1):
            job = keys.batch_job_id(batch, line)
            self._recorder.record(
                "submitted", job=job, outcome="accepted", way="batch", batch=batch, text=text
            )


def _text(rng: random.Random) -> str:
    return rng.choice(SEVERAL if rng.random() < _SEVERAL_SHARE else SHORT)


def _with_id(text: str, job: str | None) -> str:
    return str(synthesize.apply_async((text,), {"sample_rate": SAMPLE_RATE_HZ}, task_id=job).id)
