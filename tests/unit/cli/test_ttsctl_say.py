"""``ttsctl say``: one text, where its sound goes, and how it ends."""

from __future__ import annotations

import json
import os
import stat

import pytest

from tts_tasks.errors import NoPoolError, QueueFullError, WaitTimeoutError

URI = "file:///srv/artifacts/l1.wav"


@pytest.fixture(autouse=True)
def one_job(cluster):
    """Have the cluster speak one job."""
    cluster.outcomes = "s"
    cluster.artifacts[URI] = b"RIFF\x00\xffsound"


def spoken(cluster):
    """Return the request that was submitted."""
    return next(request for name, request in cluster.calls if name == "submit_job")


def test_say_writes_the_artifacts_path(ttsctl, cluster):
    """By default stdout gets the path of the local artifact, and nothing else."""
    result = ttsctl("say", "你好")
    assert (result.exit_code, result.stdout) == (0, "/srv/artifacts/l1.wav\n")
    assert spoken(cluster).text == "你好"


def test_options_become_the_request(ttsctl, cluster):
    """Voice, speed, format, rate, seed and lexicon reach the request."""
    options = "--voice amy --speed 1.5 --format mp3 --sample-rate 24000 --seed 7 --lexicon bank"
    ttsctl("say", "hello", *options.split())
    request = spoken(cluster)
    assert (request.voice, request.speed, request.format) == ("amy", 1.5, "mp3")
    assert (request.sample_rate, request.seed, request.lexicon) == (24000, 7, "bank")


def test_audio_out_options_become_the_request(ttsctl, cluster):
    """What shapes the sound has the names and the values that a request has for it."""
    options = "--loudness-lufs -16 --peak-limit-dbfs -2 --gain-db 3 --trim-silence --fade-ms 4"
    options += " --sentence-pause-ms 400 --paragraph-pause-ms 0"
    assert ttsctl("say", "hello", *options.split()).exit_code == 0
    request = spoken(cluster)
    assert (request.loudness_lufs, request.peak_limit_dbfs, request.gain_db) == (-16, -2, 3)
    assert (request.trim_silence, request.fade_ms) == (True, 4)
    assert (request.sentence_pause_ms, request.paragraph_pause_ms) == (400, 0)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (("--loudness-lufs", "-3"), "loudness_lufs: must be at most -5"),
        (("--peak-limit-dbfs", "1"), "peak_limit_dbfs: must be at most 0"),
        (("--fade-ms", "nan"), "fade_ms: must be a finite number"),
        (("--sentence-pause-ms", "-1"), "sentence_pause_ms: must be at least 0"),
        (("--subtitles", "srt,ass"), "subtitles.1: must be one of srt, vtt, json"),
        (("--subtitles", "srt", "--file", "-"), "subtitles: have no place beside the sound"),
        (("--subtitles", "srt", "--stream"), "subtitles: have no place beside the sound"),
        (("--loudness-lufs", "-16", "--stream"), "stream: has no place beside loudness_lufs"),
    ],
)
def test_a_wrong_audio_out_option_is_a_usage_error(ttsctl, cluster, given, field):
    """The field is named, and nothing is submitted."""
    result = ttsctl("say", "hello", *given)
    assert (result.exit_code, cluster.calls) == (2, [])
    assert field in result.stderr


@pytest.mark.parametrize(("name", "stem"), [("a.mp3", "a"), ("a.v2", "a.v2"), ("a", "a")])
def test_subtitles_are_written_beside_the_file(ttsctl, cluster, tmp_path, name, stem):
    """Each under the file's name with its own suffix; stdout names the sound alone."""
    cluster.subtitles = {"srt": "x/l1.srt", "json": "x/l1.json"}
    cluster.artifacts |= {"x/l1.srt": b"1\n", "x/l1.json": b"{}"}
    target = str(tmp_path / name)
    result = ttsctl("say", "hello", "--file", target, "--subtitles=srt", "--subtitles", "json,srt")
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert spoken(cluster).subtitles == ("json", "srt")
    assert (tmp_path / f"{stem}.srt").read_bytes() == b"1\n"
    assert (tmp_path / f"{stem}.json").read_bytes() == b"{}"
    assert len(list(tmp_path.iterdir())) == 3


def test_subtitles_of_a_stream_are_written_when_all_is_spoken(ttsctl, cluster, tmp_path):
    """Beside the file that was written while it was made."""
    cluster.subtitles = {"vtt": "x/l1.vtt"}
    cluster.artifacts["x/l1.vtt"] = b"WEBVTT\n"
    target = tmp_path / "a.wav"
    options = ("--stream", "--file", str(target), "--subtitles", "vtt")
    assert ttsctl("say", "hello", *options).exit_code == 0
    assert target.read_bytes()[:4] == b"RIFF"
    assert (tmp_path / "a.vtt").read_bytes() == b"WEBVTT\n"


def test_a_report_line_names_subtitles_where_there_are_any(ttsctl, cluster):
    """-o json, as in a batch's report."""
    assert "subtitles" not in json.loads(ttsctl("say", "hello", "-o", "json").stdout)
    cluster.subtitles = {"srt": "x/l1.srt"}
    told = json.loads(ttsctl("say", "hello", "--subtitles", "srt", "-o", "json").stdout)
    assert told["subtitles"] == {"srt": "x/l1.srt"}


def test_requirements_become_the_requests(ttsctl, cluster):
    """Pairs and their short forms; features may be given in several ways."""
    options = "--requires features=clone,speed --requires features=emotion --language en"
    options += " --requires sample_rate_hz=32000 --pool zh --requires engine=glmtts"
    assert ttsctl("say", "hello", *options.split()).exit_code == 0
    requires = spoken(cluster).requires
    assert (requires.features, requires.language) == (("clone", "speed", "emotion"), "en")
    assert (requires.sample_rate_hz, requires.pool, requires.engine) == (32000, "zh", "glmtts")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("language", "write KEY=VALUE"),
        ("language=", "write KEY=VALUE"),
        ("langage=en", "did you mean 'language'?"),
        ("sample_rate_hz=fast", "sample_rate_hz"),
    ],
)
def test_a_requirement_that_is_none_is_a_usage_error(ttsctl, cluster, given, words):
    """Nothing is submitted."""
    result = ttsctl("say", "hello", "--requires", given)
    assert result.exit_code == 2
    assert words in result.stderr
    assert cluster.calls == []


def test_where_no_pool_fits_it_is_8_and_says_what_is_there(ttsctl, cluster):
    """At once, with what each pool lacks."""
    cluster.trouble["submit_job"] = NoPoolError("language tlh", {"zh": "speaks zh"})
    result = ttsctl("say", "nuqneH", "--language", "tlh")
    assert result.exit_code == 8
    assert "no pool fits: language tlh is asked for, and zh speaks zh" in result.stderr


def test_a_wrong_field_is_a_usage_error_before_anything_is_submitted(ttsctl, cluster):
    """A speed out of range ends with 2, names the field, and submits nothing."""
    result = ttsctl("say", "hello", "--speed", "9")
    assert result.exit_code == 2
    assert "speed" in result.stderr
    assert cluster.calls == []


@pytest.mark.parametrize(("span", "seconds"), [("2s", 2.0), ("2.5", 2.5), ("1m", 60.0)])
def test_a_deadline_is_a_span_of_time(ttsctl, cluster, span, seconds):
    """--deadline reaches the request in seconds."""
    assert ttsctl("say", "hello", "--deadline", span).exit_code == 0
    assert spoken(cluster).deadline_s == seconds


@pytest.mark.parametrize("span", ["0s", "soon"])
def test_a_deadline_that_is_none_is_a_usage_error(ttsctl, cluster, span):
    """Nothing is submitted."""
    result = ttsctl("say", "hello", "--deadline", span)
    assert (result.exit_code, cluster.calls) == (2, [])
    assert "deadline" in result.stderr


def test_a_full_lane_is_8_with_the_estimate(ttsctl, cluster):
    """What was refused is said in one line; nothing is waited for."""
    cluster.trouble["submit_job"] = QueueFullError("it would be done in about 84.0 s", 84.0, 3.0)
    result = ttsctl("say", "hello")
    assert (result.exit_code, result.stdout) == (8, "")
    assert result.stderr.splitlines()[-1] == "Error: it would be done in about 84.0 s"


def test_text_comes_from_stdin(ttsctl, cluster):
    """TEXT - reads UTF-8 from stdin, with or without a byte-order mark."""
    ttsctl("say", "-", stdin=b"\xef\xbb\xbf" + "早上好\n".encode())
    assert spoken(cluster).text == "早上好"


def test_stdin_that_is_no_utf8_is_a_usage_error(ttsctl):
    """Bytes that are no UTF-8 are refused instead of being spoken as something else."""
    result = ttsctl("say", "-", stdin=b"caf\xe9")
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


def test_an_argument_the_locale_could_not_decode_is_still_utf8(ttsctl, cluster):
    """Under a locale that is not UTF-8 the argument's own bytes count."""
    ttsctl("say", os.fsdecode("你好".encode()).encode("utf-8", "surrogatepass").decode("utf-8"))
    assert spoken(cluster).text == "你好"
    broken = "你好".encode().decode("ascii", "surrogateescape")
    cluster.calls.clear()
    ttsctl("say", broken)
    assert spoken(cluster).text == "你好"


def test_a_file_gets_the_audio_whole(ttsctl, cluster, tmp_path):
    """--file writes the bytes, replaces what was there, and leaves nothing beside it."""
    target = tmp_path / "out.mp3"
    target.write_bytes(b"old")
    result = ttsctl("say", "hello", "--file", str(target))
    assert result.stdout == f"{target}\n"
    assert target.read_bytes() == cluster.artifacts[URI]
    assert list(tmp_path.iterdir()) == [target]
    assert spoken(cluster).format == "mp3"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask


def test_a_target_that_cannot_be_written_is_1_with_the_reason(ttsctl, tmp_path):
    """A folder that is not there: exit code 1, and a message without a traceback."""
    result = ttsctl("say", "hello", "--file", str(tmp_path / "none" / "out.wav"))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "No such file" in result.stderr


def test_audio_goes_to_stdout_for_a_dash(ttsctl, cluster):
    """--file - writes the bytes alone."""
    result = ttsctl("say", "hello", "--file", "-")
    assert (result.exit_code, result.stdout_bytes) == (0, cluster.artifacts[URI])


def test_a_failed_job_is_1_with_the_reason(ttsctl, cluster):
    """The job's error is what people read; stdout stays empty."""
    cluster.outcomes = "f"
    result = ttsctl("say", "hello")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "out of memory" in result.stderr


def test_json_is_the_job_as_a_report_line(ttsctl):
    """-o json: the result; -o id: the job's id."""
    assert json.loads(ttsctl("say", "hello", "-o", "json").stdout)["uri"] == URI
    assert ttsctl("say", "hello", "-o", "id").stdout == "default.0:job1\n"


def test_a_timeout_is_7_and_names_the_job(ttsctl, cluster, told):
    """--timeout-s: the wait ends with 7, the job goes on under its id."""
    cluster.interrupts[1] = WaitTimeoutError("the wait ended")
    result = ttsctl("say", "hello", "--timeout-s", "1")
    assert (result.exit_code, result.stdout) == (7, "")
    assert told(result)[-1]["id"] == "default.0:job1"


def test_ctrl_c_is_130_and_names_the_job(ttsctl, cluster, told):
    """Ctrl-C stops the waiting only."""
    cluster.interrupts[1] = KeyboardInterrupt()
    result = ttsctl("say", "hello")
    assert result.exit_code == 130
    assert "default.0:job1 goes on" in told(result)[-1]["message"]
