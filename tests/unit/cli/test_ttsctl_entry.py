"""The entry point: help, global options, errors, pipes, encodings."""

from __future__ import annotations

import importlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tts_tasks import errors
from tts_tasks.redis_url import CLUSTER_LOOKS, SENTINEL_LOOKS, SINGLE_LOOKS
from tts_tasks.settings import get_settings
from ttsctl.__main__ import COMMANDS, cli
from ttsctl.exit_codes import ExitCode, exit_code_of

ROOT = Path(__file__).parents[3]
PYTHONPATH = os.pathsep.join(str(ROOT / part) for part in (".", "cli"))


def start(*args: str, env: dict[str, str] | None = None, **options) -> subprocess.Popen[bytes]:
    """Start ``python -m ttsctl ARGS...`` with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "ttsctl", *args],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, **(env or {})},
        **options,
    )


def test_help_imports_no_library_of_the_cluster():
    """--help is quick because neither celery nor redis nor pydantic is imported for it."""
    code = (
        "import sys; sys.argv = ['ttsctl', '--help']\n"
        "import atexit\n"
        "heavy = {'celery', 'redis', 'pydantic', 'tts_tasks', 'rich'}\n"
        "atexit.register(lambda: print('IMPORTED', sorted(heavy & set(sys.modules))))\n"
        "from ttsctl.__main__ import main; main()\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )
    assert "submit Speak a JSONL file" in " ".join(answer.stdout.split())
    assert answer.stdout.endswith("IMPORTED []\n")


@pytest.mark.parametrize("name", [name for section in COMMANDS.values() for name in section])
def test_the_list_of_commands_tells_the_truth(name):
    """Each listed command exists, and its own help begins with the line in the list."""
    where, text = next(section[name] for section in COMMANDS.values() if name in section)
    module, _, attribute = where.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert (command.help or "").splitlines()[0] == text
    assert cli.get_command(click.Context(cli), name) is command


def test_an_unknown_command_is_a_usage_error(ttsctl):
    """A word that is no command ends with 2."""
    assert ttsctl("fly").exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigurationError("x"), 2),
        (errors.RequestError("f", "x"), 2),
        (errors.JobFailedError("c", "x"), 1),
        (errors.StorageError("x"), 1),
        (errors.UnspeakableTextError("x"), 1),
        (errors.ConflictError("x"), 5),
        (errors.NotFoundError("x"), 6),
        (errors.WaitTimeoutError("x"), 7),
        (errors.UnavailableError("x"), 8),
        (errors.QueueFullError("x", 2.5, 1.0), 8),
        (errors.DeadlineError("x", 2.5), 8),
        (errors.JobCancelledError("x"), 9),
        (PermissionError(13, "Permission denied", "/x"), 1),
        (ZeroDivisionError("a bug"), None),
    ],
)
def test_every_error_for_people_has_its_exit_code(error, code):
    """The table of DESIGN; what is a bug has no exit code and keeps its traceback."""
    assert exit_code_of(error) == code


def test_a_bug_is_not_dressed_up(ttsctl, cluster):
    """An error that nobody made for people comes out as it is."""
    cluster.trouble["cluster_status"] = ZeroDivisionError("a bug")
    assert isinstance(ttsctl("status").exception, ZeroDivisionError)


def test_global_options_become_the_settings(ttsctl, monkeypatch, tmp_path):
    """--redis-url and --home are seen by the settings, also when these were read before."""
    monkeypatch.setenv("TTS_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("TTS_HOME", "/nowhere")
    get_settings.cache_clear()
    assert get_settings().redis_url == "redis://127.0.0.1:1/0"
    ttsctl("--redis-url", "redis://127.0.0.1:2/3", "--home", str(tmp_path), "version")
    try:
        assert get_settings().redis_url == "redis://127.0.0.1:2/3"
        assert get_settings().home == tmp_path
    finally:
        get_settings.cache_clear()


def test_a_redis_url_of_another_scheme_is_refused_without_showing_it(ttsctl):
    """A URL that cannot be Redis's is a usage error; what may be a password is not repeated."""
    result = ttsctl("--redis-url", "http://:hunter2@host", "status")
    assert result.exit_code == 2
    assert "redis://" in result.stderr
    assert "hunter2" not in result.output


def test_how_an_address_looks_is_no_secret(ttsctl, cluster):
    """The place of the password in the advice is not a password."""
    looks = f"it looks like {SINGLE_LOOKS}, {SENTINEL_LOOKS} or {CLUSTER_LOOKS}"
    cluster.trouble["cluster_status"] = errors.ConfigurationError(looks)
    assert looks in ttsctl("status").stderr


@pytest.mark.parametrize("url", ["sentinel://a:1,b:2/m/0", "cluster://a:1,b:2"])
def test_a_redis_beyond_one_node_can_be_named(ttsctl, monkeypatch, url):
    """The option takes what the variable takes."""
    monkeypatch.setenv("TTS_REDIS_URL", "redis://h/0")
    assert ttsctl("--redis-url", url, "status").exit_code == 0
    assert os.environ["TTS_REDIS_URL"] == url


@pytest.mark.parametrize(
    "message",
    [
        "cannot reach redis://:hunter2@h:6379/0",
        "cannot reach sentinel://:hunter2/with/slash@a:1,b:2/m/0",
        "cannot reach sentinel://a:1,b:2/m/0?sentinel_password=hunter2",
        "cannot reach rediss://user:hunter2/with/slash@h",
        "cannot reach redis://h:6379/0?password=hunter2&db=1",
        "cannot reach amqp://guest:hunter2@h//",
    ],
)
def test_no_error_shows_a_password(ttsctl, cluster, message):
    """Whatever an error's text holds, the passwords of its URLs are blotted out."""
    cluster.trouble["cluster_status"] = errors.UnavailableError(message)
    stderr = ttsctl("status").stderr
    assert "hunter2" not in stderr
    assert "***" in stderr


def test_an_error_cannot_recolour_the_terminal(ttsctl, cluster):
    """Escape sequences in an error's text are shown, not obeyed."""
    cluster.trouble["cluster_status"] = errors.NotFoundError("no batch \x1b[31mred")
    assert "no batch \\x1b[31mred" in ttsctl("status").stderr


def many_bad_lines(tmp_path: Path) -> Path:
    """Return a batch file with far more bad lines than a pipe holds."""
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "…"}\n' * 20_000, encoding="utf-8")
    return path


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path):
    """``ttsctl ... | head -1``: no traceback, no complaint, the exit code of a broken pipe."""
    process = start("submit", "--dry-run", "-o", "jsonl", str(many_bad_lines(tmp_path)))
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(60) == ExitCode.BROKEN_PIPE


def test_a_command_that_waits_leaves_with_its_reader():
    """``ttsctl events --follow | head -1`` ends although nothing more happens."""
    code = (
        "import time\n"
        "from ttsctl.output import leave_with_the_reader\n"
        "leave_with_the_reader(); print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == ExitCode.BROKEN_PIPE


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
@pytest.mark.parametrize("output_format", ["json", "jsonl", "table"])
def test_a_terminal_that_is_not_utf8_gets_an_answer(tmp_path, env, output_format):
    """Chinese text in a reason or a name is escaped where the encoding lacks it."""
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "你好", "format": "播放"}\n', encoding="utf-8")
    process = start("submit", "--dry-run", "-o", output_format, str(path), env=env)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == ExitCode.FAILED
    assert b"Traceback" not in stderr
    assert stdout.isascii()


def test_audio_is_not_written_to_a_terminal():
    """``say --file -`` on a terminal is refused before any cluster is asked."""
    master, slave = pty.openpty()
    try:
        nobody = {"TTS_REDIS_URL": "redis://127.0.0.1:1/0"}
        process = start("say", "hello", "--file", "-", stdout=slave, env=nobody)
        _, stderr = process.communicate(timeout=60)
    finally:
        os.close(slave)
        os.close(master)
    assert process.returncode == ExitCode.USAGE
    assert b"not written to a terminal" in stderr


def test_colour_is_left_out_of_pipes(ttsctl):
    """A table in a pipe has no escape sequences."""
    assert "\x1b" not in ttsctl("status").stdout
    assert "\x1b" in ttsctl("status", color=True).stdout


def test_no_color_is_obeyed(ttsctl, monkeypatch):
    """NO_COLOR turns style off where it would be written."""
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in ttsctl("status", color=True).stdout
