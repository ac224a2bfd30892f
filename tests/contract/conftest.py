"""What contract suites run on, each kind in turn: storages, and books of batches."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from tests.batch_books import KINDS, Books, books_of_kind
from tests.s3_server import BUCKET, s3_server, use_s3
from tts_tasks.storage import Storage, open_storage
from tts_tasks.testing import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """Start an S3 server on loopback."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["local", "s3", "memory"])
def open_again(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Storage]:
    """Return what opens the same empty storage anew, as another process would."""
    if request.param == "memory":
        objects: dict[str, bytes] = {}
        return lambda: MemoryStorage(objects)
    if request.param == "local":
        return lambda: open_storage((tmp_path / "a b" / "store").as_uri())
    use_s3(monkeypatch, request.getfixturevalue("s3_endpoint"))
    prefix = uuid.uuid4().hex
    return lambda: open_storage(f"s3://{BUCKET}/{prefix}/inner")


@pytest.fixture
def storage(open_again: Callable[[], Storage]) -> Storage:
    """Return an empty storage."""
    return open_again()


@pytest.fixture(params=KINDS)
def books(request: pytest.FixtureRequest) -> Books:
    """Each kind of book in turn, empty."""
    return books_of_kind(request.param, request)
