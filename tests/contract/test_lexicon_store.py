"""Lexicons in storage: versions that never change, whoever adds them, and pins that stay good."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tts_tasks.errors import NotFoundError, RequestError, StorageError
from tts_tasks.lexicons import KeptLexicons, Lexicon, LexiconStore, entry
from tts_tasks.lexicons.store import LEXICONS_FOLDER
from tts_tasks.pinning import Pinning, Recent, checking, pinning_for_batch
from tts_tasks.requests import SpeechRequest
from tts_tasks.voices.references import ReferenceStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.storage import Storage

ONE = Lexicon((entry("行长", "pinyin", "hang2 zhang3"),))
TWO = Lexicon((entry("行长", "pinyin", "xing2 chang2"),))


def test_a_name_means_its_newest_version(storage: Storage) -> None:
    """Each addition is a version of its own; the same content again is none."""
    store = LexiconStore(storage)
    first = store.add("bank", ONE)
    assert store.add("bank", ONE) == first
    second = store.add("bank", TWO)
    assert (first.version, second.version) == (1, 2)
    assert store.find("bank") == second
    assert store.find("bank@1") == first
    assert (store.read("bank"), store.read("bank@1")) == (TWO, ONE)
    assert [one.version for one in store.versions("bank")] == [1, 2]
    assert store.add("other", ONE).version == 1
    assert [one.spec for one in store.all()] == ["bank@2", "other@1"]


def test_of_racing_additions_none_is_lost(open_again: Callable[[], Storage]) -> None:
    """Writers at once get versions of their own, each with its own content."""
    lexicons = [Lexicon((entry("一", "text", str(number)),)) for number in range(6)]
    barrier = threading.Barrier(len(lexicons))

    def add(lexicon: Lexicon) -> str:
        store = LexiconStore(open_again())
        barrier.wait(30)
        return store.add("bank", lexicon).pin

    with ThreadPoolExecutor(len(lexicons)) as pool:
        pins = list(pool.map(add, lexicons))
    store = LexiconStore(open_again())
    assert [store.read(pin) for pin in pins] == lexicons
    assert sorted(one.version for one in store.versions("bank")) == [1, 2, 3, 4, 5, 6]


def test_a_pin_stays_good_when_the_name_is_gone(storage: Storage) -> None:
    """After a removal no job can name the lexicon, and those that are pinned still have it."""
    store = LexiconStore(storage)
    pin = store.add("bank", ONE).pin
    assert store.remove("bank").version == 2
    for name in ("bank", "bank@1", "bank@2"):
        with pytest.raises(RequestError, match=f"there is no lexicon {name}"):
            store.find(name)
    assert store.read(pin) == ONE
    assert store.all() == []
    with pytest.raises(NotFoundError):
        store.remove("bank")
    assert store.add("bank", ONE).version == 3


def test_a_pin_of_other_content_is_refused(storage: Storage) -> None:
    """What a pin names is checked, and so is what the storage holds."""
    store = LexiconStore(storage)
    first = store.add("bank", ONE)
    with pytest.raises(RequestError, match="has other content"):
        store.read(f"{first.spec}+{TWO.sha256}")
    name = f"{LEXICONS_FOLDER}/bank/00000001.jsonl"
    storage.replace(name, storage.read(name).replace(b"hang2", b"xing2"))
    with pytest.raises(StorageError, match="is damaged"):
        store.read(first.pin)
    storage.replace(name, b"not ours")
    with pytest.raises(StorageError, match="cannot be read"):
        store.find("bank")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "a@0", "a@x", "a@1+zz", "@1", "x" * 49])
def test_names_that_could_be_anything_else_are_refused(storage: Storage, name: str) -> None:
    """A name that could leave its folder, or is none, is refused before storage is asked."""
    store = LexiconStore(storage)
    for call in (store.find, store.read, store.versions, lambda n: store.add(n, ONE)):
        with pytest.raises(RequestError, match="is not NAME"):
            call(name)
    with pytest.raises(RequestError, match="holds no entry"):
        store.add("bank", Lexicon())


def test_a_worker_reads_a_pinned_lexicon_once(storage: Storage) -> None:
    """What a pin names is kept, a name is looked up each time, and few are kept."""
    store = LexiconStore(storage)
    pin = store.add("bank", ONE).pin
    kept = KeptLexicons(storage)
    assert kept.get(pin) is kept.get(pin)
    assert kept.get("bank") == ONE
    store.add("bank", TWO)
    assert (kept.get("bank"), kept.get(pin)) == (TWO, ONE)
    first = kept.get(pin)
    for number in range(10):
        kept.get(store.add(f"n{number}", ONE).pin)
    assert kept.get(pin) is not first


def test_a_request_is_pinned_to_the_version_of_its_acceptance(storage: Storage) -> None:
    """Rule 5: the pin is in the request and counts for its sound; the next job gets the next."""
    store = LexiconStore(storage)
    first = store.add("bank", ONE)
    now_s = [100.0]
    recent = Recent(lambda: now_s[0])
    pinning = Pinning(None, ReferenceStore(storage), recent, lexicons=store)
    request = SpeechRequest(text="行长", lexicon="bank")
    before = pinning.pin(request)
    assert before.lexicon == first.pin
    assert pinning.pin(before) is before
    store.add("bank", TWO)
    now_s[0] += 2
    after = pinning.pin(request)
    assert after.lexicon == store.find("bank").pin
    assert len({one.sound_sha256() for one in (request, before, after)}) == 3
    assert pinning.pin(request.model_copy(update={"lexicon": "bank@1"})).lexicon == first.pin
    with pytest.raises(RequestError, match="there is no lexicon none"):
        pinning.pin(request.model_copy(update={"lexicon": "none"}))


def test_a_file_can_be_checked_for_lexicons_that_are_not_there(storage: Storage) -> None:
    """With a storage names are looked up, without one only what could be no name is refused."""
    request = SpeechRequest(text="行长", lexicon="bank")
    assert checking(None).pin(request) == request
    with pytest.raises(RequestError, match="is not NAME"):
        checking(None).pin(request.model_copy(update={"lexicon": "a:b"}))
    with pytest.raises(RequestError, match="there is no lexicon bank"):
        checking(None, storage).pin(request)


def test_a_batch_keeps_its_lexicon_to_its_end(open_again: Callable[[], Storage]) -> None:
    """A lexicon that changes while a file is submitted, or submitted again, does not change it."""
    store = LexiconStore(open_again())
    first = store.add("bank", ONE)
    request = SpeechRequest(text="行长", lexicon="bank")

    def pinned(batch: str) -> str | None:
        return pinning_for_batch(open_again(), batch).pin(request).lexicon

    assert pinned("b1") == first.pin
    store.add("bank", TWO)
    assert pinned("b1") == first.pin
    assert pinned("b2") == store.find("bank").pin
