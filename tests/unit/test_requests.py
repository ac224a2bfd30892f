"""What a request accepts, refuses, and says about it."""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_tasks import names, requests
from tts_tasks.errors import RequestError
from tts_tasks.formats import AUDIO_FORMATS
from tts_tasks.names import (
    MAX_ID_BYTES,
    MAX_OUTPUT_NAME_BYTES,
    safe_id,
    safe_output_name,
    safe_prompt_audio,
)
from tts_tasks.requests import MAX_PROMPT_TEXT_CHARS, MAX_TEXT_CHARS, SpeechRequest, parse_request


def _refusal(**fields: Any) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        parse_request({"text": "你好", **fields})
    return caught.value.field, caught.value.reason


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"text": None}, "text", "is missing"),
        ({"text": 5}, "text", "must be a string, not a number"),
        ({"text": b"abc"}, "text", "must be a string, not a Python bytes"),
        ({"text": "。！…🙂"}, "text", "holds no letter and no digit"),
        ({"text": ""}, "text", "holds no letter and no digit"),
        ({"text": "ab\x00c"}, "text", "control character U+0000 at character 3"),
        ({"text": "a\x1b[31m"}, "text", "control character U+001B at character 2"),
        ({"text": "It\x92s"}, "text", "control character U+0092 at character 3"),
        ({"text": "hi \ud83d"}, "text", "half of a surrogate pair (U+D83D) at character 4"),
        ({"text": "x" * (MAX_TEXT_CHARS + 1)}, "text", "is 2000001 characters long"),
        ({"prompt_text": "x" * (MAX_PROMPT_TEXT_CHARS + 1)}, "prompt_text", "at most 4000"),
        ({"prompt_text": "a\x07"}, "prompt_text", "control character U+0007"),
        ({"speed": "1.5"}, "speed", "must be a number, not a string"),
        ({"speed": True}, "speed", "must be a number, not true"),
        ({"speed": 9}, "speed", "must be at most 4.0; it is 9"),
        ({"speed": 0.1}, "speed", "must be at least 0.25; it is 0.1"),
        ({"speed": math.nan}, "speed", "must be a finite number"),
        ({"deadline_s": 0}, "deadline_s", "must be greater than 0.0; it is 0"),
        ({"deadline_s": "2s"}, "deadline_s", "must be a number, not a string"),
        ({"deadline_s": math.inf}, "deadline_s", "must be a finite number"),
        ({"seed": -1}, "seed", "must be at least 0; it is -1"),
        ({"seed": 2**32}, "seed", "must be at most 4294967295"),
        ({"seed": 10**5000}, "seed", "it is a very large number"),
        ({"seed": 1.5}, "seed", "must be a whole number, not 1.5"),
        ({"seed": False}, "seed", "must be a whole number, not False"),
        ({"sample_rate": "24000"}, "sample_rate", "must be a whole number, not '24000'"),
        ({"sample_rate": 24001}, "sample_rate", "24001 Hz is no rate of wav"),
        ({"sample_rate": 44100, "format": "opus"}, "sample_rate", "44100 Hz is no rate of opus"),
        ({"format": "WAV"}, "format", "must be one of wav, flac, mp3, opus, ogg; it is 'WAV'"),
        ({"voice": "../etc"}, "voice", "'../etc' is not a name"),
        ({"loudness_lufs": 3}, "loudness_lufs", "must be at most -5.0; it is 3"),
        ({"loudness_lufs": "-16"}, "loudness_lufs", "must be a number, not a string"),
        ({"peak_limit_dbfs": 1}, "peak_limit_dbfs", "must be at most 0.0; it is 1"),
        ({"fade_ms": -1}, "fade_ms", "must be at least 0.0; it is -1"),
        ({"sentence_pause_ms": 60_001}, "sentence_pause_ms", "must be at most 60000.0"),
        ({"subtitles": "srt"}, "subtitles", "must be a list, not a string"),
        ({"subtitles": ["ass"]}, "subtitles.0", "must be one of srt, vtt, json; it is 'ass'"),
        (
            {"stream": True, "loudness_lufs": -16},
            "stream",
            "has no place beside loudness_lufs",
        ),
        ({"voice": "a" * 129}, "voice", "is not a name"),
        ({"lexicon": "a b"}, "lexicon", "'a b' is not a name"),
        ({"model": "-rf"}, "model", "'-rf' is not a name"),
        ({"output_name": "../x"}, "output_name", "holds '..'"),
        ({"output_name": 7}, "output_name", "must be a string, not a number"),
        ({"prompt_audio": "/etc/passwd"}, "prompt_audio", "is an absolute path"),
        ({"requires": ["gpu"]}, "requires", "must be an object, not a list"),
        ({"requires": {"features": "clone"}}, "requires.features", "must be a list"),
        ({"requires": {"features": ["clone", 1]}}, "requires.features.1", "must be a string"),
        ({"requires": {"engine": "a/b"}}, "requires.engine", "is not a name"),
        ({"requires": {"langage": "zh"}}, "requires.langage", "did you mean 'language'?"),
        ({"voise": "x"}, "voise", "is no field of ours; did you mean 'voice'?"),
        ({"sample_rate_hz": 24000}, "sample_rate_hz", "did you mean 'sample_rate'?"),
    ],
)
def test_a_wrong_field_is_named_with_its_reason(
    fields: dict[str, Any], field: str, reason: str
) -> None:
    """Each wrong field is refused under its own name with a reason in plain words."""
    actual_field, actual_reason = _refusal(**fields)
    assert actual_field == field
    assert reason in actual_reason


def test_a_mistyped_field_is_named_before_the_one_it_leaves_missing() -> None:
    """`txt` instead of `text` is reported as the typing error it is."""
    with pytest.raises(RequestError) as caught:
        parse_request({"txt": "你好"})
    assert caught.value.field == "txt"
    assert "did you mean 'text'?" in caught.value.reason


def test_a_hostile_field_name_does_not_flood_the_message() -> None:
    """A field name of a megabyte or with control characters is shown short and printable."""
    for name in ("x" * 1_000_000, "a\x1b[2J", "\ud83d"):
        field, reason = _refusal(**{name: 1})
        assert len(field) < 100
        assert field.isprintable()
        assert len(reason) < 200


def test_what_documents_hold_as_white_space_is_accepted_in_text() -> None:
    """Tabs, line ends, form feeds and NEL come with real documents and stay."""
    text = "第一章\r\n\t内容\x0b\x0c下一页\x85完"
    assert parse_request({"text": text}).text == text


def test_the_longest_text_is_accepted() -> None:
    """A text of exactly the limit passes."""
    assert len(parse_request({"text": "啊" * MAX_TEXT_CHARS}).text) == MAX_TEXT_CHARS


def test_null_counts_as_not_given() -> None:
    """A null field takes its default, as if it were not there."""
    assert parse_request({"text": "a", "speed": None, "voice": None}) == SpeechRequest(text="a")


def test_a_whole_float_is_a_whole_number() -> None:
    """24000.0 is 24000: JSON has one number type."""
    request = parse_request({"text": "a", "sample_rate": 24000.0, "seed": 3.0, "speed": 1})
    assert (request.sample_rate, request.seed) == (24000, 3)


def test_a_request_survives_json() -> None:
    """A request read back from its JSON is the same request, its names included."""
    request = parse_request(
        {
            "text": "a",
            "output_name": "x/y.wav.mp3",
            "requires": {"features": ["clone"], "language": "zh"},
            "prompt_audio": "./v//a.wav",
        }
    )
    assert SpeechRequest.model_validate_json(request.model_dump_json()) == request
    assert SpeechRequest.model_validate(request.model_dump(mode="json")) == request


def test_the_sound_hash_ignores_what_does_not_sound() -> None:
    """Output name and requirements leave the hash alone; everything else that sounds changes it."""
    plain = SpeechRequest(text="你好")
    assert plain.sound_sha256() == SpeechRequest(text="你好", output_name="a").sound_sha256()
    assert plain.sound_sha256() == SpeechRequest(text="你好", deadline_s=2.5).sound_sha256()
    assert (
        plain.sound_sha256()
        == parse_request({"text": "你好", "requires": {"language": "zh"}}).sound_sha256()
    )
    others = [
        SpeechRequest(text="您好"),
        SpeechRequest(text="你好", voice="b"),
        SpeechRequest(text="你好", lexicon="b"),
        SpeechRequest(text="你好", speed=1.5),
        SpeechRequest(text="你好", format="mp3"),
        SpeechRequest(text="你好", sample_rate=16000),
        SpeechRequest(text="你好", seed=1),
        SpeechRequest(text="你好", prompt_text="b"),
        SpeechRequest(text="你好", prompt_audio="b.wav"),
        SpeechRequest(text="你好", model="b"),
    ]
    assert len({one.sound_sha256() for one in (plain, *others)}) == len(others) + 1


def test_the_sound_hash_stays_the_same_between_versions() -> None:
    """Artifacts of an earlier version are found again: this hash is part of their record."""
    request = SpeechRequest(text="你好", voice="xiaoyu", speed=1.25, sample_rate=24000)
    assert request.sound_sha256() == (
        "0297b03bcdfb91db600878005c0db8e69a482fe0474ea2deb961237a945f3b71"
    )


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("a", "a"),
        ("a.wav", "a"),
        ("a.WAV", "a"),
        ("a.wav.mp3", "a"),
        ("v1.2", "v1.2"),
        ("chapter1/005.flac", "chapter1/005"),
        ("第一章/开头", "第一章/开头"),
        ("e\u0301te\u0301", "été"),
        ("100%", "100%"),
        ("a b", "a b"),
        ("~root", "~root"),
        ("12:30", "12:30"),
        ("CON", "CON"),
    ],
)
def test_an_output_name_is_brought_to_one_form(given_name: str, name: str) -> None:
    """Audio suffixes go, Unicode is composed, anything else that is safe stays as it is."""
    assert safe_output_name(given_name) == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("/etc/passwd", "absolute"),
        ("C:/x", "absolute"),
        ("C:\\x", "backslash"),
        ("..", "'..'"),
        ("a/../../b", "'..'"),
        ("a\\..\\b", "backslash"),
        (".", "begins with a dot"),
        ("./a", "begins with a dot"),
        (".hidden", "begins with a dot"),
        ("a/.tts/b", "begins with a dot"),
        (".wav", "empty folder or file name"),
        ("a/.wav", "empty folder or file name"),
        ("a//b", "empty folder or file name"),
        ("a/", "empty folder or file name"),
        (" a", "white space"),
        ("a .wav", "white space"),
        ("a\nb", "U+000A"),
        ("a\x00b", "U+0000"),
        ("a\u202egpj", "U+202E"),
        ("a\ud800", "U+D800"),
        ("\ufeffa", "U+FEFF"),
        ("a.wav/b", "named like an audio file"),
        ("x" * (MAX_OUTPUT_NAME_BYTES + 1), "181 bytes"),
        ("啊" * 61, "183 bytes"),
    ],
)
def test_an_unsafe_output_name_is_refused(name: str, reason: str) -> None:
    """Whatever could leave the prefix, hide, or pass for another name is refused."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        safe_output_name(name)


def test_case_keeps_names_apart() -> None:
    """Upper and lower case are different names, as on Linux and in S3."""
    assert safe_output_name("A") != safe_output_name("a")


_name_pieces = st.sampled_from(
    ["a", "B", ".", "/", " ", "é", "e\u0301", "啊", ".wav", ".MP3", "..", "\\"]
)
_names = st.lists(_name_pieces, max_size=12).map("".join) | st.text(max_size=40)


@given(_names)
def test_an_accepted_output_name_is_stable_and_stays_inside(value: str) -> None:
    """What is accepted is relative, visible, composed, short, and the same when checked again."""
    try:
        name = safe_output_name(value)
    except ValueError:
        return
    assert safe_output_name(name) == name
    assert unicodedata.is_normalized("NFC", name)
    assert len(name.encode()) <= MAX_OUTPUT_NAME_BYTES
    assert not any(part.startswith(".") or not part.strip() for part in name.split("/"))
    assert not name.lower().endswith(tuple(f".{suffix}" for suffix in AUDIO_FORMATS))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("https://example.org/a.wav", "is a URL"),
        ("file:///etc/passwd", "is a URL"),
        ("data:audio/wav;base64,AAAA", "is a URL"),
        ("/etc/passwd", "absolute"),
        ("D:/a.wav", "absolute"),
        ("voices/../../a.wav", "'..'"),
        ("voices\\a.wav", "backslash"),
        ("a\x00.wav", "U+0000"),
        (".", "a folder"),
        ("", "is empty"),
        ("a" * 1025, "1025 bytes"),
    ],
)
def test_a_reference_audio_path_stays_below_the_batch(path: str, reason: str) -> None:
    """URLs, absolute paths and ways out of the folder are refused."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        safe_prompt_audio(path)


def test_a_reference_audio_path_is_collapsed_but_keeps_its_spelling() -> None:
    """`.` parts and doubled slashes go; the Unicode form on disk is not touched."""
    assert safe_prompt_audio("./voices//e\u0301.wav") == "voices/e\u0301.wav"


@pytest.mark.parametrize(
    ("job_id", "reason"),
    [
        (" ", "is empty"),
        ("a\n", "'\\n' at character 2"),
        ("a{b}", "'{' at character 2"),
        (" a", "white space"),
        ("\udc00", "at character 1"),
        ("x" * (MAX_ID_BYTES + 1), "181 bytes"),
    ],
)
def test_an_id_that_breaks_keys_or_logs_is_refused(job_id: str, reason: str) -> None:
    """Ids hold no control characters, braces, half surrogates or outer white space."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        safe_id(job_id)


def test_a_plain_id_is_kept_as_it_is() -> None:
    """Chinese, slashes and dots are welcome in ids."""
    assert safe_id("广播/2026.11#5") == "广播/2026.11#5"


# -- short ways ------------------------------------------------------------------------------------

_NEVER = re.compile("(?!)")


@given(st.text("aB9-_/.: \\\n中e\u0301", max_size=12) | st.sampled_from(["a" * 180, "a" * 181]))
def test_a_plain_output_name_is_answered_as_the_long_way_answers(value: str) -> None:
    """What is recognised at a glance is exactly what the full check leaves as it is."""

    def answer() -> str:
        try:
            return safe_output_name(value)
        except ValueError as error:
            return f"refused: {error}"

    quick = answer()
    with mock.patch.object(names, "_PLAIN_OUTPUT_NAME", _NEVER):
        assert answer() == quick


def test_something_to_speak_is_a_letter_or_a_digit_of_any_script() -> None:
    """The pattern says of every character what `str.isalnum` says."""
    speakable = [char for char in map(chr, range(sys.maxunicode + 1)) if char.isalnum()]
    found = requests._SPEAKABLE.findall("".join(map(chr, range(sys.maxunicode + 1))))
    assert found == speakable


def test_fields_of_audio_out_count_for_the_sound_only_where_they_are_used() -> None:
    """Requests that do not name them keep the hash that their artifacts were published under."""
    plain = SpeechRequest(text="你好", voice="zh", speed=1.5, format="mp3")
    assert plain.sound_sha256() == (
        "c06623a4c8e54dff50cc5cbd521e91c32c2c486d67b81406fb8de159d1df8483"
    )
    given: list[dict[str, Any]] = [
        {"loudness_lufs": -16.0},
        {"peak_limit_dbfs": -3.0},
        {"gain_db": 2.0},
        {"trim_silence": True},
        {"fade_ms": 5.0},
        {"sentence_pause_ms": 0.0},
        {"paragraph_pause_ms": 0.0},
        {"subtitles": ["srt"]},
    ]
    changed = {parse_request({"text": "你好", **fields}).sound_sha256() for fields in given}
    assert len(changed | {SpeechRequest(text="你好").sound_sha256()}) == len(given) + 1
    both = [
        parse_request({"text": "你好", "subtitles": kinds})
        for kinds in (["vtt", "srt"], ("srt", "vtt", "srt"))
    ]
    assert both[0] == both[1]
