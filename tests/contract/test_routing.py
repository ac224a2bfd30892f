"""From the registry of a real Redis to the queue of a job, and of a batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Task

from tests.recordings import recording
from tts_tasks import client, synthesize
from tts_tasks.batches.manifest import Manifest
from tts_tasks.coordination import WorkerRecord
from tts_tasks.coordination.base import record_ttl_s
from tts_tasks.coordination.redis_store import RedisCoordinator
from tts_tasks.errors import ConflictError, NoPoolError, RequestError
from tts_tasks.ledger import BatchBook, JobLedger
from tts_tasks.lexicons import parse_lexicon
from tts_tasks.lexicons.store import LexiconStore
from tts_tasks.pinning import forget_recent
from tts_tasks.redis_connection import connect
from tts_tasks.requests import SpeechRequest
from tts_tasks.routing import Route, Router, forget_registry, registered, route_of, router_of
from tts_tasks.settings import Settings, get_settings
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator

ZH = {"languages": ["zh"], "sample_rate_hz": 24000, "features": ["clone"]}
EN = {"languages": ["en"], "sample_rate_hz": 32000, "features": ["phoneme"]}


class Registry:
    """Workers that only beat."""

    def __init__(self, redis_url: str) -> None:
        self._coordinator = RedisCoordinator(redis_url, timeout_s=2.0)
        self.forget = self._coordinator.forget

    def beat(self, id_: str, pool: str, **fields: Any) -> None:
        """Have a worker say what it is; what the router remembers is forgotten."""
        silent_s = fields.pop("silent_s", 0.0)
        known = {"host": "h", "pid": 1, "lane": "0", "beat": 1, "ready": True, "engine": "e (1)"}
        record = WorkerRecord(id=id_, pool=pool, **(known | fields))
        ttl_s = record_ttl_s(get_settings().heartbeat_s) - silent_s
        self._coordinator.beat(record, ttl_s)
        forget_registry()


@pytest.fixture
def registry(redis_url: str) -> Iterator[Registry]:
    root = Path(get_settings().storage_url.removeprefix("file://"))
    shutil.rmtree(root, ignore_errors=True)
    forget_recent()
    yield Registry(redis_url)
    forget_registry()


@pytest.fixture
def two_pools(registry: Registry) -> Registry:
    for n in (1, 2):
        registry.beat(f"z{n}", "zh", capabilities=ZH)
        registry.beat(f"e{n}", "en", capabilities=EN)
    return registry


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what messages carry; none is sent."""
    messages: list[dict[str, Any]] = []

    def apply_async(_: Task, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        messages.append({"args": args, "kwargs": kwargs, **options})

    monkeypatch.setattr(Task, "apply_async", apply_async)
    return messages


def job_of(message: dict[str, Any]) -> Any:
    return JobLedger(get_settings().redis_url).get(message["task_id"])


def request(**fields: Any) -> SpeechRequest:
    return SpeechRequest(text="a", **fields)


def requiring(**needs: Any) -> dict[str, Any]:
    return {"text": "a1", "requires": needs}


# -- online jobs ----------------------------------------------------------------------------------


def test_a_call_goes_where_it_can_be_served(
    two_pools: Registry, sent: list[dict[str, Any]]
) -> None:
    """Queue, job id and ledger name the lane of the pool that fits."""
    synthesize.delay("hello", requires={"language": "en"})
    client.submit_job(request(prompt_audio=client.upload_reference(recording()), prompt_text="b"))
    assert [message["queue"] for message in sent] == ["tts.online.en.0", "tts.online.zh.0"]
    assert [job_of(message).meta.lane_key for message in sent] == ["en.0", "zh.0"]
    assert [message["task_id"].partition(":")[0] for message in sent] == ["en.0", "zh.0"]


def test_a_call_that_nobody_can_serve_is_refused_at_once(
    two_pools: Registry, sent: list[dict[str, Any]]
) -> None:
    """With what each pool lacks; nothing is accepted."""
    with pytest.raises(NoPoolError, match=r"en speaks en; zh speaks zh"):
        synthesize.delay("nuqneH", requires={"language": "tlh"})
    with pytest.raises(NoPoolError, match="zh speaks zh"):
        client.submit_job(request(requires={"pool": "zh", "language": "en"}))
    assert sent == []
    assert JobLedger(get_settings().redis_url).open_jobs() == []


def test_while_nobody_is_there_what_is_accepted_waits_at_home(
    registry: Registry, sent: list[dict[str, Any]]
) -> None:
    """A cluster that starts loses nothing, whatever is asked for."""
    synthesize.delay("hello", requires={"language": "en"})
    synthesize.delay("hello", requires={"pool": "en"})
    assert [message["queue"] for message in sent] == ["tts.online.default.0", "tts.online.en.0"]


def test_a_lexicon_of_sounds_goes_to_phonemes(
    two_pools: Registry, sent: list[dict[str, Any]]
) -> None:
    """One of words may go anywhere."""
    store = LexiconStore(open_storage(get_settings().storage_url))
    store.add("sounds", parse_lexicon('{"phrase": "重庆", "pinyin": "chong2 qing4"}'.encode()))
    store.add("words", parse_lexicon(b'{"phrase": "a", "text": "b"}'))
    two_pools.beat("z3", "zh", capabilities=ZH)
    for lexicon in ("sounds", "words"):
        synthesize.delay("hello", lexicon=lexicon)
    assert [message["queue"] for message in sent] == ["tts.online.en.0", "tts.online.zh.0"]


def test_a_named_voice_goes_where_voices_are_imitated(
    two_pools: Registry, sent: list[dict[str, Any]]
) -> None:
    """By its recording; a name that the store does not know may be that of any engine's voice."""
    two_pools.beat("e3", "en", capabilities=EN)
    client.voice_add("alice:happy", recording(), text="你好")
    synthesize.delay("hello", voice="alice:happy")
    synthesize.delay("hello", voice="bella")
    assert [message["queue"] for message in sent] == ["tts.online.zh.0", "tts.online.en.0"]


def test_an_engines_own_voice_goes_where_it_is(
    two_pools: Registry, sent: list[dict[str, Any]]
) -> None:
    """What nobody has is refused with what there is; what is in the store is a recording."""
    for n in (1, 2):
        two_pools.beat(f"z{n}", "zh", capabilities=ZH | {"voices": ["default", "anna"]})
        two_pools.beat(f"e{n}", "en", capabilities=EN | {"voices": ["default", "bella"]})
    client.voice_add("alice", recording(), text="你好")
    for voice in ("bella", "anna", "alice"):
        synthesize.delay("hello", voice=voice)
    queues = ["tts.online.en.0", "tts.online.zh.0", "tts.online.zh.0"]
    assert [message["queue"] for message in sent] == queues
    with pytest.raises(NoPoolError, match=r"voice carol .* en has the voices default, bella"):
        synthesize.delay("hello", voice="carol")
    client.submit_batch([{"text": "a1", "voice": voice} for voice in ("bella", "anna")], id="b")
    assert (pool_of("b"), rejected("b")) == ("en", {2: "voice"})


def test_the_voices_of_a_pool_are_spread_over_its_lanes(
    registry: Registry, sent: list[dict[str, Any]]
) -> None:
    """Each voice has a lane, and none goes where nobody serves."""
    for lane in ("0", "1"):
        registry.beat(f"w{lane}", "default", lane=lane, capabilities=ZH)
    registry.beat("w2", "default", lane="2", capabilities=ZH, silent_s=10)
    registry.beat("w3", "default", lane="3", capabilities=ZH, draining=True)
    for voice in (f"v{n}" for n in range(20)):
        for _ in range(2):
            synthesize.delay("a", voice=voice)
    queues = [message["queue"] for message in sent]
    assert queues[::2] == queues[1::2]
    assert set(queues) == {"tts.online.default.0", "tts.online.default.1"}


def test_a_task_id_that_its_caller_has_chosen_is_accepted_once(
    registry: Registry, sent: list[dict[str, Any]]
) -> None:
    """Where it is already, although it would go to another pool now."""
    registry.beat("w1", "default", capabilities=ZH)
    synthesize.apply_async(("a",), task_id="order-42")
    registry.beat("z1", "zh", capabilities=ZH)
    registry.beat("w1", "default", capabilities=EN)
    synthesize.apply_async(("a",), {"requires": {"language": "zh"}}, task_id="order-42")
    assert [message["queue"] for message in sent] == ["tts.online.default.0"] * 2
    synthesize.apply_async(("a",), {"requires": {"language": "zh"}}, task_id="order-43")
    assert sent[-1]["queue"] == "tts.online.zh.0"


def test_a_task_id_may_name_its_lane(two_pools: Registry, sent: list[dict[str, Any]]) -> None:
    """It is held to what the request needs."""
    synthesize.apply_async(("a",), task_id="en.0:order-42")
    assert sent[-1]["queue"] == "tts.online.en.0"
    with pytest.raises(NoPoolError):
        synthesize.apply_async(("a",), {"requires": {"language": "zh"}}, task_id="en.0:order-43")
    for bad in ("b:1", "en.0.1:a", "EN.0:a", ".:a"):
        with pytest.raises(RequestError):
            synthesize.apply_async(("a",), task_id=bad)
    with pytest.raises(RequestError, match="another pool"):
        synthesize.apply_async(("a",), {"requires": {"pool": "zh"}}, task_id="en.0:order-44")


# -- the registry ---------------------------------------------------------------------------------


def test_joining_changing_and_leaving_are_seen_within_a_heartbeat(registry: Registry) -> None:
    """What was read is used for half of one; a refusal is never said by it."""
    now_s = 0.0
    settings = Settings()
    reads = []

    def read() -> Any:
        reads.append(now_s)
        return registered(settings.redis_url, settings.heartbeat_s, settings.silence_s)

    router = Router(settings, read, lambda: now_s)
    registry.beat("w1", "default", capabilities=ZH)
    assert router.route(request()) == Route("default", "0")
    registry.beat("e1", "en", capabilities=EN)
    now_s += 0.1
    assert router.route(request(requires={"language": "en"})) == Route("en", "0")
    registry.beat("w1", "default", capabilities=EN)
    now_s += settings.heartbeat_s
    assert router.route(request(requires={"language": "en"})) == Route("default", "0")
    with pytest.raises(NoPoolError):
        router.route(request(requires={"language": "zh"}))
    registry.forget("w1")
    now_s += settings.heartbeat_s
    assert router.route(request()) == Route("en", "0")
    before = len(reads)
    for _ in range(100):
        router.route(request())
    assert len(reads) == before


def test_a_pool_and_a_lane_that_are_configured_are_kept_to(
    two_pools: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`TTS_POOL` while nobody is there, too; `TTS_LANE` at home only."""
    monkeypatch.setenv("TTS_POOL", "staging")
    monkeypatch.setenv("TTS_LANE", "7")
    settings = Settings()
    router = router_of(settings)
    assert router.route(request()) == Route("staging", "7")
    two_pools.beat("s1", "staging", lane="0", capabilities=EN)
    router = router_of(settings)
    assert router.route(request()) == Route("staging", "7")
    assert router.route(request(requires={"language": "zh"})) == Route("zh", "0")


def test_a_worker_that_is_silent_does_not_count_as_serving(registry: Registry) -> None:
    """Its pool is still known: it is chosen where no other one fits."""
    registry.beat("a1", "a", capabilities=ZH, silent_s=10)
    registry.beat("b1", "b", capabilities=EN)
    router = router_of(get_settings())
    assert router.route(request()) == Route("b", "0")
    assert router.route(request(requires={"language": "zh"})) == Route("a", "0")


# -- batches --------------------------------------------------------------------------------------


def rejected(batch: str) -> dict[int, str]:
    return {line["line"]: line["error"]["field"] for line in client.batch_rejected(batch)}


def pool_of(batch: str) -> str:
    record = BatchBook(get_settings().redis_url).get(batch)
    head = Manifest(open_storage(get_settings().storage_url), batch).head()
    assert record is not None
    assert head is not None
    assert record.queue == f"tts.batch.{head.pool}"
    return head.pool


def test_a_batch_goes_where_most_of_its_lines_can_be_spoken(two_pools: Registry) -> None:
    """The others are rejected, with the field that is to blame."""
    items = [
        {"text": "a1"},
        requiring(language="en"),
        requiring(language="en", features=["phoneme"]),
        requiring(language="zh"),
        requiring(pool="zh"),
    ]
    client.submit_batch(items, id="b")
    assert pool_of("b") == "en"
    assert rejected("b") == {4: "requires.language", 5: "requires.pool"}


def test_a_pool_that_fits_all_lines_wins_over_those_that_each_would_choose(
    two_pools: Registry,
) -> None:
    """A batch has one queue."""
    both = {"languages": ["zh", "en"], "sample_rate_hz": 24000, "features": []}
    two_pools.beat("x1", "both", capabilities=both)
    client.submit_batch([requiring(language="zh"), requiring(language="en")], id="b")
    assert (pool_of("b"), rejected("b")) == ("both", {})


def test_a_batch_that_no_pool_can_speak_is_refused(two_pools: Registry) -> None:
    """Nothing is left of it. A file without a good line is no reason."""
    with pytest.raises(NoPoolError, match="language tlh"):
        client.submit_batch([requiring(language="tlh")] * 3, id="b")
    assert client.batch_list() == []
    assert Manifest(open_storage(get_settings().storage_url), "b").head() is None
    assert client.submit_batch([{"text": "!"}], id="c").rejected == 1


def test_the_pool_of_a_batch_may_be_named(two_pools: Registry) -> None:
    """It stays: the same submit under another pool is a conflict."""
    client.submit_batch([{"text": "a1"}, requiring(language="en")], id="b", pool="zh")
    assert (pool_of("b"), rejected("b")) == ("zh", {2: "requires.language"})
    with pytest.raises(NoPoolError, match="pool nowhere"):
        client.submit_batch([{"text": "a1"}], id="c", pool="nowhere")
    head = Manifest(open_storage(get_settings().storage_url), "b").head()
    BatchBook(get_settings().redis_url).remove("b")
    with pytest.raises(ConflictError, match="is in the pool zh, and stays there"):
        client.submit_batch([{"text": "a1"}, requiring(language="en")], id="b", pool="en")
    assert Manifest(open_storage(get_settings().storage_url), "b").head() == head


def test_the_same_file_again_rejects_the_same_lines_whoever_is_there_now(
    two_pools: Registry,
) -> None:
    """What the pool could do is settled with the batch; it stays in its pool."""
    items = [{"text": "a1"}, requiring(language="en"), requiring(language="en"), {"text": "a2"}]
    client.submit_batch(items, id="b")
    BatchBook(get_settings().redis_url).remove("b")
    # as if its submitter had died before it was done
    open_storage(get_settings().storage_url).remove([".tts/batches/b/manifest.json"])
    two_pools.beat("e1", "en", capabilities=ZH)
    two_pools.beat("e2", "en", capabilities=ZH)
    assert client.submit_batch(items, id="b").rejected == 0
    assert pool_of("b") == "en"


def test_a_batch_that_is_all_in_stays_in_its_pool(two_pools: Registry) -> None:
    """To submit it to another one is a conflict, not a command that seems to have worked."""
    items = [{"text": "a1"}, {"text": "a2"}]
    client.submit_batch(items, id="b", pool="en")
    for pool in ("zh", "nowhere"):
        with pytest.raises(ConflictError, match="is in the pool en, and stays there"):
            client.submit_batch(items, id="b", pool=pool)
    for pool in ("en", ""):
        assert client.submit_batch(items, id="b", pool=pool or None).total == 2
    assert pool_of("b") == "en"


def test_strict_counts_what_the_pool_cannot_speak(two_pools: Registry) -> None:
    """Before anything is accepted."""
    with pytest.raises(RequestError, match=r"line 3: requires\.language: this batch goes to"):
        client.submit_batch(
            [{"text": "a1"}, requiring(language="en"), requiring(language="zh")],
            id="b",
            pool="en",
            strict=True,
        )
    assert client.batch_list() == []


def test_voices_and_recordings_choose_the_pool_of_a_batch(
    two_pools: Registry, tmp_path: Path
) -> None:
    """Also where the recording lies beside the file."""
    two_pools.beat("e3", "en", capabilities=EN)
    (tmp_path / "a.wav").write_bytes(recording())
    path = tmp_path / "b.jsonl"
    line = {"prompt_text": "你好", "prompt_audio": "a.wav", "input_text": "再见"}
    path.write_text(json.dumps(line), encoding="utf-8")
    assert client.submit_batch(path, id="b").rejected == 0
    client.voice_add("alice", recording(), text="你好")
    assert client.submit_batch([{"text": "a1", "voice": "alice"}], id="c").rejected == 0
    assert (pool_of("b"), pool_of("c")) == ("zh", "zh")


def test_the_status_shows_what_pools_can_do(two_pools: Registry) -> None:
    """What requests are routed by, and how many serve."""
    two_pools.beat("e2", "en", ready=False, capabilities=EN)
    two_pools.beat("n1", "new", ready=False)
    en, new, zh = client.cluster_status()["pools"]
    assert (en["pool"], en["languages"], en["sample_rate_hz"]) == ("en", ("en",), 32000)
    assert (en["serving"], en["workers"], en["lanes"]) == (1, 2, ["0"])
    assert (zh["serving"], zh["features"], zh["engine"]) == (2, ("clone",), "e")
    assert new == {"pool": "new", "lanes": ["0"], "workers": 1, "serving": 0}


def test_the_status_leaves_out_a_lane_that_nobody_has_to_do_with(two_pools: Registry) -> None:
    """A cluster of pools has none that is called as this process's settings would have it."""
    status = client.cluster_status()
    assert [lane["pool"] for lane in status["lanes"]] == ["en", "zh"]
    assert not [name for name in status["queues"] if "default" in name]
    mine = route_of(get_settings())
    connect(get_settings().celery_url).lpush(mine.online_queue, "left behind")
    status = client.cluster_status()
    assert [lane["pool"] for lane in status["lanes"]] == ["default", "en", "zh"]
    assert status["queues"][mine.online_queue] == 1


@pytest.mark.usefixtures("registry")
def test_the_status_of_an_empty_cluster_shows_the_lane_that_is_wanted() -> None:
    """With nobody in it."""
    (lane,) = client.cluster_status()["lanes"]
    assert (lane["pool"], lane["lane"], lane["primary"]) == ("default", "0", None)


def test_every_lane_of_the_registry_is_known(two_pools: Registry) -> None:
    """This process's own comes first."""
    assert router_of(get_settings()).routes() == [
        Route("default", "0"),
        Route("en", "0"),
        Route("zh", "0"),
    ]
