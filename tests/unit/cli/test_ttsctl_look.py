"""``ttsctl status``, ``events``, ``version``: looking at the cluster."""

from __future__ import annotations

import json

import pytest


def test_status_json_is_the_clusters_own_shape(ttsctl, cluster):
    """-o json: lanes, workers and queues as the client has them."""
    assert json.loads(ttsctl("status", "-o", "json").stdout) == cluster.cluster


def test_status_shows_primary_workers_and_queues(ttsctl):
    """The table names the lane's primary and epoch, each worker's state, each queue's length."""
    lines = [line.split() for line in ttsctl("status").stdout.splitlines()]
    assert ["default.0", "tts@a/1", "7"] in lines
    assert ["tts@b/1", "default", "standby", "no", "cuda:1", "0.1", "s", "ago", "b", "12"] in lines
    assert ["tts.batch.default", "12"] in lines


def test_status_shows_what_pools_can_do_and_what_is_wrong_with_devices(ttsctl, cluster):
    """Pools with what they are routed by; a worker out of service with the reason."""
    known = {"engine": "glmtts", "model_version": "1.2", "languages": ["zh", "en"]}
    known |= {"sample_rate_hz": 24000, "features": ["clone"]}
    cluster.cluster["pools"] = [
        {"pool": "default", "serving": 1, "workers": 2, **known},
        {"pool": "new", "serving": 0, "workers": 1},
    ]
    cluster.cluster["workers"][0]["gpu"] = {"temperature_c": 61}
    cluster.cluster["workers"][1] |= {"role": "faulty", "fault": "Xid 79"}
    stdout = ttsctl("status").stdout
    lines = [line.split() for line in stdout.splitlines()]
    glmtts = ["1", "of", "2", "glmtts", "1.2", "zh,", "en", "24000", "clone"]
    assert ["default", *glmtts] in lines
    assert any(line[:4] == ["new", "0", "of", "1"] for line in lines)
    assert "cuda:0, 61 °C" in stdout
    assert "tts@b/1 is out of service: Xid 79" in stdout


def test_status_without_workers_says_what_to_do(ttsctl, cluster):
    """An empty cluster names the command that fills it; a lane without primary shows a dash."""
    cluster.cluster = {
        "lanes": [{"pool": "default", "lane": "0", "primary": None, "epoch": None}],
        "workers": [],
        "queues": {},
    }
    stdout = ttsctl("status").stdout
    assert "ttsctl up" in stdout
    assert ["default.0", "-", "-"] in [line.split() for line in stdout.splitlines()]


def test_status_without_redis_is_8_and_keeps_the_password(ttsctl, cluster, no_redis):
    """No store: exit code 8, where it was looked for and the way out, never the password."""
    cluster.trouble["cluster_status"] = no_redis
    result = ttsctl("status")
    assert (result.exit_code, result.stdout) == (8, "")
    assert "no Redis at redis://***@127.0.0.1:6379/0" in result.stderr
    assert "ttsctl up" in result.stderr
    assert "hunter2" not in result.output


def test_watch_goes_on_through_an_outage_until_ctrl_c(ttsctl, cluster, no_redis, monkeypatch):
    """--watch writes a line each time, tells an outage on stderr, and ends with 130."""
    answers = iter([cluster.cluster, no_redis, cluster.cluster, KeyboardInterrupt()])

    def next_answer():
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(cluster, "cluster_status", next_answer)
    result = ttsctl("status", "--watch", "--interval", "0.1", "-o", "json")
    assert result.exit_code == 130
    assert [json.loads(line) for line in result.stdout.splitlines()] == [cluster.cluster] * 2
    assert "no Redis" in result.stderr
    assert "hunter2" not in result.stderr


EVENT = {"time": "2026-11-02T10:00:00.000Z", "event": "lease.acquired", "lane": "default.0"}


def test_events_are_jsonl_in_a_pipe(ttsctl, cluster):
    """Without -o a pipe gets each event as one JSON line."""
    cluster.happened = [EVENT, {**EVENT, "event": "lease.released"}]
    lines = [json.loads(line) for line in ttsctl("events").stdout.splitlines()]
    assert lines == cluster.happened


def test_events_as_a_table_cannot_move_the_cursor(ttsctl, cluster):
    """-o table: time, name and fields; control characters of a field are shown escaped."""
    cluster.happened = [{**EVENT, "text": "\x1b[2Jgone\n"}]
    (line,) = ttsctl("events", "-o", "table").stdout.splitlines()
    assert line.split()[:3] == [EVENT["time"], "lease.acquired", "lane=default.0"]
    assert line.endswith("text=\\x1b[2Jgone\\n")


@pytest.mark.parametrize(
    ("span", "seconds"), [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1.5", 1.5)]
)
def test_since_takes_spans(ttsctl, cluster, span, seconds):
    """--since counts back from now."""
    ttsctl("events", "--since", span)
    assert cluster.calls == [("events", {"follow": False, "since_s": seconds})]


@pytest.mark.parametrize("span", ["soon", "-5m", "10 parsecs", ""])
def test_a_span_that_is_none_is_a_usage_error(ttsctl, span):
    """--since names the forms it takes."""
    result = ttsctl("events", "--since", span)
    assert result.exit_code == 2
    assert "10m" in result.stderr


def test_following_events_ends_with_ctrl_c(ttsctl, cluster):
    """--follow shows what is there, goes on, and ends with 130."""
    cluster.happened = [EVENT]
    result = ttsctl("events", "--follow")
    assert result.exit_code == 130
    assert json.loads(result.stdout) == EVENT


def test_version_says_what_is_installed(ttsctl):
    """-o json: our version, Python's and those of the libraries we stand on."""
    versions = json.loads(ttsctl("version", "-o", "json").stdout)
    assert {"ttsctl", "python", "celery", "redis"} <= set(versions)
    assert ttsctl("version", "-o", "id").stdout.strip() == versions["ttsctl"]
    assert ttsctl("--version").stdout.strip() == f"ttsctl {versions['ttsctl']}"
