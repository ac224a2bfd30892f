"""Celery's settings, as a module that the app names: read when they are first needed.

By name, because the worker's spawned child gets the app pickled and finds them again only so; and
late, so that a wrong setting stops no import.
"""

from __future__ import annotations

import click
from kombu.entity import Queue

from tts_tasks.errors import ConfigurationError
from tts_tasks.routing import route_of
from tts_tasks.settings import Settings, get_settings

#: The visibility timeout is out of the way: messages of a dead worker are given back by the
#: survivors (`tts_workers.recovery`), and a long text is never delivered twice for being long.
NEVER_BY_TIMEOUT_S = 10 * 365 * 24 * 3600


def celery_configuration(settings: Settings) -> dict[str, object]:
    """Return the Celery settings that the cluster's guarantees rest on."""
    return {
        "broker_url": settings.redis_url,
        "result_backend": settings.redis_url,
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
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": NEVER_BY_TIMEOUT_S,
            # online before batch: the order in which queues were added is the order of service
            "queue_order_strategy": "priority",
            "polling_interval": 0.1,
            "socket_timeout": 2.0,
            "socket_connect_timeout": 2.0,
            "health_check_interval": 3,
        },
        "redis_socket_timeout": 5.0,
        "redis_socket_connect_timeout": 2.0,
        "redis_backend_health_check_interval": 3,
        # both must be named: without the second a spawned child would never start its engine
        "imports": ("tts_tasks.tasks", "tts_workers.bootstrap"),
    }


try:
    globals().update(celery_configuration(get_settings()))
except ConfigurationError as error:
    # Celery's command line would show a page of traceback for anything but an error of click's
    if click.get_current_context(silent=True) is None:
        raise
    raise click.UsageError(str(error)) from None
