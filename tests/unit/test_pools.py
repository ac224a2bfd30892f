"""The choice of a pool: what is seen goes in, a name or a clear error comes out."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_tasks.coordination import WorkerRecord
from tts_tasks.errors import NoPoolError, RequestError
from tts_tasks.pools import (
    Needs,
    Offer,
    Pool,
    check_fits,
    choose,
    needs_of,
    pools_of,
    voice_key,
)
from tts_tasks.requests import SpeechRequest, parse_request

PIN = "sha256:" + "0" * 64


def offer(*languages: str, hz: int = 24000, engine: str = "glmtts", **more: Any) -> Offer:
    known = {"languages": languages, "sample_rate_hz": hz, **more}
    found = Offer.of_capabilities(known, engine=engine)
    assert found is not None
    return found


def pool(name: str, *offers: Offer, serving: int = 1, workers: int = 2) -> Pool:
    return Pool(name, offers, {"0": serving}, workers)


ZH = pool("zh", offer("zh", features=["clone"], model_version="1.2"), serving=2)
EN = pool("en", offer("en", hz=32000, engine="kokoro", model="kokoro-82m", voices=["heart"]))
LOADING = pool("new", serving=0)
THERE = {one.name: one for one in (ZH, EN)}


def record(name: str, **fields: Any) -> WorkerRecord:
    known = {"host": "h", "pid": 1, "pool": "zh", "lane": "0", "beat": 1, "ready": True}
    if fields.pop("known", True):
        known |= {
            "engine": "glmtts (1.2)",
            "capabilities": {"languages": ["zh"], "sample_rate_hz": 24000},
        }
    return WorkerRecord(id=name, **(known | fields))


# -- what is needed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, Needs()),
        ({"requires": {"language": "en", "pool": "p"}}, Needs(language="en", pool="p")),
        ({"requires": {"engine": "e", "model_version": "2"}}, Needs(engine="e", model_version="2")),
        ({"requires": {"sample_rate_hz": 24000}}, Needs(sample_rate_hz=24000)),
        ({"sample_rate": 48000, "format": "mp3", "stream": True, "speed": 1.0}, Needs()),
        ({"speed": 2.0}, Needs(features=("speed",))),
        ({"model": "tts-1"}, Needs()),
        ({"model": "kokoro-82m"}, Needs(model="kokoro-82m")),
        ({"prompt_audio": PIN, "prompt_text": "a"}, Needs(features=("clone",))),
        ({"requires": {"features": ["emotion", "emotion"]}}, Needs(features=("emotion",))),
        ({"voice": "default"}, Needs()),
        ({"voice": "af_heart"}, Needs(voice="af_heart")),
    ],
)
def test_needs_are_what_is_required_and_what_the_fields_call_for(
    fields: dict[str, Any], needs: Needs
) -> None:
    """Any rate and format is made by any pool; another speed and imitating are not."""
    assert needs_of(parse_request({"text": "a", **fields})) == needs


def test_a_lexicon_of_sounds_needs_phonemes() -> None:
    """One that says other words does not."""
    request = parse_request({"text": "a", "lexicon": "bank"})
    assert needs_of(request, has_sounds=True).features == ("phoneme",)
    assert needs_of(request).features == ()


@pytest.mark.parametrize(
    ("wanted", "has", "fits"),
    [
        ("en", "en", True),
        ("EN", "en-GB", True),
        ("en-GB", "en-gb", True),
        ("en-GB", "en", False),
        ("e", "en", False),
        ("zh", "zhx", False),
    ],
)
def test_languages_match_as_basic_filtering_says(wanted: str, has: str, fits: bool) -> None:
    """RFC 4647: a range fits what it is, and what is more special."""
    assert (offer(has).lacks(Needs(language=wanted)) == []) is fits


@pytest.mark.parametrize(
    ("wanted", "has", "fits"),
    [
        ("bella", ("bella", "default"), True),
        ("Bella", ("bella", "default"), False),
        ("bella", (), True),  # it has not said: the engine will
        ("", ("default",), True),
    ],
)
def test_a_voice_of_an_engine_is_looked_for_where_voices_are_told(
    wanted: str, has: tuple[str, ...], fits: bool
) -> None:
    """An engine of thousands names none, and may have it."""
    assert (offer("zh", voices=has).lacks(Needs(voice=wanted)) == []) is fits


def test_of_many_voices_some_are_named() -> None:
    """An error is to be read."""
    has = tuple(f"v{number}" for number in range(30))
    (lack,) = offer("zh", voices=has).lacks(Needs(voice="bella"))
    assert lack.field == "voice"
    assert lack.reason == f"has the voices {', '.join(has[:20])} and 10 more"


# -- the choice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "pools", "home", "chosen"),
    [
        (Needs(), THERE, "default", "zh"),  # the most workers
        (Needs(), THERE, "en", "en"),  # home first
        (Needs(language="en"), THERE, "zh", "en"),
        (Needs(features=("clone",)), THERE, "en", "zh"),
        (Needs(sample_rate_hz=32000), THERE, "zh", "en"),
        (Needs(model="kokoro-82m"), THERE, "zh", "en"),
        (Needs(voice="heart"), {"en": EN, "x": pool("x", offer("en", voices=["nova"]))}, "x", "en"),
        (Needs(model="glmtts"), THERE, "en", "zh"),
        (Needs(model_version="1.2", engine="glmtts"), THERE, "en", "zh"),
        (Needs(pool="en"), THERE, "zh", "en"),
        (Needs(), {}, "default", "default"),  # the cluster starts
        (Needs(language="en"), {}, "default", "default"),
        (Needs(pool="en"), {}, "default", "en"),
        (Needs(language="en"), {"new": LOADING}, "default", "new"),
        (Needs(pool="new", language="en"), {"new": LOADING, **THERE}, "default", "new"),
        (Needs(), {"new": LOADING, "en": EN}, "new", "en"),  # it can be spoken now
        (Needs(), {"a": pool("a", offer("zh")), "b": pool("b", offer("zh"))}, "x", "a"),
        (  # it comes back, and another one serves meanwhile
            Needs(),
            {"a": pool("a", offer("zh"), serving=0), "b": pool("b", offer("zh"))},
            "a",
            "b",
        ),
        (  # nobody now, but it is known who will
            Needs(language="zh"),
            {"a": pool("a", offer("zh"), serving=0), "en": EN},
            "en",
            "a",
        ),
    ],
)
def test_the_pool_that_fits_is_chosen(
    needs: Needs, pools: dict[str, Pool], home: str, chosen: str
) -> None:
    """Serving before coming back, then home, then the most workers, then by name."""
    assert choose(needs, pools, home) == chosen


@pytest.mark.parametrize(
    ("needs", "home", "chosen"),
    [
        (Needs(), "staging", "staging"),  # it waits there, and is not taken elsewhere
        (Needs(language="en"), "staging", "staging"),
        (Needs(language="en"), "zh", "en"),  # it could never be spoken at home
        (Needs(pool="en"), "zh", "en"),
        (Needs(), "en", "en"),
    ],
)
def test_a_home_that_somebody_has_named_is_left_only_for_what_it_lacks(
    needs: Needs, home: str, chosen: str
) -> None:
    """`TTS_POOL` is where jobs go, also while nobody is there."""
    assert choose(needs, THERE, home, at_home=True) == chosen


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Needs(language="tlh"), ["language tlh", "zh speaks zh", "en speaks en"]),
        (
            Needs(language="en", features=("clone",)),
            ["feature clone", "en lacks the feature clone (it has none)", "zh speaks zh"],
        ),
        (Needs(pool="zh", language="en"), ["zh speaks zh", "en is not the one that is asked for"]),
        (Needs(pool="nowhere"), ["pool nowhere", "en is another one; zh is another one"]),
        (Needs(sample_rate_hz=48000), ["zh speaks at 24000 Hz", "en speaks at 32000 Hz"]),
        (Needs(model="gpt"), ["zh has the model glmtts", "en has the model kokoro-82m"]),
        (Needs(model_version="2"), ["zh has the model version 1.2", "of no known version"]),
        (Needs(engine="piper"), ["zh runs glmtts"]),
        (Needs(voice="nova", language="en"), ["voice nova", "en has the voices heart"]),
    ],
)
def test_where_none_fits_it_is_said_what_each_lacks(needs: Needs, words: list[str]) -> None:
    """At once, with what is there; the error survives Celery's JSON and a pickle."""
    with pytest.raises(NoPoolError) as caught:
        choose(needs, THERE, "zh")
    assert [word for word in words if word not in str(caught.value)] == []
    args = json.loads(json.dumps(caught.value.args))
    assert str(NoPoolError(*args)) == str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - ours


def test_a_pool_that_loads_is_not_taken_on_trust_while_others_are_known() -> None:
    """What it will be able to do nobody knows: it is asked again in a moment."""
    with pytest.raises(NoPoolError, match="new is loading, and has not said yet"):
        choose(Needs(language="ja"), {**THERE, "new": LOADING}, "default")


def test_any_worker_of_a_pool_may_take_a_job_so_all_must_be_able_to() -> None:
    """While a pool is changed over to another model neither is promised."""
    mixed = pool("p", offer("zh", model_version="1"), offer("zh", "en", model_version="2"))
    assert choose(Needs(language="zh"), {"p": mixed}, "p") == "p"
    for needs in (Needs(language="en"), Needs(model_version="1"), Needs(model_version="2")):
        with pytest.raises(NoPoolError):
            choose(needs, {"p": mixed}, "p")


NAMES = st.sampled_from(["a", "b", "c", "d"])
OFFERS = st.builds(
    offer,
    st.sampled_from(["zh", "en", "en-GB"]),
    hz=st.sampled_from([24000, 32000]),
    features=st.lists(st.sampled_from(["clone", "phoneme"])),
    model_version=st.sampled_from(["1", "2"]),
    voices=st.sampled_from([(), ("default",), ("default", "bella")]),
)
POOLS = st.dictionaries(
    NAMES, st.tuples(st.lists(OFFERS, max_size=2), st.integers(0, 3)), max_size=4
).map(lambda made: {n: pool(n, *offers, serving=k) for n, (offers, k) in made.items()})
NEEDS = st.builds(
    Needs,
    pool=st.sampled_from(["", "", "a", "z"]),
    language=st.sampled_from(["", "zh", "en", "en-GB"]),
    sample_rate_hz=st.sampled_from([0, 24000]),
    features=st.sampled_from([(), ("clone",), ("clone", "phoneme")]),
    model_version=st.sampled_from(["", "1"]),
    voice=st.sampled_from(["", "bella"]),
)


@given(NEEDS, POOLS, NAMES, st.booleans())
def test_the_choice_always_fits_and_hangs_on_nothing_else(
    needs: Needs, pools: dict[str, Pool], home: str, at_home: bool
) -> None:
    """Nobody of a pool that is chosen lacks anything; none is refused that somebody could serve."""
    in_another_order = dict(sorted(pools.items(), reverse=True))
    try:
        chosen = choose(needs, pools, home, at_home=at_home)
    except NoPoolError:
        able = [one for one in pools.values() if one.offers and not one.lacks(needs)]
        assert [one for one in able if needs.pool in ("", one.name)] == []
        with pytest.raises(NoPoolError):
            choose(needs, in_another_order, home, at_home=at_home)
        return
    assert choose(needs, in_another_order, home, at_home=at_home) == chosen
    assert needs.pool in ("", chosen)
    if chosen in pools:
        assert pools[chosen].lacks(needs) == []
    serving = [one for one in pools.values() if one.serving and one.offers]
    if any(not one.lacks(needs) for one in serving) and not needs.pool and not at_home:
        assert pools[chosen].serving


# -- what the registry shows ----------------------------------------------------------------------


def test_pools_are_what_their_workers_say() -> None:
    """Ready ones serve; one that loads again still offers what it did."""
    found = pools_of(
        [
            (record("w1"), True),
            (record("w2", ready=False), True),
            (record("w3", lane="1"), False),
            (record("e1", pool="en", known=False, ready=False), True),
        ]
    )
    assert list(found) == ["en", "zh"]
    zh = found["zh"]
    assert (zh.lanes, zh.serving, zh.workers) == ({"0": 1, "1": 0}, 1, 3)
    assert [one.languages for one in zh.offers] == [("zh",)]
    assert (found["en"].offers, found["en"].serving) == ((), 0)


def test_a_worker_that_drains_counts_only_while_nobody_else_is_there() -> None:
    """Its successor may be able to do other things."""
    other = {"languages": ["zh", "en"], "sample_rate_hz": 24000}
    old, new = record("old", draining=True), record("new", capabilities=other)
    assert [one.languages for one in pools_of([(old, True), (new, True)])["zh"].offers] == [
        ("zh", "en")
    ]
    loading = record("new", known=False, ready=False)
    (zh,) = pools_of([(old, True), (loading, True)]).values()
    assert ([one.languages for one in zh.offers], zh.serving) == ([("zh",)], 0)
    (alone,) = pools_of([(old, True)]).values()
    assert (alone.offers, alone.serving) == (zh.offers, 0)


# -- the lane -------------------------------------------------------------------------------------


def lanes(**serving: int) -> Pool:
    return Pool("p", (offer("zh"),), {name[1:]: count for name, count in serving.items()}, 4)


def test_a_voice_stays_on_its_lane_when_others_come_and_go() -> None:
    """Only the voices of a lane that goes are moved, and all lanes get some."""
    keys = [f"voice {n}" for n in range(300)]
    before = {key: lanes(_0=1, _1=1, _2=1).lane_for(key) for key in keys}
    assert min(Counter(before.values()).values()) > 60
    without = {key: lanes(_0=1, _1=0, _2=1).lane_for(key) for key in keys}
    assert {key for key in keys if before[key] != without[key]} == {
        key for key in keys if before[key] == "1"
    }
    assert lanes(_0=0, _1=0).lane_for("a") in "01"  # somebody comes back


def test_what_a_lane_hangs_on_is_the_voice() -> None:
    """Its encoding is kept there; that of the default voice is everywhere, so its texts spread."""
    alice = {"voice": "alice@1", "prompt_audio": PIN, "prompt_text": "a"}
    assert voice_key(SpeechRequest(text="a", **alice)) == voice_key(
        SpeechRequest(text="b", **alice)
    )
    bob = SpeechRequest(text="a", voice="bob")
    assert voice_key(bob) == voice_key(SpeechRequest(text="b", voice="bob"))
    assert voice_key(bob) != voice_key(SpeechRequest(text="a", **alice))
    assert voice_key(SpeechRequest(text="a")) != voice_key(SpeechRequest(text="b"))


# -- lines of a batch -----------------------------------------------------------------------------


def test_a_line_is_held_to_what_its_batch_knows_of_the_pool() -> None:
    """The reason names the pool and the way out; where nothing is known nothing is refused."""
    check_fits(Needs(language="zh", pool="zh"), "zh", ZH.offers)
    check_fits(Needs(language="tlh"), "zh", ())
    with pytest.raises(RequestError, match="which speaks zh: submit such lines") as caught:
        check_fits(Needs(language="en"), "zh", ZH.offers)
    assert caught.value.field == "requires.language"
    with pytest.raises(RequestError, match="goes to the pool zh"):
        check_fits(Needs(pool="en"), "zh", ())


@given(OFFERS)
def test_an_offer_is_kept_as_json(one: Offer) -> None:
    """As a batch's head keeps it; in one that knew of no voices none are told."""
    assert Offer.from_json(one.to_json()) == one
    before = json.loads(one.to_json())
    del before["voices"]
    assert Offer.from_json(json.dumps(before)) == replace(one, voices=())
