"""The Celery tasks. They are thin: the ledger has the work, a worker plugs in what does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery import Task

from tts_tasks import keys
from tts_tasks.app import app
from tts_tasks.doorbell import TASK_NAME, WORK_TASK_NAME
from tts_tasks.errors import ConfigurationError, JobFailedError, RequestError
from tts_tasks.ledger import JobLedger, JobMeta, Terms
from tts_tasks.requests import SpeechRequest, parse_request
from tts_tasks.routing import route_of
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


def accept_online(request: SpeechRequest, task_id: str, *, delay_s: float = 0.0) -> int:
    """Write an online job down; returns Redis's time in ms. Accepting twice is accepting once.

    Raises `AdmissionError` where its lane is full or its deadline cannot be met.
    """
    route = route_of(get_settings())
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
        """Accept and ring.

        Raises at once `RequestError` for a request that cannot be served, and `AdmissionError` for
        one that cannot be served now.
        """
        route = route_of(get_settings())
        task_id = keys.check_task_id(task_id or keys.new_job_id(route.lane_key), route.lane_key)
        if options.get("expires") is not None:
            raise RequestError("expires", "an accepted job is spoken; say `deadline_s` instead")
        request = parse_request(request_fields(args or (), kwargs or {}))
        if request.deadline_s is not None and _delay_s(options):
            raise RequestError(
                "deadline_s", "counts from now on; it has no place beside `countdown` and `eta`"
            )
        rung_ms = accept_online(request, task_id, delay_s=_delay_s(options))
        options.setdefault("queue", route.online_queue)
        headers = {"rung_ms": rung_ms, **(options.pop("headers", None) or {})}
        return super().apply_async(args, kwargs, task_id=task_id, headers=headers, **options)


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
    throws=(JobFailedError, RequestError),
)
def synthesize(self: Task, text: str | None = None, **fields: Any) -> dict[str, Any]:
    """Speak ``text``; returns the artifact's record (``uri``, ``sha256``, ``duration_s`` …).

    ``synthesize.delay("你好", voice="zh", format="mp3").get()``. The fields are those of
    `tts_tasks.requests.SpeechRequest`. Raises `JobFailedError` from ``get()``.
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
