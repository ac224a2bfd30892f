"""Makes a Celery worker a member of the cluster. Named by the app's ``imports``.

A plain ``celery -A tts_tasks worker`` is all it takes: the steps below pin the device, start the
agent before the pool, tell the consumer which queues to serve, and load the engine in the child.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import socket
import threading
from typing import TYPE_CHECKING, Any

from celery import bootsteps, signals
from celery.worker.control import inspect_command
from click import UsageError
from pydantic import ValidationError

from tts_tasks.app import app
from tts_tasks.clock import boottime_s
from tts_tasks.coordination.base import WorkerRecord
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.errors import ConfigurationError
from tts_tasks.events import EventLog, utc_now
from tts_tasks.ledger import JobLedger
from tts_tasks.redis_connection import connect
from tts_tasks.routing import route_of
from tts_tasks.settings import get_settings
from tts_workers import link
from tts_workers.agent import Agent
from tts_workers.child_traces import ChildTraces, stderr_address
from tts_workers.connection import ChildExits, HeldMessages
from tts_workers.engines import engine_names, runs_on_cpu_only
from tts_workers.gpu import Device, NvidiaSmiInventory, choose_device, pin
from tts_workers.gpu_health import GpuSettings
from tts_workers.gpu_locks import GpuLocks
from tts_workers.gpu_monitors import monitor_of
from tts_workers.gpu_watch import GpuWatch
from tts_workers.notices import Notices
from tts_workers.recovery import Recovery, unacked_keys

if TYPE_CHECKING:
    from celery.apps.worker import Worker

    from tts_workers.leadership import Role

logger = logging.getLogger(__name__)

DEVICE_VARIABLE = "TTS_WORKER_DEVICE"
WORKER_ID_VARIABLE = "TTS_WORKER_ID"
#: What the child imports beyond a client's installation; looked for, not imported, in the parent.
WORKER_PACKAGES = ("numpy", "soundfile", "soxr")


@signals.celeryd_init.connect
def name_the_worker(sender: str, instance: Any, conf: Any, **_: Any) -> None:
    """Give the worker an identity before it connects to anything."""
    node, host = sender.split("@", 1)
    if node == "celery":
        # two workers started plainly on one host must not share a name
        instance.hostname = sender = f"tts{os.getpid()}@{host}"
    # A restart under the same name is another worker: it must not inherit a lease or messages.
    worker_id = f"{sender}/{secrets.token_hex(4)}"
    os.environ[WORKER_ID_VARIABLE] = worker_id
    conf.update(
        broker_transport_options={**conf.broker_transport_options, **unacked_keys(worker_id)}
    )


def check_worker_packages() -> None:
    """Refuse to start where the child could not; raises `ConfigurationError`."""
    missing = [name for name in WORKER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"a worker needs {', '.join(missing)}: pip install 'tts-tasks[worker]' "
            "(with the embedded engine: 'tts-tasks[all]')"
        )


class Queues:
    """Serves the queues that the worker's role calls for; touches the consumer in its own loop."""

    def __init__(self, online: str, batch: str) -> None:
        self._online, self._batch = online, batch
        self._wanted: list[str] = []
        self._consumer: Any = None

    def attach(self, consumer: Any) -> None:
        """Serve through this consumer from now on (a new one after every reconnection)."""
        self._consumer = consumer
        self._apply()

    def serve(self, role: Role) -> None:
        """Change what is served; called from the agent's threads."""
        wanted = []
        if role.serving:
            wanted = [self._online, self._batch] if role.leadership else [self._batch]
        self._wanted = wanted
        consumer = self._consumer
        if consumer is not None:
            consumer.call_soon(self._apply)

    def _apply(self) -> None:
        consumer = self._consumer
        if consumer.task_consumer is None:
            return
        # A consumer that has just connected anew has the queues of before, and serves none yet.
        serving = [queue.name for queue in consumer.task_consumer.queues]
        if serving == self._wanted:
            return
        # The order of adding is the order of service, so what stays is added anew, behind.
        for queue in serving:
            consumer.cancel_task_queue(queue)
        for queue in self._wanted:
            consumer.add_task_queue(queue)


class AgentStep(bootsteps.StartStopStep):
    """Runs the agent and the link to the child; `leave` ends them, after the pool."""

    def __init__(self, parent: Worker, gpu: str | None = None, **options: Any) -> None:
        super().__init__(parent, **options)
        try:
            self._set_up(parent, gpu, options)
        except ConfigurationError as error:
            raise UsageError(str(error)) from None
        _workers.append(parent)

    def _set_up(self, parent: Worker, gpu: str | None, options: dict[str, Any]) -> None:
        check_worker_packages()
        settings = get_settings()
        if settings.engine not in engine_names():
            installed = ", ".join(engine_names()) or "none (is tts-tasks itself installed?)"
            raise ConfigurationError(
                f"TTS_ENGINE: there is no engine {settings.engine!r}; installed are: {installed}"
            )
        if (
            parent.concurrency != 1
            or options.get("autoscale")
            or not parent.pool_cls.__module__.endswith("prefork")
        ):
            raise ConfigurationError(
                "one worker is one engine on one device: start it with the prefork pool and "
                "--concurrency 1 (the defaults), and start more workers for more devices"
            )
        worker_id = os.environ[WORKER_ID_VARIABLE]
        spec = gpu or os.environ.get("TTS_GPU") or "auto"
        if spec == "auto" and runs_on_cpu_only(settings.engine):
            spec = "cpu"  # a GPU under lease that nobody uses would be missed elsewhere
        self.device = choose_device(spec, NvidiaSmiInventory(), GpuLocks(worker_id))
        pin(self.device)
        os.environ[DEVICE_VARIABLE] = self.device.kind
        queues = parent.app.amqp.queues
        queues.deselect(list(queues))  # nothing is served until the engine has spoken
        route = route_of(settings)
        parent.tts_queues = Queues(*route.queues)
        gpu_settings = _gpu_settings()
        address = link.new_address()
        parent.tts_traces = ChildTraces(stderr_address(address))
        parent.tts_agent = self._agent(parent, worker_id, self.device)
        parent.tts_link = link.ParentLink(parent.tts_agent, address)
        os.environ[link.ENVIRONMENT_VARIABLE] = parent.tts_link.address
        monitor = monitor_of(gpu_settings, self.device.uuid)
        parent.tts_gpu = monitor and GpuWatch(
            monitor,
            parent.tts_agent,
            gpu_settings,
            every_s=settings.heartbeat_s,
            clock=boottime_s,
        )

    @staticmethod
    def _agent(parent: Worker, worker_id: str, device: Device) -> Agent:
        settings = get_settings()
        coordinator = RedisCoordinator(settings.redis_url, timeout_s=settings.request_timeout_s)
        # the agent's thread must not wait for its diary longer than for the lease
        diary = connect(settings.redis_url, timeout_s=settings.request_timeout_s, retries=0)
        events = EventLog(diary, kept=settings.events_kept)
        record = WorkerRecord(
            id=worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            pool=settings.pool,
            lane=settings.lane,
            beat=0,
            device=str(device),
            queues=route_of(settings).queues,
            started_at=utc_now(),
        )
        rescue = Recovery(
            parent.app,
            settings,
            name=worker_id,
            ledger=JobLedger(settings.redis_url, broker_url=settings.celery_url),
            coordinator=coordinator,
            events=events,
        )

        def on_role(role: Role) -> None:
            parent.tts_link.say(role.as_message())
            parent.tts_queues.serve(role)

        return Agent(
            settings,
            record,
            coordinator=coordinator,
            rescue=rescue,
            events=events,
            on_role=on_role,
            notices=Notices.of(settings, worker=worker_id, events=events),
            traces=parent.tts_traces.of,
            look_at_child=lambda: parent.tts_link.look(),  # noqa: PLW0108 - there is none yet
        )

    def start(self, parent: Worker) -> None:
        """Join the cluster (as not ready yet)."""
        parent.tts_agent.start()
        if parent.tts_gpu is not None:
            parent.tts_gpu.start()
        logger.info("worker %s on %s", parent.tts_agent.id, self.device)


def _gpu_settings() -> GpuSettings:
    try:
        return GpuSettings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "_".join(map(str, first["loc"])).upper()
        raise ConfigurationError(f"TTS_GPU_{name}: {first['msg']}") from None


class QueuesStep(bootsteps.StartStopStep):
    """Hands every new consumer to `Queues`."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        """Take up the queues of the worker's role."""
        parent.controller.tts_queues.attach(parent)


_workers: list[Any] = []  #: the one worker of this process, once it is set up


@signals.worker_shutting_down.connect
def hand_over(**_: Any) -> None:
    """Hand the lane over at the first word of a shutdown, while the running job goes on.

    This is a signal handler: it must not wait for a lock that the thread it interrupts may hold.
    """
    for worker in _workers:
        threading.Thread(target=worker.tts_agent.drain, daemon=True).start()


@signals.worker_shutdown.connect
def leave(**_: Any) -> None:
    """Leave the cluster, after the pool has ended its work: steps have no order for that."""
    for worker in _workers:
        if worker.tts_gpu is not None:
            worker.tts_gpu.close()
        worker.tts_agent.leave()
        worker.tts_link.close()
        worker.tts_traces.close()


@signals.worker_process_init.connect
def start_engine(**_: Any) -> None:
    """Start to load the engine in the child, and plug in what runs jobs."""
    from tts_workers.child import start_child

    start_child()


@inspect_command()
def active_queues(state: Any) -> list[dict[str, Any]]:
    """Answer `celery inspect active_queues` with the queues of the worker's lane.

    Flower's broker page lists the queues that the workers it has asked name here: a standby that
    named only what it serves at the moment would hide the online queue there.
    """
    consumer = state.consumer.task_consumer
    serving = {queue.name for queue in consumer.queues} if consumer else set()
    return [
        {**queue.as_dict(recurse=True), "serving": queue.name in serving}
        for queue in state.app.conf.task_queues
    ]


app.steps["worker"].add(AgentStep)
app.steps["consumer"].update((HeldMessages, QueuesStep, ChildExits))
