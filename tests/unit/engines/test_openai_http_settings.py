"""Settings of the engine openai_http: wrong ones are named at once."""

from __future__ import annotations

import pytest

from tts_tasks.errors import ConfigurationError
from tts_workers.engines.openai_http import OpenAIHttpEngine, OpenAIHttpSettings

URL = "http://127.0.0.1:8091"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "TTS_OPENAI_HTTP_URL: is not set"),
        ({"URL": "127.0.0.1:8091"}, "URL: must begin with http"),
        ({"URL": "http://user:pw@host/v1"}, "URL: must hold no credentials"),
        ({"URL": f"{URL}?a=b"}, "URL: must hold neither"),
        ({"URL": "http://127.0.0.1:{port}"}, "free port, which only a server started by"),
        ({"URL": "http://127.0.0.1:{port}", "COMMAND": "serve"}, "COMMAND: must hold {port}"),
        ({"URL": URL, "COMMAND": "serve 'x"}, "COMMAND: cannot be taken apart"),
        ({"URL": URL, "VOICES": "anna"}, "'anna': must be name=server's name"),
        ({"URL": URL, "VOICES": "a=b,a=c"}, "each name once"),
        ({"URL": URL, "LANGUAGES": " , "}, "LANGUAGES: must name at least one"),
        ({"URL": URL, "EXTRA_FIELDS": "{"}, "EXTRA_FIELDS: is not JSON"),
        ({"URL": URL, "EXTRA_FIELDS": "[1]"}, "EXTRA_FIELDS: must be a JSON object"),
        ({"URL": URL, "EXTRA_FIELDS": '{"input": "x"}'}, "must not hold input"),
        ({"URL": URL, "READY_PATH": "health"}, "READY_PATH: must begin with /"),
        ({"URL": URL, "RESPONSE_FORMAT": "mp3"}, "RESPONSE_FORMAT: "),
        ({"URL": URL, "CONCURRENCY": "0"}, "CONCURRENCY: "),
        ({"URL": URL, "VOICE_AUDIO": "x.wav"}, "VOICE_AUDIO: needs TTS_OPENAI_HTTP_CLONE=1"),
        ({"URL": URL, "EMOTION": "1"}, "EMOTION: needs TTS_OPENAI_HTTP_CLONE=1"),
    ],
)
def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    """With its variable and what it should be; the engine is not made."""
    for name, value in variables.items():
        monkeypatch.setenv(f"TTS_OPENAI_HTTP_{name}", value)
    with pytest.raises(ConfigurationError) as raised:
        OpenAIHttpEngine()
    assert words in str(raised.value)
    assert "pw" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        (URL, f"{URL}/v1"),
        (f"{URL}/", f"{URL}/v1"),
        (f"{URL}/v1/", f"{URL}/v1"),
        ("https://speech.example/api/v1", "https://speech.example/api/v1"),
    ],
)
def test_a_url_without_a_path_is_that_of_the_interface(url: str, base: str) -> None:
    """As OpenAI's own client has it; one with a path is kept."""
    assert OpenAIHttpSettings(url=url).base_url(0) == base


def test_the_port_is_put_into_each_argument() -> None:
    """Without a shell: what a shell would do something with stays as it is."""
    settings = OpenAIHttpSettings(
        url="http://127.0.0.1:{port}", command="serve --port={port} '$HOME; rm -rf x' --at :{port}"
    )
    assert settings.arguments(7) == ["serve", "--port=7", "$HOME; rm -rf x", "--at", ":7"]
    assert settings.base_url(7) == "http://127.0.0.1:7/v1"
