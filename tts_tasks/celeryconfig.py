"""Celery's settings, as a module that the app names: read when they are first needed.

By name, because the worker's spawned child gets the app pickled and finds them again only so; and
late, so that a wrong setting stops no import.
"""

from __future__ import annotations

import click
from kombu.entity import Queue

from tts_tasks.errors import ConfigurationError
from tts_tasks.redis_connection import CLIENT_TIMEOUT_S
from tts_tasks.redis_topology import sentinel_options
from tts_tasks.redis_url import parse_redis_url
from tts_tasks.results import result_backend_url
from tts_tasks.routing import route_of
from tts_tasks.settings import Settings, get_settings

#: The visibility timeout is out of the way: messages of a dead worker are given back by the
#: survivors (`tts_workers.recovery`), and a long text is never delivered twice for being long.
NEVER_BY_TIMEOUT_S = 10 * 365 * 24 * 3600


def celery_configuration(settings: Settings) -> dict[str, object]:
    """Return the Celery settings that the cluster's guarantees rest on."""
    url, topology_options = _broker_of(settings)
    return {
        "broker_url": url,
        "result_backend": result_backend_url(url),
        "result_backend_transport_options": {
            **topology_options,
            # a finished job's result is told as long as the ledger is: see `JobRunner`
            "retry_policy": {"max_retries": None, "timeout": settings.store_outage_s},
            # what a Redis answers that is there but cannot write now
            "additional_connection_errors": [
                "redis.exceptions.OutOfMemoryError",
                "redis.exceptions.ReadOnlyError",
            ],
        },
        "result_expires": settings.retention_s,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_create_missing_queues": True,
        "task_queues": [Queue(name) for name in route_of(settings).queues],
        "task_default_queue": route_of(settings).online_queue,
        "worker_prefetch_multiplier": 1,
        # nothing beside the running job, not even after a reconnection in the middle of it
        "worker_disable_prefetch": True,
        "worker_concurrency": 1,
        "worker_pool": "prefork",
        # a fresh interpreter: the parent has threads, which fork() would tear, and the child
        # must find CUDA untouched
        "worker_pool_start_method": "spawn",
        # a fresh interpreter that imports from a cold disk must not be killed for being slow
        "worker_proc_alive_timeout": 120.0,
        "worker_hijack_root_logger": True,
        # from the first task on: Flower would switch events on up to 5 s after a worker has come
        "worker_send_task_events": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_consumer": "tts_workers.connection:SteadyConsumer",
        # a Redis that refuses writes for a while must not end a worker either
        "broker_channel_error_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            **topology_options,
            "visibility_timeout": NEVER_BY_TIMEOUT_S,
            # online before batch: the order in which queues were added is the order of service
            "queue_order_strategy": "priority",
            "polling_interval": 0.05,  # s until a lane that was taken over is served
            "socket_timeout": CLIENT_TIMEOUT_S,
            "socket_connect_timeout": CLIENT_TIMEOUT_S,
            "health_check_interval": 2,
        },
        "redis_socket_timeout": CLIENT_TIMEOUT_S,
        "redis_socket_connect_timeout": CLIENT_TIMEOUT_S,
        "redis_backend_health_check_interval": 2,
        # both must be named: without the second a spawned child would never start its engine
        "imports": ("tts_tasks.tasks", "tts_workers.bootstrap"),
    }


def _broker_of(settings: Settings) -> tuple[str, dict[str, object]]:
    """Return the broker's URL as kombu and Celery write it, and what goes with it.

    The options are for the broker and for the results: each asks the Sentinels on its own.
    """
    beyond = parse_redis_url(settings.celery_url)
    if beyond is None:
        return settings.celery_url, {}
    return beyond.for_kombu(), {
        "master_name": beyond.master_name,
        "sentinel_kwargs": sentinel_options(beyond, timeout_s=CLIENT_TIMEOUT_S),
    }


try:
    globals().update(celery_configuration(get_settings()))
except ConfigurationError as error:
    # Celery's command line would show a page of traceback for anything but an error of click's
    if click.get_current_context(silent=True) is None:
        raise
    raise click.UsageError(str(error)) from None
