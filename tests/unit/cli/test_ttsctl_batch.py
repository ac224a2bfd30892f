"""``ttsctl batch``: looking after what was submitted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tts_tasks.errors import ConflictError, WaitTimeoutError


@pytest.fixture(autouse=True)
def accepted(cluster):
    """Have the batch accepted already."""
    cluster.accepted = True


@pytest.mark.parametrize(
    "command",
    ["show", "watch", "wait", "errors", "report", "fetch", "cancel", "retry", "resume", "rm"],
)
def test_an_unknown_batch_is_6_with_the_way_to_find_one(ttsctl, command):
    """Each command that names a batch ends with 6 for one that is not there."""
    result = ttsctl("batch", command, "nope")
    assert (result.exit_code, result.stdout) == (6, "")
    assert "ttsctl batch ls" in result.stderr


def test_ls_lists_every_batch(ttsctl):
    """A table row, a JSON object and an id for each batch."""
    assert ttsctl("batch", "ls", "-o", "id").stdout == "demo\nolder\n"
    assert [b["batch"] for b in json.loads(ttsctl("batch", "ls", "-o", "json").stdout)] == [
        "demo",
        "older",
    ]
    table = ttsctl("batch", "ls").stdout.splitlines()
    assert table[0].split() == [
        "BATCH", "STATE", "TOTAL", "SUCCEEDED", "FAILED", "CANCELLED", "REJECTED", "PRIORITY",
        "CREATED_AT",
    ]  # fmt: skip
    assert table[1].split()[:3] == ["demo", "running", "3"]


def test_show_has_the_promised_keys(ttsctl):
    """-o json of a running batch: the same keys as submit's summary."""
    shown = json.loads(ttsctl("batch", "show", "demo", "-o", "json").stdout)
    assert {
        "batch",
        "state",
        "total",
        "succeeded",
        "failed",
        "rejected",
        "report",
        "output",
    } <= set(shown)
    assert (shown["state"], shown["report"]) == ("running", None)


@pytest.mark.parametrize(("outcomes", "code"), [("ss", 0), ("sf", 3), ("ff", 1)])
@pytest.mark.parametrize("command", ["watch", "wait"])
def test_watch_and_wait_end_as_submit_does(ttsctl, cluster, command, outcomes, code):
    """Exit codes 0, 3 and 1 when the batch is over."""
    cluster.outcomes = outcomes
    assert ttsctl("batch", command, "demo").exit_code == code


@pytest.mark.parametrize("command", ["watch", "wait"])
def test_a_timeout_is_7(ttsctl, cluster, command):
    """--timeout-s ends the waiting, not the work, with 7."""
    cluster.interrupts[1] = WaitTimeoutError("the wait ended")
    assert ttsctl("batch", command, "demo", "--timeout-s", "1").exit_code == 7


def test_wait_is_silent(ttsctl, cluster):
    """Wait writes nothing, whatever fails; with -o it writes the summary."""
    cluster.outcomes = "sf"
    result = ttsctl("batch", "wait", "demo")
    assert (result.stdout, result.stderr) == ("", "")
    assert json.loads(ttsctl("batch", "wait", "demo", "-o", "json").stdout)["failed"] == 1


def test_watch_of_an_ended_batch_tells_its_end(ttsctl, cluster, told):
    """Looking at a batch that is over shows the summary and does not ask for workers."""
    cluster.finished = 3
    result = ttsctl("batch", "watch", "demo", "-o", "json")
    assert json.loads(result.stdout)["state"] == "done"
    assert "cluster_status" not in [name for name, _ in cluster.calls]
    progress, ended = told(result)[-2:]
    assert progress["done"] == 3
    assert ended["fetch"] == "ttsctl batch fetch demo"


def test_ctrl_c_in_watch_says_how_to_look_again(ttsctl, cluster):
    """Ctrl-C detaches with 130."""
    cluster.interrupts[1] = KeyboardInterrupt()
    result = ttsctl("batch", "watch", "demo")
    assert result.exit_code == 130
    assert "ttsctl batch watch demo" in result.stderr


def test_an_incomplete_batch_says_what_completes_it(ttsctl, cluster, monkeypatch, told):
    """Watching a batch whose submitter went away names the command that completes it."""
    status = cluster.batch_status
    monkeypatch.setattr(
        cluster,
        "batch_status",
        lambda batch: type(status(batch))(batch=batch, state="accepting"),
    )
    first = told(ttsctl("batch", "watch", "demo"))[0]
    assert first["event"] == "batch.incomplete"
    assert "ttsctl submit" in first["message"]


def test_errors_are_jsonl_in_a_pipe(ttsctl, cluster):
    """Without -o a pipe gets one JSON line for each rejected or failed line, in input order."""
    cluster.outcomes, cluster.finished = "srf", 2
    lines = [json.loads(line) for line in ttsctl("batch", "errors", "demo").stdout.splitlines()]
    assert [(line["line"], line["state"]) for line in lines] == [(2, "rejected"), (3, "failed")]


def test_errors_as_a_table_give_the_reason(ttsctl, cluster):
    """-o table: line, id, state and the reason in words."""
    cluster.outcomes, cluster.finished = "r", 0
    header, row = ttsctl("batch", "errors", "demo", "-o", "table").stdout.splitlines()
    assert header.split() == ["LINE", "ID", "STATE", "ERROR"]
    assert row.split(maxsplit=3) == ["1", "l1", "rejected", "text: nothing to speak"]


def test_errors_as_a_table_show_the_evidence_of_a_job_that_lost_its_workers(
    ttsctl, cluster, monkeypatch
):
    """Below the table, in words; a pipe has it in its JSON; no byte of it moves the cursor."""
    evidence = {
        "reason": "the engine's process was killed by SIGSEGV at segment 2 of 5",
        "signal": "SIGSEGV",
        "log": ["WARNING engine: \x1b[31mhot"],
        "stderr": ["Fatal Python error: Segmentation fault"],
    }
    error = {
        "code": "attempts_exhausted",
        "reason": "3 attempts",
        "workers": ["w1@h/1", "w2@h/2"],
        "evidence": evidence,
    }
    failed = {"line": 3, "id": "bad", "state": "failed", "error": error}
    monkeypatch.setattr(cluster, "batch_errors", lambda _: iter([failed]))
    shown = ttsctl("batch", "errors", "demo", "-o", "table").stdout.splitlines()
    assert shown[2:] == [
        "",
        "line 3, bad: the engine's process was killed by SIGSEGV at segment 2 of 5",
        "  tried on: w1@h/1, w2@h/2",
        "  its last log lines:",
        "    WARNING engine: \\x1b[31mhot",
        "  what its process wrote:",
        "    Fatal Python error: Segmentation fault",
    ]
    (piped,) = ttsctl("batch", "errors", "demo").stdout.splitlines()
    assert json.loads(piped) == failed


def test_the_report_has_a_line_for_each_input_line(ttsctl, cluster):
    """Report keeps the input's order, also while jobs are open."""
    cluster.outcomes, cluster.finished = "srs", 1
    lines = [json.loads(line) for line in ttsctl("batch", "report", "demo").stdout.splitlines()]
    assert [line["state"] for line in lines] == ["succeeded", "rejected", "accepted"]
    table = ttsctl("batch", "report", "demo", "-o", "table").stdout
    assert "file:///srv/artifacts/l1.wav" in table
    assert "text: nothing to speak" in table


def test_fetch_lists_what_it_copied_and_says_what_is_missing(ttsctl, cluster, told):
    """Paths on stdout, by default in a folder of the batch's name; unfinished jobs on stderr."""
    cluster.finished = 2
    result = ttsctl("batch", "fetch", "demo")
    assert result.stdout.splitlines() == ["demo/l1.wav", "demo/l2.wav"]
    (fetched,) = told(result)
    assert (fetched["files"], fetched["unfinished"]) == (2, 1)
    assert ("fetch", ("demo", Path("demo"))) in cluster.calls


def test_fetch_writes_where_it_is_told(ttsctl, cluster, tmp_path):
    """--to names the folder; -o json lists the paths as one array."""
    cluster.finished = 1
    result = ttsctl("batch", "fetch", "demo", "--to", str(tmp_path), "-o", "json")
    assert json.loads(result.stdout) == [str(tmp_path / "l1.wav")]


def test_fetch_stops_at_a_file_with_other_content(ttsctl, cluster):
    """What is there and differs is a conflict (5), never overwritten."""
    cluster.trouble["fetch"] = ConflictError("demo/l1.wav exists with other content")
    assert ttsctl("batch", "fetch", "demo").exit_code == 5


def test_cancel_shows_how_the_batch_stands(ttsctl, cluster):
    """What was asked for, and what is known at once."""
    shown = json.loads(ttsctl("batch", "cancel", "demo", "-o", "json").stdout)
    assert shown["state"] == "cancelled"
    assert ("batch_cancel", "demo") in cluster.calls


@pytest.mark.parametrize(("command", "outcomes"), [("retry", "sffr"), ("resume", "sccr")])
def test_lines_are_tried_again_and_counted(ttsctl, cluster, command, outcomes):
    """How many, and how to look; or that there are none."""
    cluster.outcomes = outcomes
    result = ttsctl("batch", command, "demo")
    assert result.exit_code == 0
    assert "2 " in result.stderr
    assert "ttsctl batch watch demo" in result.stderr
    cluster.outcomes = "ss"
    assert "No " in ttsctl("batch", command, "demo").stderr


def test_rm_forgets_a_batch(ttsctl, cluster):
    """With a word on stderr, and nothing on stdout."""
    result = ttsctl("batch", "rm", "demo")
    assert (result.exit_code, result.stdout) == (0, "")
    assert ("batch_remove", "demo") in cluster.calls


def test_a_cancelled_batch_is_9_and_its_lines_are_no_failures(ttsctl, cluster):
    """They are neither told one by one nor counted as failed."""
    cluster.outcomes = "sccf"
    real = cluster.batch_status
    cluster.batch_status = lambda batch: replace(real(batch), state="cancelled")
    result = ttsctl("batch", "watch", "demo")
    assert result.exit_code == 9
    assert result.stderr.count('"job.failed"') == 1
