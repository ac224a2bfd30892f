"""``ttsctl submit``: exit codes, shapes, what is said, what Ctrl-C does."""

from __future__ import annotations

import json

import pytest

from tests.recordings import recording
from tts_tasks.errors import ConflictError, RequestError, UnavailableError, WaitTimeoutError
from ttsctl import following


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [("sss", 0), ("sfs", 3), ("srs", 3), ("fff", 1), ("rr", 1), ("rf", 1)],
)
def test_the_exit_code_tells_all_some_or_none(ttsctl, cluster, batch_file, outcomes, code):
    """0 is all succeeded, 3 some, 1 none; a rejected line counts as one that did not."""
    cluster.outcomes = outcomes
    assert ttsctl("submit", str(batch_file)).exit_code == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConflictError("batch demo exists with other content"), 5),
        (RequestError("line 3", "text: nothing to speak"), 2),
        (UnavailableError("no Redis at redis://127.0.0.1:6379/0"), 8),
    ],
)
def test_a_refused_batch_says_why_and_has_its_exit_code(ttsctl, cluster, batch_file, error, code):
    """Conflict 5, a refused file 2, no store 8; stdout stays empty."""
    cluster.trouble["submit_batch"] = error
    result = ttsctl("submit", str(batch_file))
    assert (result.exit_code, result.stdout) == (code, "")
    assert f"Error: {error}" in result.stderr


def test_a_missing_file_is_a_usage_error(ttsctl, tmp_path):
    """A file that is not there ends with 2 before any cluster is asked."""
    result = ttsctl("submit", str(tmp_path / "none.jsonl"))
    assert result.exit_code == 2
    assert "none.jsonl" in result.stderr


def test_a_pipe_is_refused_as_a_batch_file(ttsctl):
    """What cannot be read twice is refused with a reason."""
    result = ttsctl("submit", "/dev/null")
    assert result.exit_code == 2
    assert "regular file" in result.stderr


def test_options_reach_the_client(ttsctl, cluster, batch_file):
    """Each option is the client's own argument."""
    options = ["--id", "mine", "--output", "news", "--strict", "--priority", "2.5", "--pool", "zh"]
    ttsctl("submit", str(batch_file), *options, "--no-wait-turn")
    given = {"id": "mine", "output": "news", "strict": True}
    given |= {"priority": 2.5, "wait_for_output": False, "audio_root": None, "pool": "zh"}
    assert ("submit_batch", given) in cluster.calls


@pytest.mark.parametrize("priority", ["0", "-1", "much"])
def test_a_priority_is_positive(ttsctl, batch_file, priority):
    """A wrong one is told before anything is asked."""
    result = ttsctl("submit", str(batch_file), "--priority", priority)
    assert result.exit_code == 2
    assert "priority" in result.stderr


def test_json_is_the_promised_object_alone_on_stdout(ttsctl, cluster, batch_file):
    """-o json: one object with the keys scripts rely on, after the batch's end."""
    cluster.outcomes = "sfr"
    summary = json.loads(ttsctl("submit", str(batch_file), "-o", "json").stdout)
    assert summary == {
        "batch": "demo",
        "state": "done",
        "total": 3,
        "succeeded": 1,
        "failed": 1,
        "cancelled": 0,
        "rejected": 1,
        "priority": 1.0,
        "waits_for": [],
        "output": "file:///srv/artifacts/demo",
        "report": "file:///srv/artifacts/demo/report.jsonl",
        "created_at": "2026-11-02T10:00:00.000Z",
    }


def test_the_summary_waits_for_the_report(ttsctl, cluster, batch_file):
    """The report is written after the last job ended: the summary has its place nevertheless."""
    cluster.report_polls = 3
    summary = json.loads(ttsctl("submit", str(batch_file), "-o", "json").stdout)
    assert summary["report"] == "file:///srv/artifacts/demo/report.jsonl"


def test_jsonl_is_one_line_for_each_finished_job(ttsctl, cluster, batch_file):
    """-o jsonl: results in the order in which they finish, each a report line."""
    cluster.outcomes = "srf"
    lines = [
        json.loads(line)
        for line in ttsctl("submit", str(batch_file), "-o", "jsonl").stdout.splitlines()
    ]
    assert [(line["line"], line["state"]) for line in lines] == [(1, "succeeded"), (3, "failed")]
    assert lines[0]["uri"] == "file:///srv/artifacts/l1.wav"
    assert set(lines[0]) == {
        "line", "id", "state", "uri", "sha256", "duration_s", "attempt", "worker", "error",
    }  # fmt: skip


def test_id_is_written_even_if_following_is_interrupted(ttsctl, cluster, batch_file):
    """-o id: the id and nothing else, as soon as the batch is accepted."""
    cluster.interrupts[1] = KeyboardInterrupt()
    result = ttsctl("submit", str(batch_file), "-o", "id")
    assert (result.stdout, result.exit_code) == ("demo\n", 130)


def test_the_table_shows_counts_and_where_things_are(ttsctl, batch_file):
    """The default is a table for people, with the report and the output."""
    stdout = ttsctl("submit", str(batch_file)).stdout
    shown = dict(line.split(maxsplit=1) for line in stdout.splitlines())
    assert shown["succeeded"] == "3"
    assert shown["report"] == "file:///srv/artifacts/demo/report.jsonl"


def test_no_wait_returns_when_the_batch_is_accepted(ttsctl, cluster, batch_file):
    """--no-wait never follows, and says that the batch runs."""
    result = ttsctl("submit", str(batch_file), "--no-wait", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (0, "running")
    assert "follow" not in [name for name, _ in cluster.calls]


def test_bad_lines_are_told_at_once_and_then_counted(ttsctl, cluster, batch_file, told):
    """The first 20 rejected lines are told with their reason, then how many more, and where."""
    cluster.outcomes = "s" + "r" * 25
    events = told(ttsctl("submit", str(batch_file)))
    names = [event["event"] for event in events]
    rejected = [event for event in events if event["event"] == "line.rejected"]
    assert len(rejected) == 20
    assert rejected[0]["line"] == 2
    assert rejected[0]["message"] == "line 2 rejected: text: nothing to speak"
    more = events[names.index("lines.rejected")]
    assert more["count"] == 5
    assert "ttsctl batch errors demo" in more["message"]
    assert names.index("lines.rejected") < names.index("batch.progress")


def test_stderr_of_a_pipe_is_json_events_with_a_last_standing(ttsctl, cluster, batch_file, told):
    """Every line on a piped stderr is an event; the last progress has the final counts."""
    cluster.outcomes = "sfs"
    result = ttsctl("submit", str(batch_file))
    events = told(result)
    assert len(events) == len(result.stderr.splitlines())
    last = [event for event in events if event["event"] == "batch.progress"][-1]
    assert (last["batch"], last["done"], last["total"], last["failed"]) == ("demo", 3, 3, 1)
    assert last["audio_s_per_s"] > 0
    assert last["time"].endswith("Z")


def test_failed_jobs_are_told_and_then_only_counted(ttsctl, cluster, batch_file, told):
    """Each failure is told with its reason, up to 20; a line says that the rest is counted."""
    cluster.outcomes = "f" * 30
    events = told(ttsctl("submit", str(batch_file)))
    failures = [event for event in events if event["event"] == "job.failed"]
    assert len(failures) == 20
    assert failures[0]["message"] == "line 1 failed: engine: out of memory"
    assert [event["event"] for event in events].count("jobs.failed") == 1


def test_ctrl_c_while_following_detaches(ttsctl, cluster, batch_file, told):
    """Ctrl-C exits 130 and says how to look again; no summary pretends that it is over."""
    cluster.interrupts[2] = KeyboardInterrupt()
    result = ttsctl("submit", str(batch_file), "-o", "json")
    assert (result.exit_code, result.stdout) == (130, "")
    detached = next(event for event in told(result) if event["event"] == "batch.detached")
    assert detached["reattach"] == "ttsctl batch watch demo"
    assert detached["reattach"] in detached["message"]


def test_ctrl_c_while_accepting_says_what_is_accepted(ttsctl, cluster, batch_file, told):
    """Ctrl-C before the last line is in: how many are, and that the same command completes it."""
    cluster.trouble["submit_batch"] = KeyboardInterrupt()
    result = ttsctl("submit", str(batch_file))
    assert (result.exit_code, result.stdout) == (130, "")
    event = next(e for e in told(result) if e["event"] == "batch.accept_interrupted")
    assert event["accepted"] == 2
    assert "same command" in event["message"]


def test_a_wait_that_timed_out_is_7_and_shows_how_far_it_came(ttsctl, cluster, batch_file, told):
    """--timeout-s: exit code 7, the summary as it stands, and how to look again."""
    cluster.interrupts[2] = WaitTimeoutError("the wait ended")
    result = ttsctl("submit", str(batch_file), "--timeout-s", "5", "-o", "json")
    assert result.exit_code == 7
    assert json.loads(result.stdout)["succeeded"] == 1
    event = next(e for e in told(result) if e["event"] == "batch.wait_timed_out")
    assert event["reattach"] == "ttsctl batch watch demo"


@pytest.mark.parametrize("timeout", ["0", "-1", "soon"])
def test_an_impossible_timeout_is_a_usage_error(ttsctl, batch_file, timeout):
    """--timeout-s takes seconds above zero."""
    assert ttsctl("submit", str(batch_file), "--timeout-s", timeout).exit_code == 2


def test_an_outage_is_sat_through_and_no_result_comes_twice(
    *, ttsctl, cluster, batch_file, told, monkeypatch, no_redis
):
    """A store that goes away for a while: said once, asked again behind the last result."""
    monkeypatch.setattr(following.time, "sleep", lambda _s: None)
    monkeypatch.setattr(following, "_FIRST_RETRY_S", 0.0)
    cluster.interrupts[2] = no_redis
    result = ttsctl("submit", str(batch_file), "-o", "jsonl")
    assert result.exit_code == 0
    assert [json.loads(line)["line"] for line in result.stdout.splitlines()] == [1, 2, 3]
    follows = [argument["after"] for name, argument in cluster.calls if name == "follow"]
    assert follows == [0, 1]
    outages = [event for event in told(result) if event["event"] == "store.unreachable"]
    assert len(outages) == 1
    assert "hunter2" not in result.stderr


def test_nobody_to_work_is_said_before_waiting(ttsctl, cluster, batch_file, told):
    """Without a ready worker the wait would be long: it says so, and what to do."""
    cluster.cluster["workers"] = []
    events = told(ttsctl("submit", str(batch_file)))
    notice = next(event for event in events if event["event"] == "workers.none_ready")
    assert "ttsctl up" in notice["message"]


GOOD = '{"text": "hello"}\n'
BAD = '{"text": "..."}\n'


@pytest.mark.parametrize(
    ("content", "options", "code"),
    [(GOOD, [], 0), (GOOD + BAD, [], 3), (BAD, [], 1), (GOOD + BAD, ["--strict"], 2)],
)
def test_a_dry_run_checks_the_file_without_a_cluster(
    *, ttsctl, cluster, batch_file, content, options, code
):
    """--dry-run answers with submit's exit codes and calls nothing."""
    batch_file.write_text(content, encoding="utf-8")
    result = ttsctl("submit", str(batch_file), "--dry-run", *options)
    assert result.exit_code == code
    assert cluster.calls == []


def test_a_dry_run_counts_and_names_the_bad_lines(ttsctl, batch_file, told):
    """--dry-run -o json: counts on stdout, each bad line with its reason on stderr."""
    batch_file.write_text(GOOD + BAD, encoding="utf-8")
    result = ttsctl("submit", str(batch_file), "--dry-run", "-o", "json")
    summary = json.loads(result.stdout)
    assert (summary["total"], summary["valid"], summary["rejected"]) == (2, 1, 1)
    assert summary["characters"] == len("hello")
    (bad,) = told(result)
    assert (bad["line"], bad["error"]["field"]) == (2, "text")


def test_a_dry_run_lists_every_bad_line_as_jsonl(ttsctl, batch_file):
    """--dry-run -o jsonl: all the bad lines on stdout, however many."""
    batch_file.write_text(BAD * 30, encoding="utf-8")
    result = ttsctl("submit", str(batch_file), "--dry-run", "-o", "jsonl")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["line"] for line in lines] == list(range(1, 31))
    assert {line["state"] for line in lines} == {"rejected"}


def test_a_file_that_is_no_text_is_a_usage_error(ttsctl, batch_file):
    """--dry-run of a gzip file says what it is and ends with 2."""
    batch_file.write_bytes(b"\x1f\x8b" + bytes(64))
    result = ttsctl("submit", str(batch_file), "--dry-run")
    assert result.exit_code == 2
    assert "gzip" in result.stderr


def test_a_dry_run_listens_to_the_recordings(ttsctl, tmp_path):
    """Also below another root; a recording that is no good is a bad line, named as in the file."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "good.wav").write_bytes(recording())
    (root / "short.wav").write_bytes(recording(1.0))
    line = {"prompt_text": "你好", "syn_text": "再见"}
    items = [
        {**line, "uttid": name, "prompt_speech": f"{name}.wav"} for name in ("good", "short", "no")
    ]
    path = tmp_path / "batch.jsonl"
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8")
    result = ttsctl("submit", str(path), "--dry-run", "--audio-root", str(root), "-o", "jsonl")
    assert result.exit_code == 3
    bad = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["id"], one["error"]["field"]) for one in bad] == [
        ("short", "prompt_speech"),
        ("no", "prompt_speech"),
    ]
    assert "1.0 s of speech" in bad[0]["error"]["reason"]
    assert ttsctl("submit", str(path), "--dry-run").exit_code == 1
