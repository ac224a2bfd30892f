"""`ttsctl voice`: what it writes, and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tts_tasks.errors import ConflictError, NotFoundError, RequestError
from tts_tasks.voices import VoiceVersion

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from tests.unit.cli.conftest import FakeCluster

    Run = Callable[..., Result]

ALICE = VoiceVersion(
    name="alice",
    style="",
    version=2,
    created_at="2026-11-02T10:00:00+00:00",
    text="你好",
    audio_sha256="ab" * 32,
    consent="Alice, by letter",
    checks={"speech_s": 4.2, "warnings": ["2 channels that are the same were mixed down to one"]},
)
HAPPY = VoiceVersion("alice", "happy", 1, "2026-11-03T10:00:00+00:00", "太好了", "cd" * 32)


@pytest.fixture(autouse=True)
def _voices(cluster: FakeCluster) -> None:
    cluster.voices = [ALICE, HAPPY]


@pytest.fixture
def take(tmp_path: Path) -> Path:
    path = tmp_path / "take.wav"
    path.write_bytes(b"RIFF")
    return path


def test_add_hands_over_the_file_and_writes_the_version(
    ttsctl: Run, cluster: FakeCluster, take: Path, told: Callable[[Result], list[dict[str, Any]]]
) -> None:
    """Warnings and missing consent are talk."""
    result = ttsctl("voice", "add", "alice", str(take), "--text", "你好", "--consent", "Alice")
    assert result.exit_code == 0
    assert ("voice_add", ("alice", take, "你好", "Alice")) in cluster.calls
    assert "alice" in result.stdout
    assert "4.2" in result.stdout
    assert [event["event"] for event in told(result)] == ["voice.warning"]
    cluster.voices = [HAPPY]
    result = ttsctl("voice", "add", "alice:happy", str(take), "--text", "太好了", "-o", "id")
    assert result.stdout == "alice:happy@1\n"
    assert [event["event"] for event in told(result)] == ["voice.no_consent"]


def test_add_needs_a_transcript_and_a_file(ttsctl: Run, take: Path) -> None:
    """Usage errors, before anything is asked of the cluster."""
    assert ttsctl("voice", "add", "alice", str(take)).exit_code == 2
    assert ttsctl("voice", "add", "alice", str(take) + "x", "--text", "a").exit_code == 2


def test_ls_is_a_table_json_lines_or_names(ttsctl: Run) -> None:
    """Scripts rely on the keys."""
    table = ttsctl("voice", "ls").stdout.splitlines()
    assert table[0].split() == ["VOICE", "VERSION", "SPEECH_S", "CONSENT", "CREATED_AT", "TEXT"]
    assert table[2].split()[:4] == ["alice:happy", "1", "-", "-"]
    assert ttsctl("voice", "ls", "-o", "id").stdout == "alice@2\nalice:happy@1\n"
    lines = [json.loads(line) for line in ttsctl("voice", "ls", "-o", "jsonl").stdout.splitlines()]
    assert lines == json.loads(ttsctl("voice", "ls", "-o", "json").stdout)
    assert lines[0]["voice"] == "alice"
    assert lines[0].keys() == {
        *("voice", "version", "text", "consent", "speech_s", "created_at", "sha256"),
        *("audio_sha256", "checks"),
    }


def test_show_has_all_that_is_known(ttsctl: Run) -> None:
    """Of the newest version, and which others there are."""
    shown = json.loads(ttsctl("voice", "show", "alice", "-o", "json").stdout)
    assert (shown["version"], shown["versions"]) == (2, [2, 1])
    assert "Alice, by letter" in ttsctl("voice", "show", "alice").stdout
    assert ttsctl("voice", "show", "alice", "-o", "id").stdout == "alice@2\nalice@1\n"


def test_test_speaks_a_sample_and_writes_it(
    ttsctl: Run, cluster: FakeCluster, tmp_path: Path
) -> None:
    """With the voice that is named, in the format of the file's name."""
    cluster.artifacts["file:///srv/artifacts/l1.wav"] = b"ID3"
    target = tmp_path / "sample.mp3"
    result = ttsctl("voice", "test", "alice:happy", "你好", "--out", str(target))
    assert result.exit_code == 0, result.output
    (request,) = [given for name, given in cluster.calls if name == "submit_job"]
    assert (request.text, request.voice, request.format) == ("你好", "alice:happy", "mp3")
    assert target.read_bytes() == b"ID3"
    assert ttsctl("voice", "test", "alice").stdout == "/srv/artifacts/l1.wav\n"
    assert ttsctl("voice", "test", "alice", "-o", "id").stdout == "default.0:job1\n"
    assert ttsctl("voice", "test", "alice", "--out", "-", "-o", "json").exit_code == 2
    assert ttsctl("voice", "test", "not a name").exit_code == 2


def test_rm_names_what_it_removed(
    ttsctl: Run, cluster: FakeCluster, told: Callable[[Result], list[dict[str, Any]]]
) -> None:
    """As talk: there is no answer."""
    result = ttsctl("voice", "rm", "alice", "--force")
    assert (result.exit_code, result.stdout) == (0, "")
    assert told(result)[0]["removed"] == ["alice", "alice:happy"]
    assert ("voice_remove", ("alice", True)) in cluster.calls


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("voice", "is none"), 2),
        (ConflictError("in use by batch b1"), 5),
        (NotFoundError("there is no voice alice"), 6),
    ],
)
def test_errors_end_with_their_codes(
    ttsctl: Run, cluster: FakeCluster, error: Exception, code: int
) -> None:
    """And their messages on stderr."""
    cluster.trouble["voice_remove"] = error
    result = ttsctl("voice", "rm", "alice")
    assert result.exit_code == code
    assert str(error) in result.stderr
