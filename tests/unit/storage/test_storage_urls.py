"""URLs of storages: which are opened, which are refused, and that none tells a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tts_tasks.errors import ConfigurationError
from tts_tasks.storage import LocalStorage, open_storage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}", "{}", "{}/"])
def test_local_urls(tmp_path: Path, form: str) -> None:
    """A file URL and a bare absolute path open the same folder, made if missing."""
    storage = open_storage(form.format(tmp_path / "x" / "y"))
    assert isinstance(storage, LocalStorage)
    assert storage.root == (tmp_path / "x" / "y").resolve()


def test_a_file_url_is_percent_decoded(tmp_path: Path) -> None:
    """Spaces and Chinese in a folder survive the URL."""
    folder = tmp_path / "语音 100%"
    storage = open_storage(folder.as_uri())
    assert storage.path("a.wav") == folder / "a.wav"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "is of no known form"),
        ("relative/path", "is of no known form"),
        ("file://relative/path", "names no absolute folder"),
        ("file:", "names no absolute folder"),
        ("file:///a?b", r"holds \? or #"),
        ("/a\x00b", "NUL"),
        ("file:///a%00b", "NUL"),
        ("http://example.org/x", "is of no known form"),
        ("s3:///prefix", "is of no known form"),
        ("s3://bucket/a/../b", "prefix of the storage URL"),
        ("s3://[bucket", "storage URL"),
    ],
)
def test_a_url_of_another_form_is_refused(url: str, reason: str) -> None:
    """What is no local folder and no bucket is a configuration error that names the forms."""
    with pytest.raises(ConfigurationError, match=reason):
        open_storage(url)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    """A secret in the URL does not get into the logs through the message."""
    with pytest.raises(ConfigurationError, match="AWS_") as caught:
        open_storage("s3://key:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)
