"""The Celery tasks. They are thin: the ledger has the work, a worker plugs in what does it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery import Task

from tts_tasks import keys
from tts_tasks.app import app
from tts_tasks.doorbell import TASK_NAME, WORK_TASK_NAME
from tts_tasks.errors import (
    ConfigurationError,
    JobCancelledError,
    JobFailedError,
    RequestError,
)
from tts_tasks.ledger import JobLedger, JobMeta, Terms
from tts_tasks.pinning import pin_online
from tts_tasks.requests import SpeechRequest, parse_request
from tts_tasks.routing import Route, route_of, router_of
from tts_tasks.settings import get_settings
from tts_tasks.storage import artifact_name

if TYPE_CHECKING:
    from celery.result import AsyncResult, EagerResult

#: Runs a job in the worker's child: ``(task, job id, request fields or None) -> artifact record``.
Runner = Callable[[Task, str, "dict[str, Any] | None"], dict[str, Any]]

#: Works on batches in the worker's child until there is a reason to stop.
BatchRunner = Callable[[], None]

_runner: Runner | None = None
_batch_runner: BatchRunner | None = None


def install_runners(runner: Runner, batch_runner: BatchRunner) -> None:
    """Plug in what does the work; called by the worker's child when it starts."""
    global _runner, _batch_runner
    _runner, _batch_runner = runner, batch_runner


def accept_online(
    request: SpeechRequest, task_id: str, *, route: Route | None = None, delay_s: float = 0.0
) -> int:
    """Write an online job down; returns Redis's time in ms. Accepting twice is accepting once.

    ``route``: where it goes; by default this process's own lane. Raises `AdmissionError` where
    the lane is full or its deadline cannot be met.
    """
    route = route or route_of(get_settings())
    job_id = keys.job_id_of_task(task_id, route.lane_key)
    meta = JobMeta(
        queue=route.online_queue,
        name=artifact_name(
            prefix="",
            output_name=request.output_name,
            audio_format=request.format,
            accepted_at=datetime.now(UTC),
            job_id=keys.split_job_id(job_id)[1],
        ),
        lane_key=route.lane_key,
        task_id=task_id,
    )
    settings = get_settings()
    ledger = JobLedger(settings.redis_url, replicas_acked=settings.replicas_acked)
    terms = Terms(max_waiting=settings.max_online_jobs, takeover_s=settings.silence_s)
    (accepted_ms,) = ledger.accept([(job_id, request, meta)], delay_s=delay_s, terms=terms)
    return accepted_ms or 0


class SynthesizeTask(Task):
    """A task whose message is sent after the job is in the ledger, so that it cannot get lost."""

    abstract = True

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult | EagerResult:
        """Accept and ring, where it can be served.

        Raises at once `RequestError` for a request that cannot be served, `NoPoolError` for one
        that no pool can serve, and `AdmissionError` for one that cannot be served now.
        """
        if options.get("expires") is not None:
            raise RequestError("expires", "an accepted job is spoken; say `deadline_s` instead")
        kwargs = _with_uploaded_audio(kwargs or {})
        parsed = parse_request(request_fields(args or (), kwargs))
        request = pin_online(parsed, get_settings().storage_url)
        route = route_for(request, task_id or "")
        task_id = keys.check_task_id(task_id or keys.new_job_id(route.lane_key), route.lane_key)
        if request.deadline_s is not None and _delay_s(options):
            raise RequestError(
                "deadline_s", "counts from now on; it has no place beside `countdown` and `eta`"
            )
        kwargs = {**kwargs, **_changes(parsed, request)}
        rung_ms = accept_online(request, task_id, route=route, delay_s=_delay_s(options))
        options.setdefault("queue", route.online_queue)
        headers = {"rung_ms": rung_ms, **(options.pop("headers", None) or {})}
        return super().apply_async(args, kwargs, task_id=task_id, headers=headers, **options)


def route_for(request: SpeechRequest, task_id: str = "") -> Route:
    """Return where a pinned request goes; raises `NoPoolError` where nobody can serve it.

    ``task_id``: the one that its caller has chosen. A job of that name stays where it is, so that
    accepting twice is accepting once whoever has joined or left in between.
    """
    settings = get_settings()
    router = router_of(settings)
    if ":" in task_id:
        return router.route(request, task_id)
    routes = router.routes() if task_id else []
    if len(routes) > 1:
        ids = [keys.job_id_of_task(task_id, route.lane_key) for route in routes]
        jobs = JobLedger(settings.redis_url).get_many(ids)
        there = next((route for route, job in zip(routes, jobs, strict=True) if job), None)
        if there is not None:
            return there
    return router.route(request)


def _with_uploaded_audio(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Bring reference audio that the caller has, or names, into storage; a message holds none."""
    audio = kwargs.get("prompt_audio")
    if not isinstance(audio, bytes | os.PathLike):
        return kwargs
    from tts_tasks.voices.operations import upload_reference

    text = kwargs.get("prompt_text")
    known = text if isinstance(text, str) else None  # else it is refused as it is
    return {**kwargs, "prompt_audio": upload_reference(audio, text=known)}


def _changes(parsed: SpeechRequest, pinned: SpeechRequest) -> dict[str, Any]:
    """Return the fields that pinning has changed: the message carries what the ledger has."""
    if pinned is parsed:
        return {}
    before, fields = parsed.model_dump(mode="json"), pinned.model_dump(mode="json")
    return {name: value for name, value in fields.items() if value != before[name]}


def _delay_s(options: Mapping[str, Any]) -> float:
    """Return how much later than now Celery will run a call with these options, in seconds."""
    countdown, eta = options.get("countdown"), options.get("eta")
    if countdown is not None:
        return max(0.0, float(countdown))
    if isinstance(eta, str):
        eta = datetime.fromisoformat(eta)
    if eta is None:
        return 0.0
    due: datetime = eta if eta.tzinfo else eta.replace(tzinfo=UTC)
    return max(0.0, (due - datetime.now(UTC)).total_seconds())


def request_fields(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request fields of a call ``synthesize(text, **fields)``."""
    fields = dict(kwargs)
    if len(args) > 1:
        raise RequestError("arguments", "only the text is positional; name the others")
    if args:
        fields["text"] = args[0]
    return fields


@app.task(
    base=SynthesizeTask,
    bind=True,
    name=TASK_NAME,
    throws=(JobCancelledError, JobFailedError, RequestError),
)
def synthesize(self: Task, text: str | None = None, **fields: Any) -> dict[str, Any]:
    """Speak ``text``; returns the artifact's record (``uri``, ``sha256``, ``duration_s`` …).

    ``synthesize.delay("你好", voice="zh", format="mp3").get()``. The fields are those of
    `tts_tasks.requests.SpeechRequest`. Raises `JobFailedError` and `JobCancelledError` from
    ``get()``.
    """
    if _runner is None:
        raise _no_engine()
    job_id = keys.job_id_of_task(self.request.id, route_of(get_settings()).lane_key)
    given = None if text is None else {"text": text, **fields}
    return _runner(self, job_id, given)


@app.task(name=WORK_TASK_NAME, ignore_result=True)
def work() -> None:
    """Work on lines of batches, for as long as there are any: the message only rings for them."""
    if _batch_runner is None:
        raise _no_engine()
    _batch_runner()


def _no_engine() -> ConfigurationError:
    return ConfigurationError(
        "no engine in this process: jobs run in a worker (celery -A tts_tasks worker)"
    )
