"""Voices on real workers: there at once for all, pinned, and the same from whoever speaks."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.recordings import recording
from tests.waiting import eventually
from tts_tasks import app, client, synthesize
from tts_tasks.cluster import cluster_status
from tts_tasks.errors import ConflictError, JobFailedError, NoPoolError, RequestError
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.e2e

#: A line of `TEXT` is about a quarter of a second of work.
CLONING = {"TTS_ENGINE": "paced", "TTS_PACED_CLONE": "1", "TTS_PACED_COST": "0.15"}
TEXT = "请3号到窗口。"


def sounds(batch: str) -> set[str]:
    """Return the hashes of a batch's artifacts."""
    return {str(result.sha256) for result in client.follow(batch, timeout_s=120)}


def ttsctl(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ttsctl", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_voice_that_is_added_while_they_run_is_there_for_both_workers_at_once(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Nothing is restarted, and both sound the same; each encodes it once, or finds it encoded."""
    cluster.start("w1", "w2", **CLONING)
    client.voice_add("alice", recording(seed=1), text="你好，世界。")
    (tmp_path / "bob.wav").write_bytes(recording(seed=2))
    lines: list[dict[str, Any]] = []
    for n in range(8):
        lines.append({"text": TEXT, "voice": "alice", "output_name": f"alice/{n}"})
        inline = {"prompt_audio": "bob.wav", "prompt_text": "你好，世界。"}
        lines.append({"text": TEXT, **inline, "output_name": f"bob/{n}"})
        lines.append({"text": TEXT, "output_name": f"plain/{n}"})
    path = tmp_path / "batch.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    client.submit_batch(path, id="b")
    results = list(client.follow("b", timeout_s=120))
    assert [result.state for result in results] == ["succeeded"] * 24
    by_voice: dict[str, set[tuple[str, str]]] = {}
    for result in results:
        voice = str(result.name).split("/")[1]
        by_voice.setdefault(voice, set()).add((str(result.worker), str(result.sha256)))
    for spoken in by_voice.values():
        assert len({worker for worker, _ in spoken}) == 2
        assert len({sha256 for _, sha256 in spoken}) == 1
    assert len({sha256 for spoken in by_voice.values() for _, sha256 in spoken}) == 3
    encoded = open_storage(get_settings().storage_url).list_hidden(".tts/voices/encoded")
    assert len(list(encoded)) == 2
    online = synthesize.delay(TEXT, voice="alice").get(timeout=60)
    assert online["sha256"] in {sha256 for _, sha256 in by_voice["alice"]}


def test_a_newer_version_does_not_change_a_batch_and_the_voice_cannot_go(cluster: Cluster) -> None:
    """From its first line to its last it sounds as it was accepted; new jobs sound new."""
    cluster.start("w1", **CLONING)
    client.voice_add("alice", recording(seed=1), text="你好，世界。")
    client.submit_batch([{"text": TEXT, "voice": "alice"} for _ in range(12)], id="b")
    eventually(lambda: client.batch_status("b").succeeded >= 1, what="it is under way")
    client.voice_add("alice", recording(seed=2), text="你好，世界。")
    with pytest.raises(ConflictError, match="in use by batch b"):
        client.voice_remove("alice")
    assert client.batch_status("b").succeeded < 12
    assert len(old := sounds("b")) == 1
    new = synthesize.delay(TEXT, voice="alice").get(timeout=60)["sha256"]
    assert new not in old
    assert synthesize.delay(TEXT, voice="alice@1").get(timeout=60)["sha256"] in old
    client.voice_remove("alice")
    with pytest.raises(NoPoolError, match="voice alice"):
        synthesize.delay(TEXT, voice="alice")


def test_a_voice_goes_on_elsewhere_when_its_worker_dies(cluster: Cluster) -> None:
    """Also where it was removed by force: what is accepted is spoken."""
    cluster.start("w1", "w2", **CLONING)
    client.voice_add("alice", recording(seed=1), text="你好，世界。")
    client.submit_batch([{"text": TEXT * 6, "voice": "alice"} for _ in range(4)], id="b")
    eventually(lambda: cluster_status()["workers"][0]["job"], what="it is under way")
    client.voice_remove("alice", force=True)
    primary = cluster.primary()
    assert primary is not None
    primary.kill()
    assert [r.state for r in client.follow("b", timeout_s=120)] == ["succeeded"] * 4
    assert len(sounds("b")) == 1


def test_an_engine_that_imitates_nobody_says_so_and_no_path_is_opened(
    cluster: Cluster, tmp_path: Path
) -> None:
    """At once where it is known, else by the job; a path from a foreign client is refused."""
    client.voice_add("alice", recording(), text="你好，世界。")
    early = synthesize.delay(TEXT, voice="alice")  # nobody is there yet
    inline = synthesize.delay(TEXT, prompt_audio=recording(), prompt_text="你好")
    cluster.start("w1", TTS_ENGINE="espeak")
    with pytest.raises(JobFailedError, match=r"voice: is reference audio.*espeak"):
        early.get(timeout=60)
    with pytest.raises(JobFailedError, match=r"prompt_audio: is reference audio"):
        inline.get(timeout=60)
    for late in ({"voice": "alice"}, {"prompt_audio": recording(), "prompt_text": "你好"}):
        with pytest.raises(NoPoolError, match="default lacks the feature clone"):
            synthesize.delay(TEXT, **late)
    queue = "tts.online.default.0"
    fields = {"text": TEXT, "prompt_text": "你好", "prompt_audio": str(tmp_path / "a.wav")[1:]}
    foreign = app.send_task("tts_tasks.synthesize", kwargs=fields, queue=queue)
    with pytest.raises(RequestError, match="means nothing on a worker"):
        foreign.get(timeout=60)
    foreign = app.send_task(
        "tts_tasks.synthesize", kwargs={"text": TEXT, "voice": "alice:sad"}, queue=queue
    )
    with pytest.raises(RequestError, match="no alice:sad, but alice"):
        foreign.get(timeout=60)


def test_ttsctl_adds_tries_and_removes_a_voice(cluster: Cluster, tmp_path: Path) -> None:
    """As the page says."""
    cluster.start("w1", **CLONING)
    take = tmp_path / "take.wav"
    take.write_bytes(recording())
    added = ttsctl("voice", "add", "alice", str(take), "--text", "你好，世界。", "-o", "json")
    assert added.returncode == 0, added.stderr
    assert (json.loads(added.stdout)["voice"], json.loads(added.stdout)["version"]) == ("alice", 1)
    assert "voice.no_consent" in added.stderr
    tried = ttsctl("voice", "test", "alice", TEXT, "--out", str(tmp_path / "sample.mp3"))
    assert tried.returncode == 0, tried.stderr
    assert (tmp_path / "sample.mp3").stat().st_size > 1000
    assert ttsctl("voice", "rm", "alice").returncode == 0
    assert ttsctl("voice", "show", "alice").returncode == 6
    take.write_bytes(recording(1.0))
    refused = ttsctl("voice", "add", "alice", str(take), "--text", "你好")
    assert refused.returncode == 2
    assert "1.0 s of speech" in refused.stderr
