"""Publishing is exactly once, in every storage, alone and together with others."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import pytest

from tests.racing import race
from tts_tasks.errors import ConflictError, StorageError, UnavailableError
from tts_tasks.storage import Artifact, Ownership, Published, Storage, find_published, publish_many
from tts_tasks.storage import publish as publish_alone
from tts_tasks.testing import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MINE = Ownership("batch/1", "s1")
_OTHER = Ownership("other/9", "s9")
_WRITERS = 10
_ROUNDS = 5


class Publish(Protocol):
    """`publish`, or what does the same."""

    def __call__(
        self,
        storage: Storage,
        name: str,
        data: bytes,
        owner: Ownership,
        details: Mapping[str, Any] | None = None,
    ) -> Published: ...


def _together(
    storage: Storage,
    name: str,
    data: bytes,
    owner: Ownership,
    details: Mapping[str, Any] | None = None,
) -> Published:
    """Publish among others, and raise what comes of this one."""
    around = [Artifact(f"around/{n}.wav", b"n", Ownership(f"around/{n}", "s")) for n in range(4)]
    mine = Artifact(name, data, owner, details or {})
    told = publish_many(storage, [*around[:2], mine, *around[2:]])
    assert [one.sha256 for one in told if isinstance(one, Published) and one is not told[2]] == [
        hashlib.sha256(b"n").hexdigest()
    ] * 4
    if isinstance(told[2], Exception):
        raise told[2]
    return told[2]


@pytest.fixture(params=[publish_alone, _together], ids=["alone", "together"])
def publish(request: pytest.FixtureRequest) -> Publish:
    """Both ways to publish."""
    way: Publish = request.param
    return way


def _sidecar(storage: Storage, name: str) -> dict[str, Any]:
    folder, leaf = name.rsplit("/", 1)
    sidecar: dict[str, Any] = json.loads(storage.read(f"{folder}/.tts/{leaf}.json"))
    return sidecar


def _reserve_and_die(storage: Storage, name: str, data: bytes, owner: Ownership) -> None:
    """Leave what an attempt leaves that dies between the reservation and the artifact."""

    class DiedError(Exception):
        pass

    class Dying:
        def __getattr__(self, method: str) -> Any:
            return getattr(storage, method)

        def create(self, name: str, data: bytes) -> bool:
            if not name.endswith(".json"):
                raise DiedError
            return storage.create(name, data)

    with pytest.raises(DiedError):
        publish_alone(cast("Storage", Dying()), name, data, owner, {"attempt": 1})


def test_publishing_keeps_the_facts_beside_the_artifact(storage: Storage, publish: Publish) -> None:
    """The first finisher creates the artifact and a sidecar with job, hash, size and details."""
    published = publish(storage, "b/a.wav", b"sound", _MINE, {"duration_s": 1.5, "attempt": 1})
    sha256 = hashlib.sha256(b"sound").hexdigest()
    assert published == Published(
        name="b/a.wav",
        uri=storage.uri("b/a.wav"),
        sha256=sha256,
        size_bytes=5,
        adopted=False,
        details={"duration_s": 1.5, "attempt": 1},
    )
    assert _sidecar(storage, "b/a.wav") == {
        "job": "batch/1",
        "sound": "s1",
        "sha256": sha256,
        "size_bytes": 5,
        "details": {"duration_s": 1.5, "attempt": 1},
    }


def test_the_second_finisher_adopts_the_first_ones(storage: Storage, publish: Publish) -> None:
    """The same job finished again gets what is there, with its facts, even from other bytes."""
    first = publish(storage, "b/a.opus", b"sound", _MINE, {"attempt": 1})
    for data in (b"sound", b"same sound, other bytes"):
        second = publish(storage, "b/a.opus", data, _MINE, {"attempt": 2})
        assert second == replace(first, adopted=True)
    assert storage.read("b/a.opus") == b"sound"
    assert _sidecar(storage, "b/a.opus")["details"] == {"attempt": 1}


def test_what_is_published_is_found_before_speaking(storage: Storage, publish: Publish) -> None:
    """A resubmitted job finds its artifact; another job or sound finds nothing."""
    assert find_published(storage, "b/a.wav", _MINE) is None
    first = publish(storage, "b/a.wav", b"sound", _MINE, {"attempt": 1})
    assert find_published(storage, "b/a.wav", _MINE) == replace(first, adopted=True)
    assert find_published(storage, "b/a.wav", _OTHER) is None
    assert find_published(storage, "b/a.wav", Ownership(_MINE.job, "s2")) is None


def test_racing_finishers_of_one_job_publish_once(
    open_again: Callable[[], Storage], publish: Publish
) -> None:
    """Of ten attempts that finish one job with different bytes, one publishes, nine adopt it."""
    storages = [open_again() for _ in range(_WRITERS)]
    for number in range(_ROUNDS):
        name = f"b/{number}.opus"
        data = [bytes([writer]) * 1000 for writer in range(_WRITERS)]
        done = race(
            [
                partial(publish, one, name, data[place], _MINE, {"attempt": place})
                for place, one in enumerate(storages)
            ]
        )
        winners = [place for place, one in enumerate(done) if not one.adopted]
        assert len(winners) == 1
        assert storages[0].read(name) == data[winners[0]]
        assert {one.sha256 for one in done} == {hashlib.sha256(data[winners[0]]).hexdigest()}
        found = find_published(storages[0], name, _MINE)
        assert found is not None
        assert found.details == {"attempt": winners[0]}


def test_racing_jobs_for_one_name_leave_one_artifact(
    open_again: Callable[[], Storage], publish: Publish
) -> None:
    """Of ten different jobs that want one name, one has it and nine are told of the conflict."""
    storages = [open_again() for _ in range(_WRITERS)]

    def finish(place: int, name: str) -> str | None:
        owner = Ownership(f"job{place}", f"sound{place}")
        try:
            return publish(storages[place], name, b"%d" % place, owner).sha256
        except ConflictError:
            return None

    for number in range(_ROUNDS):
        name = f"b/{number}.wav"
        done = race([partial(finish, place, name) for place in range(_WRITERS)])
        winners = [sha256 for sha256 in done if sha256 is not None]
        assert winners == [hashlib.sha256(storages[0].read(name)).hexdigest()]
        assert _sidecar(storages[0], name)["sha256"] == winners[0]


def test_a_name_of_somebody_else_is_a_conflict(storage: Storage, publish: Publish) -> None:
    """Another job's name is refused and untouched, unless the content is the same."""
    publish(storage, "b/a.wav", b"sound", _MINE)
    with pytest.raises(ConflictError, match="exists with other content, of job batch/1"):
        publish(storage, "b/a.wav", b"other", _OTHER)
    assert storage.read("b/a.wav") == b"sound"
    same = publish(storage, "b/a.wav", b"sound", _OTHER)
    assert same.adopted
    assert _sidecar(storage, "b/a.wav")["job"] == _MINE.job


def test_a_new_sound_of_the_same_job_is_a_conflict(storage: Storage, publish: Publish) -> None:
    """A job's name whose request now sounds different is not adopted."""
    publish(storage, "b/a.wav", b"sound", _MINE)
    with pytest.raises(ConflictError):
        publish(storage, "b/a.wav", b"other", Ownership(_MINE.job, "s2"))


def test_a_file_that_no_job_published_is_a_conflict_every_time(
    storage: Storage, publish: Publish
) -> None:
    """A file put there by hand is never adopted for other content, on no attempt."""
    storage.create("b/a.wav", b"by hand")
    for _ in range(3):
        assert find_published(storage, "b/a.wav", _MINE) is None
        with pytest.raises(ConflictError, match="of something that no job published"):
            publish(storage, "b/a.wav", b"sound", _MINE)
    assert storage.read("b/a.wav") == b"by hand"
    assert publish(storage, "b/a.wav", b"by hand", _MINE).adopted


def test_a_reserved_name_is_a_conflict_for_others(storage: Storage, publish: Publish) -> None:
    """While its holder may still come back, nobody else takes a reserved name."""
    _reserve_and_die(storage, "b/a.wav", b"sound", _MINE)
    with pytest.raises(ConflictError, match=r"reserved by job batch/1.*a\.wav\.json"):
        publish(storage, "b/a.wav", b"other", _OTHER)
    assert storage.stat("b/a.wav") is None
    assert not publish(storage, "b/a.wav", b"sound", _MINE).adopted


def test_equal_content_needs_no_reservation_of_its_own(storage: Storage, publish: Publish) -> None:
    """Another job with the very bytes that are reserved publishes them; the holder adopts them."""
    _reserve_and_die(storage, "b/a.wav", b"sound", _MINE)
    assert not publish(storage, "b/a.wav", b"sound", _OTHER).adopted
    assert publish(storage, "b/a.wav", b"again", _MINE).adopted
    assert storage.read("b/a.wav") == b"sound"


def test_the_sidecar_follows_the_attempt_that_published(storage: Storage, publish: Publish) -> None:
    """When an attempt died after reserving, the next one's own facts stand in the end."""
    _reserve_and_die(storage, "b/a.opus", b"never published", _MINE)
    assert find_published(storage, "b/a.opus", _MINE) is None
    second = publish(storage, "b/a.opus", b"sound", _MINE, {"attempt": 2})
    assert not second.adopted
    assert find_published(storage, "b/a.opus", _MINE) == replace(second, adopted=True)
    assert _sidecar(storage, "b/a.opus")["details"] == {"attempt": 2}


def test_facts_are_recomputed_where_the_sidecar_is_of_another_content(
    storage: Storage, publish: Publish
) -> None:
    """An attempt that died before correcting the sidecar leaves no wrong hash behind."""
    _reserve_and_die(storage, "b/a.opus", b"never published", _MINE)
    storage.create("b/a.opus", b"sound")
    found = find_published(storage, "b/a.opus", _MINE)
    assert found is not None
    assert (found.sha256, found.size_bytes) == (hashlib.sha256(b"sound").hexdigest(), 5)
    assert found.details == {}
    again = publish(storage, "b/a.opus", b"sound", _MINE, {"attempt": 3})
    assert again.adopted
    assert again.details == {"attempt": 3}


def test_an_unreadable_sidecar_keeps_the_name_taken(storage: Storage, publish: Publish) -> None:
    """A sidecar edited into nonsense is a conflict that names it, never an overwrite."""
    storage.create("b/.tts/a.wav.json", b"nonsense")
    with pytest.raises(ConflictError, match="unreadable sidecar"):
        publish(storage, "b/a.wav", b"sound", _MINE)


def test_of_several_each_gets_its_own_answer(storage: Storage) -> None:
    """New, adopted, in conflict, the same name twice, and an unsafe name, in their order."""
    publish_alone(storage, "b/mine.wav", b"old", _MINE)
    publish_alone(storage, "b/theirs.wav", b"old", _OTHER)
    told = publish_many(
        storage,
        [
            Artifact("b/new.wav", b"new", _MINE, {"attempt": 2}),
            Artifact("b/mine.wav", b"other bytes", _MINE),
            Artifact("b/theirs.wav", b"new", _MINE),
            Artifact("b/new.wav", b"not new", _OTHER),
            Artifact("../new.wav", b"new", _MINE),
            Artifact("b/last.wav", b"last", _MINE),
        ],
    )
    new, mine, theirs, twice, unsafe, last = told
    assert isinstance(new, Published)
    assert (new.adopted, new.details) == (False, {"attempt": 2})
    assert isinstance(mine, Published)
    assert mine.adopted
    assert isinstance(theirs, ConflictError)
    assert isinstance(twice, ConflictError)
    assert isinstance(unsafe, StorageError)
    assert isinstance(last, Published)
    for name, data in [("new", b"new"), ("mine", b"old"), ("theirs", b"old"), ("last", b"last")]:
        assert storage.read(f"b/{name}.wav") == data


def test_nothing_to_publish(storage: Storage) -> None:
    """Is nothing to do."""
    assert publish_many(storage, []) == []
    assert list(storage.list()) == []


def test_racing_groups_publish_each_artifact_once(open_again: Callable[[], Storage]) -> None:
    """Two attempts at the same jobs, ten at a time, in two orders: one creates, one adopts."""
    jobs = [Artifact(f"race/{n}.wav", b"sound", Ownership(f"b/{n}", "s")) for n in range(10)]
    for _ in range(_ROUNDS // 2):
        one, other = open_again(), open_again()
        told = race([partial(publish_many, one, jobs), partial(publish_many, other, jobs[::-1])])
        assert all(isinstance(published, Published) for group in told for published in group)
        assert all(one.read(job.name) == b"sound" for job in jobs)
    assert len(list(open_again().list("race"))) == 10


def test_an_outage_is_passed_on_and_what_was_done_is_adopted() -> None:
    """The whole is asked again: what was published before is found, and nothing is doubled."""

    class Failing(MemoryStorage):
        fails = True

        def create_many(self, objects: Any) -> list[bool]:
            created = super().create_many(objects[:1])
            if self.fails and not objects[0][0].endswith(".json"):
                self.fails = False
                raise UnavailableError("away")
            return [*created, *super().create_many(objects[1:])]

    storage = Failing()
    artifacts = [Artifact(f"{n}.wav", b"x", Ownership(f"b/{n}", "s")) for n in range(3)]
    with pytest.raises(UnavailableError):
        publish_many(storage, artifacts)
    told = publish_many(storage, artifacts)
    assert [one.adopted for one in told if isinstance(one, Published)] == [True, False, False]


def test_one_that_fails_does_not_take_the_others_with_it() -> None:
    """Where creating them together fails, each is published alone, and the error is its own."""

    class Full(MemoryStorage):
        def create(self, name: str, data: bytes) -> bool:
            if data == b"large":
                raise StorageError("the disk is full")
            return super().create(name, data)

    told = publish_many(
        Full(),
        [
            Artifact("a.wav", b"small", _MINE),
            Artifact("b.wav", b"large", _MINE),
            Artifact("c.wav", b"small", _MINE),
        ],
    )
    assert [type(one) for one in told] == [Published, StorageError, Published]
