"""What all tests share: one real Redis a test process, emptied before each test that uses it."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from tests.redis_topologies import RedisCluster
from tests.waiting import eventually
from tts_tasks.app import app
from tts_tasks.celeryconfig import celery_configuration
from tts_tasks.routing import forget_registry
from tts_tasks.settings import get_settings
from ttsctl.supervisor.redis_server import EmbeddedRedis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A runner started in the background ignores SIGINT, and so would every program that tests start
# in order to press Ctrl-C: ignored signals are inherited, handled ones are not.
signal.signal(signal.SIGINT, signal.default_int_handler)

_directory = Path(tempfile.mkdtemp(prefix="tts-tests-"))
_server = EmbeddedRedis(_directory / "redis", appendonly=False)
_server.start()
for _name in [name for name in os.environ if name.startswith("TTS_") and "_TEST_" not in name]:
    del os.environ[_name]
os.environ["TTS_HOME"] = str(_directory / "home")
os.environ["TTS_REDIS_URL"] = _server.url
# the app was configured when it was imported, from the environment before this one
get_settings.cache_clear()
app.conf.update(celery_configuration(get_settings()))


def _remove() -> None:
    _server.stop()
    shutil.rmtree(_directory, ignore_errors=True)


atexit.register(_remove)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., object]:
    """Wait for a condition instead of for a time."""
    return eventually


@pytest.fixture
def redis_url() -> Iterator[str]:
    """URL of a real, empty Redis, the one that `tts_tasks` in this process uses."""
    with redis.Redis.from_url(_server.url) as client:
        client.flushall()
    forget_registry()
    return _server.url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of that Redis."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="session")
def _redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(_redis_cluster: RedisCluster) -> RedisCluster:
    """A real, empty Redis Cluster of three nodes; nobody uses it who does not say so."""
    _redis_cluster.empty()
    return _redis_cluster
