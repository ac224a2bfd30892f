"""What stands in a batch file as a path leads to a file of its folder, or nowhere."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.recordings import recording
from tts_tasks.errors import ConfigurationError, RequestError
from tts_tasks.voices import files
from tts_tasks.voices.files import MAX_BYTES, ReferenceFiles, prepared, read_audio

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "batch"
    (folder / "voices").mkdir(parents=True)
    (folder / "voices" / "a.wav").write_bytes(b"sound")
    (tmp_path / "secret.wav").write_bytes(b"secret")
    return folder


def refusal(folder: Path, path: str) -> str:
    with pytest.raises(RequestError) as caught:
        ReferenceFiles(folder).read(path)
    assert caught.value.field == "prompt_audio"
    return caught.value.reason


def test_a_file_below_the_folder_is_read(folder: Path) -> None:
    """Also through a link that stays within, and where the folder itself is one."""
    (folder / "link.wav").symlink_to("voices/a.wav")
    (folder.parent / "other").symlink_to(folder)
    assert ReferenceFiles(folder).read("voices/a.wav") == b"sound"
    assert ReferenceFiles(folder).read("link.wav") == b"sound"
    assert ReferenceFiles(folder.parent / "other").read("voices/a.wav") == b"sound"


@pytest.mark.parametrize("path", ["../secret.wav", "voices/../../secret.wav", "/etc/hostname"])
def test_no_path_leads_out(folder: Path, path: str) -> None:
    """Not even one that was never checked."""
    assert "leads out" in refusal(folder, path)


def test_links_that_lead_out_are_refused(folder: Path) -> None:
    """A file's, and a folder's."""
    (folder / "out.wav").symlink_to(folder.parent / "secret.wav")
    (folder / "up").symlink_to(folder.parent)
    (folder / "loop").symlink_to("loop")
    assert "leads out" in refusal(folder, "out.wav")
    assert "leads out" in refusal(folder, "up/secret.wav")
    assert refusal(folder, "loop")


def test_a_folder_that_becomes_a_link_in_between_leads_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the file that was opened, not the one that was looked at."""
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "a.wav").write_bytes(b"secret")
    opened = os.open

    def swap(path: Path, *how: int) -> int:
        (folder / "voices").rename(folder / "old")
        (folder / "voices").symlink_to(outside)
        return opened(path, *how)

    monkeypatch.setattr(files.os, "open", swap)
    assert "leads out of its folder" in refusal(folder, "voices/a.wav")


def test_what_is_no_regular_file_is_never_waited_for(folder: Path) -> None:
    """A pipe that nobody writes to, a folder, a device behind a link, nothing."""
    os.mkfifo(folder / "pipe.wav")
    (folder / "device.wav").symlink_to("/dev/zero")
    for path in ("pipe.wav", "voices", "device.wav", "missing.wav", "voices/a.wav/b"):
        assert refusal(folder, path)
    with pytest.raises(RequestError, match="no regular file"):
        read_audio(folder / "pipe.wav")


def test_a_huge_file_is_not_read(folder: Path) -> None:
    """Its size is known before."""
    with (folder / "huge.wav").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    (folder / "empty.wav").touch()
    assert "bytes large" in refusal(folder, "huge.wav")
    assert "empty" in refusal(folder, "empty.wav")


def test_a_callers_own_audio_is_bytes_or_a_file(folder: Path) -> None:
    """It may be anywhere: the caller says so."""
    assert read_audio(b"sound") == b"sound"
    assert read_audio(folder.parent / "secret.wav") == b"secret"
    with pytest.raises(RequestError, match=r"gone\.wav cannot be read: No such file"):
        read_audio(folder / "gone.wav")


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client has no numpy."""
    for name in ("tts_tasks.reference_audio", "tts_tasks.audio"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ConfigurationError, match=r"soundfile.*tts-tasks\[worker\]"):
        prepared(recording())
