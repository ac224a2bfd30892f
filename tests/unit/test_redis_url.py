"""The forms of `TTS_REDIS_URL` and `TTS_BROKER_URL`, and what they become for Celery."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from tts_tasks.celeryconfig import celery_configuration
from tts_tasks.errors import ConfigurationError
from tts_tasks.redis_connection import connect, without_password
from tts_tasks.redis_url import RedisUrl, parse_redis_url
from tts_tasks.settings import Settings

SENTINELS = "sentinel://:p%2Fw@h1:26380,h2,[::1]:26381/mymaster/3?sentinel_password=s%26w"


def test_a_sentinel_url_names_the_sentinels_the_master_and_both_passwords() -> None:
    """Ports and database have defaults; what is escaped is unescaped."""
    assert parse_redis_url(SENTINELS) == RedisUrl(
        kind="sentinel",
        hosts=(("h1", 26380), ("h2", 26379), ("::1", 26381)),
        username=None,
        password="p/w",
        master_name="mymaster",
        db=3,
        sentinel_username=None,
        sentinel_password="s&w",
    )


def test_a_cluster_url_names_some_of_its_nodes() -> None:
    """There is one database, and it needs no name."""
    url = parse_redis_url("cluster://user:pw@h1:7000,h2")
    assert url is not None
    assert (url.kind, url.hosts) == ("cluster", (("h1", 7000), ("h2", 6379)))
    assert url.credentials == {"username": "user", "password": "pw"}


@pytest.mark.parametrize("url", ["redis://h/0", "rediss://:pw@h:1/0", "unix:///run/redis.sock", ""])
def test_other_urls_are_for_redis_py(url: str) -> None:
    """They mean what they always meant."""
    assert parse_redis_url(url) is None


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("sentinel://:secret@h1,h2", "the path is the name of the master"),
        ("sentinel://:secret@h1/mymaster/zero", "'zero' is not the number of a database"),
        ("sentinel://:secret@h1:port/mymaster", "host 'h1:port'"),
        ("sentinel://:secret@h1,,h2/mymaster", "'' is not a host"),
        ("sentinel://:secret@h1;sentinel://:secret@h2", "separated by commas"),
        ("sentinel://:sec/ret@h1/mymaster", "written %2F"),
        ("sentinel://:secret@h1/mymaster?passwort=secret", "unknown parameter 'passwort'"),
        ("cluster://:secret@h1/5", "a cluster has no databases"),
        ("cluster://:secret@h1?sentinel_password=secret", "there are: none"),
        ("redis://:secret@h:port/0", "the port is no number"),
        ("redis://:secret/more@h:1/0", "the port is no number"),
        ("redis://:secret@h:1/zero", "'zero' is not the number of a database"),
        ("redis://:secret@h:1?db=zero", "Invalid value for 'db'"),
        ("http://:secret@h:1/0", "there is no such scheme"),
        ("h:6379", "there is no such scheme"),
    ],
)
def test_a_wrong_url_is_refused_at_start_without_its_password(url: str, complaint: str) -> None:
    """The message says what is wrong, and how it looks when it is right."""
    with pytest.raises(ValidationError) as refusal:
        Settings(redis_url=url, broker_url="redis://h/0")
    text = refusal.value.errors(include_url=False)[0]["msg"]
    assert complaint in text
    assert "it looks like" in text
    assert "secret" not in text
    with pytest.raises(ConfigurationError) as refused:
        connect(url)
    assert "secret" not in str(refused.value)


def test_both_passwords_are_blotted_out() -> None:
    """Of all the URLs that people may see, also of Celery's own form."""
    url = parse_redis_url(SENTINELS)
    assert url is not None
    for text in (SENTINELS, url.for_kombu(), "cluster://:p%2Fw@h1:7000,h2:7000"):
        assert "p%2Fw" not in without_password(text)
        assert "s%26w" not in without_password(text)


def test_a_cluster_needs_a_broker_beside_it() -> None:
    """Celery cannot use one, and the message says what to do."""
    with pytest.raises(ValidationError, match="set TTS_BROKER_URL to one Redis, or to Sentinels"):
        Settings(redis_url="cluster://h1,h2")
    with pytest.raises(ValidationError, match="broker cannot be a Redis Cluster"):
        Settings(redis_url="redis://h/0", broker_url="cluster://h1,h2")
    settings = Settings(redis_url="cluster://h1,h2", broker_url="redis://h/0")
    assert celery_configuration(settings)["broker_url"] == "redis://h/0"


def test_waiting_for_replicas_is_not_offered_on_a_cluster() -> None:
    """Better refused than forgotten."""
    with pytest.raises(ValidationError, match="not with a cluster"):
        Settings(redis_url="cluster://h1", broker_url="redis://h/0", replicas_acked=1)


def test_celery_is_told_of_the_sentinels_in_its_own_words() -> None:
    """Broker and results alike; the spawned child gets it pickled."""
    conf: dict[str, Any] = celery_configuration(Settings(redis_url=SENTINELS))
    theirs = (
        "sentinel://:p%2Fw@h1:26380/3;sentinel://:p%2Fw@h2:26379/3;sentinel://:p%2Fw@[::1]:26381/3"
    )
    assert conf["broker_url"] == theirs
    assert conf["result_backend"].endswith(theirs)
    for options in ("broker_transport_options", "result_backend_transport_options"):
        assert conf[options]["master_name"] == "mymaster"
        assert conf[options]["sentinel_kwargs"]["password"] == "s&w"
        assert conf[options]["sentinel_kwargs"]["socket_timeout"] > 0
        pickle.dumps(conf[options])


def test_an_empty_broker_url_is_the_redis_url() -> None:
    """Also where the Redis is found, and where it is changed afterwards."""
    settings = Settings(redis_url="redis://one/0")
    assert settings.celery_url == "redis://one/0"
    assert settings.model_copy(update={"redis_url": "redis://two/0"}).celery_url == "redis://two/0"
