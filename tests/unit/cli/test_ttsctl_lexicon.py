"""``ttsctl lexicon``: against a storage in a folder, and an engine of this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from tts_tasks.settings import get_settings
from ttsctl.__main__ import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

ENTRIES = """\
{"phrase": "行长", "pinyin": "xíng cháng"}
{"phrase": "GIF", "ipa": "dʒɪf"}
{"phrase": "CFO", "text": "首席财务官"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A lexicon file."""
    path = tmp_path / "bank.jsonl"
    path.write_text(ENTRIES, encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Run ttsctl on a storage of its own; no Redis is asked."""
    monkeypatch.setenv("TTS_STORAGE_URL", (tmp_path / "store").as_uri())
    monkeypatch.setenv("TTS_REDIS_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    yield lambda *args: CliRunner().invoke(cli, ["lexicon", *map(str, args)])
    get_settings.cache_clear()


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_lexicon_is_added_shown_changed_and_removed(
    run: Callable[..., Result], file: Path
) -> None:
    """Versions count up, the same content is no version, and a removed one is gone."""
    added = answer(run("add", "bank", file, "-o", "json"))
    assert (added["version"], added["entries"]) == (1, 3)
    assert answer(run("add", "bank", file, "-o", "json")) == added
    assert {"phrase": "行长", "kind": "pinyin", "said": "xing2 chang2"} in answer(
        run("show", "bank", "-o", "json")
    )
    file.write_text('{"phrase": "行长", "pinyin": "hang2 zhang3"}\n', encoding="utf-8")
    assert run("add", "bank", file, "-o", "id").stdout == "bank@2\n"
    assert [one["version"] for one in answer(run("show", "bank", "--versions", "-o", "json"))] == [
        1,
        2,
    ]
    assert len(answer(run("show", "bank@1", "-o", "json"))) == 3
    assert run("ls", "-o", "id").stdout == "bank@2\n"
    assert run("rm", "bank").exit_code == 0
    assert run("ls", "-o", "id").stdout == ""
    assert run("show", "bank").exit_code == run("rm", "bank").exit_code == 6


def test_a_bad_file_is_refused_by_line(run: Callable[..., Result], file: Path) -> None:
    """Nothing of it is added; the message says which line and why."""
    file.write_text(ENTRIES + '{"phrase": "重庆", "pinyin": "chong"}\n', encoding="utf-8")
    result = run("add", "bank", file)
    assert result.exit_code == 2
    assert "line 4: 'chong'" in result.stderr
    assert run("ls", "-o", "id").stdout == ""
    assert run("add", "../bank", file).exit_code == 2


def test_export_names_what_a_form_cannot_say(run: Callable[..., Result], file: Path) -> None:
    """A form of GLM-TTS gets what it can hold; the rest is named on stderr."""
    run("add", "bank", file)
    result = run("export", "bank", "--form", "glmtts-g2p")
    assert {"行长": "<|X|><|ING2|><|CH|><|ANG2|>"} in map(json.loads, result.stdout.splitlines())
    assert "GIF" in result.stderr
    assert "dʒɪf" not in result.stdout
    ours = run("export", "bank")
    assert (ours.stderr, len(ours.stdout.splitlines())) == ("", 3)
    file.write_text(ours.stdout, encoding="utf-8")
    assert answer(run("add", "bank", file, "-o", "json"))["version"] == 1


def test_test_shows_what_will_be_said(run: Callable[..., Result], file: Path) -> None:
    """The engine of this machine is asked, with a lexicon of the cluster, a file, or none."""
    usual = answer(run("test", "重庆银行行长", "-o", "json"))
    (segment,) = usual["segments"]
    assert segment["pinyin"] == ["chong2", "qing4", "yin2", "hang2", "hang2", "zhang3"]
    assert usual["overrides"] == []
    run("add", "bank", file)
    for source in (("--lexicon", "bank"), ("--file", file)):
        told = answer(run("test", "重庆银行行长看3张GIF", *source, "-o", "json"))
        (segment,) = told["segments"]
        assert segment["pinyin"][4:6] == ["xing2", "chang2"]
        assert segment["text"] == "重庆银行[[xing2chang2]]看三张[[/dʒɪf/]]"
        assert [(one["phrase"], one["at"]) for one in told["overrides"]] == [
            ("行长", 4),
            ("GIF", 9),
        ]
    table = run("test", "重庆银行行长", "--lexicon", "bank").stdout
    assert "行长 → pinyin xing2 chang2" in table
    assert "on this machine" in table


def test_test_says_what_cannot_be_said(run: Callable[..., Result], file: Path) -> None:
    """What the engine refuses is an error of usage, with the reason."""
    for args, reason in [
        (("行长", "--file", file, "--voice", "en"), "Mandarin voice"),
        (("你好", "--lexicon", "none"), "there is no lexicon none"),
        (("你好", "--engine", "none"), "there is no engine 'none'"),
        (("你好", "--lexicon", "a", "--file", file), "give one of them"),
        (("。",), "nothing to speak"),
    ]:
        result = run("test", *args)
        assert result.exit_code not in (0, 3)
        assert reason in result.stderr
